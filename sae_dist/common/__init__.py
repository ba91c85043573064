"""What every room may use: errors, atomic files, dtypes, seeds, logging."""
