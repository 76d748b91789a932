"""The same probes on objects that a training script has already built."""
