"""What the libraries warn of while the doctor looks on: Python warnings and log records, each once."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_LOGGERS = ("transformers", "peft", "accelerate", "trl", "bitsandbytes", "torch")
_LENGTH, _COUNT = 300, 50


class Overhearing:
    """Collects warnings from now on until it is closed; they go on to where they would have gone.

    Attributes:
        heard: each once, in their order.

    Args:
        failed: is called with a failure of the listening itself, which reaches nobody else.
    """

    def __init__(self, failed: Callable[[Exception], None] = lambda error: None) -> None:
        self.heard: list[str] = []
        self._handler = _Collector(self.heard, failed)
        self._loggers = [logging.getLogger(name) for name in _LOGGERS]
        for logger in self._loggers:
            logger.addHandler(self._handler)
        previous = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *args: Any, **kwargs: Any) -> None:
            try:
                if not issubclass(category, DeprecationWarning | FutureWarning | PendingDeprecationWarning):
                    _add(self.heard, str(message))
            except Exception as error:  # a category or a message of any kind
                failed(error)
            previous(message, category, *args, **kwargs)

        self._previous, self._show = previous, show
        warnings.showwarning = show

    def close(self) -> None:
        """Stop listening; who has put another ``showwarning`` on top since then keeps it."""
        for logger in self._loggers:
            logger.removeHandler(self._handler)
        if warnings.showwarning is self._show:
            warnings.showwarning = self._previous


@contextmanager
def overheard() -> Iterator[list[str]]:
    """Collect warnings of a block into the list; they go on to where they would have gone."""
    with warnings.catch_warnings():
        listening = Overhearing()
        try:
            yield listening.heard
        finally:
            listening.close()


class _Collector(logging.Handler):
    def __init__(self, heard: list[str], failed: Callable[[Exception], None]) -> None:
        super().__init__(logging.WARNING)
        self._heard, self._failed = heard, failed

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
        except Exception:  # a record whose arguments do not fit: for who handles it to complain
            return
        try:
            _add(self._heard, text)
            # A record that no handler wants is printed by the one of last resort, and this one is no answer to it.
            if logging.lastResort is not None and not _is_handled(record):
                logging.lastResort.handle(record)
        except Exception as error:
            self._failed(error)


def _is_handled(record: logging.LogRecord) -> bool:
    """Whether a handler other than these hears the record, as ``Logger.callHandlers`` goes through them."""
    logger: logging.Logger | None = logging.getLogger(record.name)
    while logger is not None:
        if any(not isinstance(handler, _Collector) for handler in logger.handlers):
            return True
        logger = logger.parent if logger.propagate else None
    return False


def _add(heard: list[str], text: str) -> None:
    line = " ".join(text.split())
    line = line if len(line) <= _LENGTH else line[: _LENGTH - 1] + "…"
    if line and line not in heard and len(heard) < _COUNT:
        heard.append(line)
