"""What a config means, whatever dialect it was written in."""
