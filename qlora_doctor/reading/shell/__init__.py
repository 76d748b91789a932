"""Shell scripts, read and never run: words, blocks, and what their commands are given."""

from .script import MOST_SCRIPT, Command, Script, Word, read_script

__all__ = ["MOST_SCRIPT", "Command", "Script", "Word", "read_script"]
