"""Stage ``step``: two steps of the user's trainer, seen before and after."""
