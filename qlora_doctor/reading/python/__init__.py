"""Python read as text: what a training script would build, without running a line of it."""
