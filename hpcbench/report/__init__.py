"""What people look at: the ranking, plots and the report."""
