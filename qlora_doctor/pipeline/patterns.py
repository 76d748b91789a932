"""Regular expressions of an adapter, tried in a process of its own first: one that backtracks for ever stops it alone.

PEFT matches ``target_modules`` and ``exclude_modules`` that are texts with ``re.fullmatch`` against the name of every
module (peft 0.21, ``tuners_utils.check_target_module_exists``), the entries of ``modules_to_save``, ``layers_pattern``
and ``rank_pattern`` as parts of patterns; transformers does so with ``llm_int8_skip_modules``
(``quantizers/quantizers_utils.should_convert_module``).
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

SECONDS = 10.0
"""What the names of one model may take. An ordinary pattern takes milliseconds."""
_REPEATS = re.compile(r"[*+{]")
_REPEATED_GROUP = re.compile(r"\)[*+{]")
_MANY_CHOICES = 8
_TRY = """
import json, re, sys
pattern, names = json.load(sys.stdin)
try:
    compiled = re.compile(pattern)
except re.error:
    sys.exit()
for name in names:
    compiled.fullmatch(name)
"""


class PatternWithoutEnd(ValueError):
    """A pattern that is not done with a model's names in :data:`SECONDS`."""


def check_patterns(config: Any, names: Iterable[str]) -> None:
    """Try the patterns of a LoraConfig or BitsAndBytesConfig on the names of a model's modules.

    Raises:
        PatternWithoutEnd: one of them backtracks without end.
    """
    tried = list(names)
    for key, pattern, written in _patterns(config):
        if not _may_backtrack(written):
            continue
        try:
            subprocess.run(
                [sys.executable, "-I", "-S", "-c", _TRY],
                input=json.dumps([pattern, tried]),
                text=True,
                timeout=SECONDS,
                check=False,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            raise PatternWithoutEnd(
                f"{key} {written!r} backtracks without end: matching it against the names of {len(tried)} modules was "
                f"stopped after {SECONDS:.0f} seconds."
            ) from None


def _may_backtrack(pattern: str) -> bool:
    """False where a match takes steps in proportion to the name: one repetition, and of no group with a choice."""
    if len(_REPEATS.findall(pattern)) > 1 or pattern.count("?") > _MANY_CHOICES:
        return True
    return _REPEATED_GROUP.search(pattern) is not None and ("|" in pattern or "?" in pattern)


def _patterns(config: Any) -> Iterable[tuple[str, str, str]]:
    """(key, the pattern as PEFT matches it, the part that the user wrote)."""
    for key in ("target_modules", "exclude_modules"):
        value = getattr(config, key, None)
        if isinstance(value, str):
            yield key, value, value
    for entry in getattr(config, "modules_to_save", None) or []:
        yield "modules_to_save", rf"(^|.*\.){entry}($|\..*)", entry
    layers = getattr(config, "layers_pattern", None)
    for entry in [layers] if isinstance(layers, str) else layers or []:
        yield "layers_pattern", rf"(?:^|.*?\.){entry}\.(?P<idx>\d+)\..*", entry
    for key in ("rank_pattern", "alpha_pattern"):
        for entry in getattr(config, key, None) or {}:
            yield key, rf"(.*\.)?({entry})$", entry
    for entry in getattr(config, "llm_int8_skip_modules", None) or []:
        yield "llm_int8_skip_modules", rf"{entry}\..*", entry
