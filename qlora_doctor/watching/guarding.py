"""Whatever fails inside the tool is caught and reported in one line, and the training goes on."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


def told(error: BaseException) -> str:
    """An exception in one line of bearable length."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


class StopTraining(SystemExit):
    """Ends a training that was asked to end: no failure, and no ``except Exception`` takes it for one."""


@dataclass
class Guard:
    """Wraps the hooks of one training.

    Attributes:
        troubles: what failed, one sentence each.
        broken: True once something failed: every hook then does nothing.
    """

    on_failure: Callable[[], None] = lambda: None
    troubles: list[str] = field(default_factory=list)
    broken: bool = False

    def __call__(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        """The same hook, which never raises and never answers: torch takes an answer for another input or output."""

        @functools.wraps(hook)
        def guarded(*args: Any, **kwargs: Any) -> None:
            if self.broken:
                return
            try:
                hook(*args, **kwargs)
            except StopTraining:
                raise
            except Exception as error:
                self.fail(error, getattr(hook, "__name__", "a hook").strip("_"))

        return guarded

    def fail(self, error: BaseException, doing: str) -> None:
        """Note a failure of the tool's own; from now on it only looks away."""
        self.broken = True
        what = " ".join(str(error).split())[:200]
        self.tell(f"The watching ended early ({doing}): {type(error).__name__}{': ' + what if what else ''}.")
        try:
            self.on_failure()
        except Exception as second:  # nothing more can be done than to say so
            self.troubles.append(f"Ending it failed too: {type(second).__name__}.")

    def tell(self, sentence: str) -> None:
        """One line on stderr, and a sentence in the report."""
        if sentence not in self.troubles:
            self.troubles.append(sentence)
            say(sentence)


def say(sentence: str) -> None:
    """One line on stderr; a stderr that is closed is no reason to fail."""
    try:
        sys.stderr.write(f"qlora-doctor: {sentence}\n")
    except (OSError, ValueError, AttributeError):
        return
