"""Errors that a user reads as one sentence, with the place and the remedy."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .place import Place

NEW_ISSUE = "Please report it with `qlora-doctor env` and the output of the same command with --debug."


class DoctorError(Exception):
    """Something that ends a command or a stage.

    Attributes:
        message: what is wrong, one sentence.
        remedy: what to do about it, one sentence or command; None where there is nothing to say.
        place: where in the user's file, where that is known.
    """

    exit_code = 3

    def __init__(self, message: str, *, remedy: str | None = None, place: Place | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.place = place


class UsageError(DoctorError):
    """The command cannot be carried out as it was given (exit code 2)."""

    exit_code = 2


class ConfigError(UsageError):
    """The config cannot be read or is invalid (exit code 2)."""


class Fault(DoctorError):
    """A fault of the tool itself, met on one config: the others are checked all the same (exit code 3)."""

    @classmethod
    def of(cls, error: Exception, subject: object) -> Fault:
        """What is said of an exception that nobody foresaw."""
        what = " ".join(str(error).split())[:200]
        name = type(error).__name__
        return cls(f"qlora-doctor failed on {subject}: {name}{': ' + what if what else ''}.", remedy=NEW_ISSUE)


class StageError(DoctorError):
    """A stage could not be completed (exit code 3 where it was asked for by name).

    Attributes:
        kind: one of the kinds of ``facts.load.LoadFailure``.
    """

    def __init__(
        self, message: str, *, kind: str = "other", remedy: str | None = None, place: Place | None = None
    ) -> None:
        super().__init__(message, remedy=remedy, place=place)
        self.kind = kind
