"""What a config means on this machine: conclusions from Setup and environment, nothing heavy."""
