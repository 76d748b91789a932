"""Where something stands in a user's file: the one class of places, from the reader to the report."""

from ..facts.base import Fact


class Place(Fact):
    """A place in the user's file; lines and columns count from 1, columns in Unicode characters."""

    file: str | None = None
    pointer: str | None = None
    """JSON pointer of the key, as the user wrote it."""
    line: int | None = None
    column: int | None = None
    end_line: int | None = None
    end_column: int | None = None
    cell: int | None = None
    """In a notebook: the cell, from 1, of all its cells."""
    excerpt: str | None = None
    """The text of ``line`` as it stands in the file, so that a report needs no file to be read again."""
