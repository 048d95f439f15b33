"""`report.html`: the whole answer in one file that needs no network."""
