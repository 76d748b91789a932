"""Data about the world: cards, architectures, trainers' keys, signatures, conditions on the machine."""
