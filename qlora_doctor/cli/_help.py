"""The end of each command's ``--help``."""

from __future__ import annotations


def examples(*commands: str) -> str:
    """Commands to copy, one a line; click leaves a paragraph as it is that begins with a backspace."""
    return "\b\nExamples:\n" + "\n".join(f"  qlora-doctor {command}" for command in commands)
