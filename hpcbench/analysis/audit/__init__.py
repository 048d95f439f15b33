"""The audit: one pure function for each rule, a table of the rules, and who applies them."""
