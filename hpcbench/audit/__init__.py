"""The audit: rules that judge records, rankings and tables, and the findings they make."""
