"""Which step of the data's preparation left no row: learned from ``datasets`` itself, for nothing of it shows later."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..core.labels import IGNORED
from ..facts.run import Emptied

_LOOKED_AT = 64


class EmptiedRows:
    """Notes each call of ``Dataset.filter`` and ``Dataset.map`` that is given rows and answers none."""

    def __init__(self, guard: Callable[[Exception], None]) -> None:
        self.noted: list[tuple[Any, Emptied]] = []
        """What each such call answered by its fingerprint, and what is known of the call."""
        self._guard, self._depth = guard, 0

    def put_on(self, module: Any) -> None:
        """Wrap both, in ``datasets.arrow_dataset``."""
        import wrapt

        for name in ("filter", "map"):
            wrapt.wrap_function_wrapper(module, f"Dataset.{name}", self._called)

    def _called(self, wrapped: Any, dataset: Any, args: Any, kwargs: Any) -> Any:
        self._depth += 1
        try:
            result = wrapped(*args, **kwargs)
        finally:
            self._depth -= 1
        try:
            if not self._depth and len(result) == 0 < len(dataset):  # a filter maps: the outermost call counts
                self.noted.append((getattr(result, "_fingerprint", None), _call(wrapped, dataset, args, kwargs)))
        except Exception as error:
            self._guard(error)
        return result

    def of(self, dataset: Any) -> Emptied | None:
        """The call that left a data set empty, or any where none is known to be its own."""
        own = getattr(dataset, "_fingerprint", None)
        found = [emptied for mark, emptied in self.noted if mark == own] or [emptied for _, emptied in self.noted]
        return found[-1] if found else None


def _call(wrapped: Any, dataset: Any, args: Any, kwargs: Any) -> Emptied:
    function = args[0] if args else kwargs.get("function")
    code = getattr(function, "__code__", None)
    module = str(getattr(function, "__module__", None) or "")
    place = module
    if module in ("", "__main__") and code is not None:
        place = f"{Path(code.co_filename).name}, line {code.co_firstlineno}"
    said = kwargs.get("desc")
    by = f"{wrapped.__name__} in {place or 'the program'}" + (f" ({said})" if isinstance(said, str) else "")
    return Emptied(rows=len(dataset), by=by, reason=_reason(dataset))


def _reason(dataset: Any) -> str | None:
    """What holds of all of the first rows that went in."""
    columns = set(dataset.column_names)
    if not {"input_ids", "labels"} <= columns:
        return None
    rows = dataset.with_format(None)[:_LOOKED_AT]
    if not all(isinstance(labels, list) for labels in rows["labels"]):  # classes
        return None
    if any(label != IGNORED for labels in rows["labels"] for label in labels):
        return None
    lengths = {len(ids) for ids in rows["input_ids"]}
    at = f"its first {lengths.pop()} tokens" if len(lengths) == 1 else "it"
    return f"no row has a label that counts in {at}"
