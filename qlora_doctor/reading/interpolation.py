"""OmegaConf's ``${key}`` within one file: what it refers to, without OmegaConf.

Absolute (``${model.rank}``, ``${datasets.0.path}`` or ``${datasets[0].path}``) and relative (``${.rank}``,
``${..seed}``) references, alone or inside a text. Resolvers (``${oc.env:HOME}``), missing keys and circles stay as they
are written, to be called unknown by who reads them.
"""

from __future__ import annotations

import re
from typing import Any

_REFERENCE = re.compile(r"\$\{(\.*)([\w\-]+(?:(?:\.[\w\-]+)|(?:\[[\w\-]+\]))*)\}")
_DEEPEST = 16
_LONGEST = 4096


def interpolated(data: Any) -> Any:
    """The data with each reference that can be followed in its place; the data itself where there is none."""
    return _Resolver(data).walk(data, ())


class _Resolver:
    def __init__(self, root: Any) -> None:
        self.root = root

    def walk(self, value: Any, path: tuple[Any, ...]) -> Any:
        if isinstance(value, dict):
            found = {key: self.walk(inner, (*path, key)) for key, inner in value.items()}
            return value if all(found[key] is value[key] for key in value) else found
        if isinstance(value, list):
            listed = [self.walk(inner, (*path, index)) for index, inner in enumerate(value)]
            return value if all(new is old for new, old in zip(listed, value, strict=True)) else listed
        return self.text(value, path, _DEEPEST) if isinstance(value, str) and "${" in value else value

    def text(self, value: str, path: tuple[Any, ...], left: int) -> Any:
        whole = _REFERENCE.fullmatch(value)
        if whole is not None:
            found = self.follow(whole, path, left)
            return value if found is None else found

        def put(reference: re.Match[str]) -> str:
            found = self.follow(reference, path, left)
            return reference[0] if found is None or isinstance(found, dict | list) else _shown(found)

        text = _REFERENCE.sub(put, value)
        return text if len(text) <= _LONGEST else value

    def follow(self, reference: re.Match[str], path: tuple[Any, ...], left: int) -> Any:
        """What a reference leads to; None where that is nothing, or another reference that cannot be followed."""
        dots, steps = len(reference[1]), re.findall(r"[\w\-]+", reference[2])
        place = path[: max(0, len(path) - dots)] if dots else ()
        value = self.root
        for step in (*place, *steps):
            if isinstance(value, dict) and step in value:
                value = value[step]
            elif isinstance(value, list) and str(step).isdigit() and int(step) < len(value):
                value = value[int(step)]
            else:
                return None
        if isinstance(value, str) and "${" in value:
            if left <= 0:
                return None
            value = self.text(value, (*place, *steps), left - 1)
            return None if isinstance(value, str) and "${" in value else value
        return value


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
