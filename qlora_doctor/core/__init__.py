"""What every room knows: the report, errors, places, files."""
