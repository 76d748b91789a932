"""Which 4-bit kernel bitsandbytes takes on a card, asked of the installed bitsandbytes itself.

The rule is a pure function, but its module binds a CUDA library when it is imported. So the function is taken out of
the module's source by name, and compares names of types; where it is not found, the answer is the one that takes more
memory.
"""

from __future__ import annotations

import ast
import functools
from bisect import bisect_right
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

RULE = "_gemm_4bit_use_custom_cuda"
FLOOR = "_GEMM_4BIT_CUSTOM_FLOOR_M"
CUSTOM_MAX_TOKENS = 1536
"""Tokens above which bitsandbytes dequantizes the whole weight on every card (``_gemm_4bit_custom_max_m``, 0.50)."""


def uses_custom_kernel(
    capability: tuple[int, int], multiprocessors: int, tokens: int, n: int, k: int, blocksize: int, dtype: str
) -> bool:
    """Whether a (tokens × k) · (k × n) product runs bitsandbytes' own kernel, which takes no scratch memory.

    ``dtype`` is the name of a torch type: ``bfloat16``, ``float16``, ``float32``.

    Source: ``bitsandbytes/backends/cuda/ops.py`` (``gemm_4bit``), 0.50 and later.
    """
    if tokens > CUSTOM_MAX_TOKENS or k % blocksize:
        return False
    if not _is_installed():
        return _shipped(capability, multiprocessors, tokens, n, k, dtype)
    rule = _rule(capability, multiprocessors)
    return rule is not None and bool(rule(0, dtype, tokens, n, k))


def _shipped(capability: tuple[int, int], multiprocessors: int, tokens: int, n: int, k: int, dtype: str) -> bool:
    """The same of the bitsandbytes whose traces come with the package (``tables.traces``), for its bases' shapes."""
    flips = _shipped_flips().get((dtype, *capability, multiprocessors, n, k))
    return flips is not None and bisect_right(flips, tokens) % 2 == 0


@functools.cache
def _shipped_flips() -> dict[tuple[Any, ...], list[int]]:
    from ..tables.traces import index

    gemm = index()["gemm"]
    return {
        (dtype, *kind, *shape): flips
        for dtype, rows in gemm["flips"].items()
        for kind, row in zip(gemm["kinds"], rows, strict=True)
        for shape, flips in zip(gemm["shapes"], row, strict=True)
    }


@functools.cache
def _is_installed() -> bool:
    return find_spec("bitsandbytes") is not None


@functools.cache
def _rule(capability: tuple[int, int], multiprocessors: int) -> Callable[..., Any] | None:
    wanted = _definitions()
    if wanted is None or not multiprocessors:
        return None
    space: dict[str, Any] = {
        "functools": functools,
        "torch": SimpleNamespace(**{name: name for name in ("float32", "float16", "bfloat16")}),
        "_gpu_dispatch_props": lambda _: (multiprocessors, *capability),
    }
    exec(compile(wanted, "bitsandbytes", "exec"), space)
    return space[RULE]  # type: ignore[no-any-return]


@functools.cache
def _definitions() -> ast.Module | None:
    spec = find_spec("bitsandbytes")
    if spec is None or spec.origin is None:
        return None
    source = Path(spec.origin).parent / "backends" / "cuda" / "ops.py"
    if not source.is_file():
        return None
    found: list[ast.stmt] = []
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        is_rule = isinstance(node, ast.FunctionDef) and node.name == RULE
        is_floor = isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == FLOOR for target in node.targets
        )
        if is_rule or is_floor:
            found.append(node)
    found.sort(key=lambda node: isinstance(node, ast.FunctionDef))
    return ast.Module(body=found, type_ignores=[]) if len(found) == 2 else None
