"""Stage ``structure``: the model on the meta device, or the same look at live objects."""

from .look import StructureSeen, look_at_structure

__all__ = ["StructureSeen", "look_at_structure"]
