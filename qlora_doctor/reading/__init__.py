"""A config file, in any dialect → a Setup."""

from ..setup.setup import Setup
from .dialects import read_setup

__all__ = ["Setup", "read_setup"]
