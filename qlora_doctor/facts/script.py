"""What the installed libraries say to a script's own imports and calls (stage ``structure``)."""

from .base import Fact


class FailingImport(Fact):
    """A name that the script imports and the installed library does not have."""

    key: str
    """Where the place of the statement is kept: ``imports.trl.ConstantLengthDataset``."""
    module: str
    name: str | None = None
    """None where the module itself is missing."""
    version: str | None = None
    """Of the library, as installed."""
    exception: str = "ImportError"
    now: str | None = None
    """What takes its place, where that is known."""


class RefusedCall(Fact):
    """A call of a library's class, with the script's own arguments, that raises."""

    key: str
    maker: str
    """The class, or ``from_pretrained``."""
    arguments: list[str]
    """Without any one of these it does not raise; all that were passed where that is so of none."""
    exception: str
    message: str


class ScriptFacts(Fact):
    """What became of the script's imports and calls; None where it was not tried, ``[]`` where none fails.

    Tried is what the script surely does, outside of ``try``, with arguments that are all known or of which one alone is
    refused, under the versions that are installed; a library of which the project pins another version is left out.
    """

    failing_imports: list[FailingImport] | None = None
    refused_calls: list[RefusedCall] | None = None
