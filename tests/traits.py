"""The traits of a dialect's trainer by its name, for a Setup that is made by hand."""

from __future__ import annotations

from qlora_doctor.reading.dialects import dialect_named
from qlora_doctor.setup.traits import Traits


def traits_of(dialect: str) -> Traits:
    """Those that its reader gives to a Setup; a shell script's are those of the trainer that it starts."""
    return dialect_named(dialect.removeprefix("shell-")).TRAITS
