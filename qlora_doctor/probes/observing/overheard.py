"""What the libraries warn of while the doctor looks on: Python warnings and log records, each once."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_LOGGERS = ("transformers", "peft", "accelerate", "trl", "bitsandbytes", "torch")
_LENGTH, _COUNT = 300, 50


@contextmanager
def overheard() -> Iterator[list[str]]:
    """Collect warnings of a block into the list; they go on to where they would have gone."""
    heard: list[str] = []
    handler = _Collector(heard)
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        with warnings.catch_warnings():
            previous = warnings.showwarning

            def show(message: Warning | str, category: type[Warning], *args: Any, **kwargs: Any) -> None:
                if not issubclass(category, DeprecationWarning | FutureWarning | PendingDeprecationWarning):
                    _add(heard, str(message))
                previous(message, category, *args, **kwargs)

            warnings.showwarning = show
            yield heard
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


class _Collector(logging.Handler):
    def __init__(self, heard: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        _add(self._heard, record.getMessage())


def _add(heard: list[str], text: str) -> None:
    line = " ".join(text.split())
    line = line if len(line) <= _LENGTH else line[: _LENGTH - 1] + "…"
    if line and line not in heard and len(heard) < _COUNT:
        heard.append(line)
