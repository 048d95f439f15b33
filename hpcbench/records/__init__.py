"""What runs leave behind: events, the files they stand in, and the ledger of a sweep."""
