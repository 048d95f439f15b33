"""From records to tables, statistics and findings. Pure functions over data frames."""
