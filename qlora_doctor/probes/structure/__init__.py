"""Stage ``structure``: the model on the meta device, or the same look at live objects."""
