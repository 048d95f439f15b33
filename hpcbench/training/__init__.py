"""What a rank does: join the run, read data, train, measure, record."""
