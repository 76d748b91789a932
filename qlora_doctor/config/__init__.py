"""A config file, in any dialect → a Setup."""

from .dialects import read_setup
from .setup import Setup

__all__ = ["Setup", "read_setup"]
