"""What an adapter learned: ΔW of each module by its norm and its singular values, out of the two small factors alone.

The squares of the singular values of B·A are the eigenvalues of (BᵀB)(AAᵀ), which are r × r: nothing of the size of W
is ever made. The effective rank is exp of the entropy of the singular values' shares (Roy and Vetterli,
"The effective rank", EUSIPCO 2007).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from ...facts.stored import LearnedModule
from .names import place, stack

_OUTLIER = 6.0
"""Standard deviations of the logarithm, among the same projection of other layers, beyond which a norm stands out."""
_FEWEST = 6
"""Layers below which nobody can tell an outlier."""


@dataclass(frozen=True)
class Factor:
    """What is kept of lora_A or lora_B: of its numbers nothing but what follows.

    Attributes:
        gram: rank × rank, float64: A·Aᵀ of lora_A, Bᵀ·B of lora_B.
        zero: every number is exactly zero.
    """

    gram: Any
    zero: bool


def factor(matrix: Any) -> Factor | None:
    """Of a matrix of rank × anything (lora_B is given turned); None where a number is not finite."""
    import numpy as np

    matrix = matrix.reshape(matrix.shape[0], -1)
    with np.errstate(all="ignore"):  # what is not finite is seen below
        gram = (matrix @ matrix.T).astype(np.float64)
        if not math.isfinite(gram.sum()):
            wide = matrix.astype(np.float64)  # large numbers have squares beyond float32
            gram = wide @ wide.T
            if not math.isfinite(gram.sum()):
                return None
    return Factor(gram, zero=not gram.trace() and not np.any(matrix))


def learned_module(module: str, a: Factor, b: Factor, scaling: float) -> LearnedModule:
    """What a pair of factors does."""
    import numpy as np

    rank = len(a.gram)
    layer, projection = place(module)
    try:
        root = np.linalg.cholesky(b.gram)
    except np.linalg.LinAlgError:  # rows of B that depend on one another
        values, vectors = np.linalg.eigh(b.gram)
        root = vectors * np.sqrt(np.clip(values, 0, None))
    squares = np.clip(np.linalg.eigvalsh(root.T @ a.gram @ root), 0, None)
    norm = abs(scaling) * math.sqrt(float(squares.sum()))
    zero = a.zero or b.zero or scaling == 0
    return LearnedModule(
        module=module, layer=layer, projection=projection, rank=rank, scaling=scaling, norm=norm, zero=zero,
        effective_rank=None if zero or norm == 0 else _effective(np.sqrt(squares)),
    )  # fmt: skip


def _effective(singular: Any) -> float:
    import numpy as np

    shares = singular / singular.sum()
    shares = shares[shares > 1e-12]
    return float(math.exp(-float((shares * np.log(shares)).sum())))


def learned_facts(learned: Sequence[LearnedModule]) -> dict[str, Any]:
    """What all modules together say."""
    if not learned:
        return {}
    zero = [each for each in learned if each.zero]
    stacks = Counter(stack(each.module) for each in learned if each.layer is not None)
    largest = [each for each in learned if each.layer is not None and stack(each.module) == stacks.most_common(1)[0][0]]
    ranks = [each.effective_rank for each in learned if each.effective_rank is not None]
    used = [each.effective_rank / each.rank for each in learned if each.effective_rank is not None]
    all_zero = len(zero) == len(learned)
    return {
        "learned": list(learned),
        "all_zero": all_zero,
        "zero_modules": [] if all_zero else [each.module for each in zero],
        "zero_layers": [] if all_zero else _zero_layers(largest),
        "effective_rank": median(ranks) if ranks else None,
        "used_ratio": median(used) if used else None,
        "outliers": _outliers(learned),
        "carrying_layers": _carrying(largest),
    }


def _zero_layers(learned: Sequence[LearnedModule]) -> list[int]:
    layers: dict[int, list[bool]] = defaultdict(list)
    for each in learned:
        if each.layer is not None:
            layers[each.layer].append(each.zero)
    return sorted(layer for layer, zero in layers.items() if all(zero))


def _outliers(learned: Sequence[LearnedModule]) -> list[str]:
    """Modules far above their like in other layers, on a logarithmic scale with a robust spread."""
    kinds: dict[tuple[str, str], list[LearnedModule]] = defaultdict(list)
    for each in learned:
        if each.layer is not None and 0 < each.norm < math.inf:
            kinds[stack(each.module), each.projection].append(each)
    found = []
    for group in kinds.values():
        if len(group) < _FEWEST:
            continue
        logs = [math.log(each.norm) for each in group]
        middle = median(logs)
        spread = max(median([abs(log - middle) for log in logs]) / 0.6745, 0.15)
        found += [each.module for each, log in zip(group, logs, strict=True) if log - middle > _OUTLIER * spread]
    return found


def _carrying(learned: Sequence[LearnedModule]) -> list[int]:
    """The fewest layers that hold half of the squared norm."""
    squares: dict[int, float] = defaultdict(float)
    for each in learned:
        if each.layer is not None and each.norm < math.inf:
            squares[each.layer] += each.norm**2
    whole, held, layers = sum(squares.values()), 0.0, []
    for layer, square in sorted(squares.items(), key=lambda item: -item[1]):
        if held >= whole / 2 or whole == 0:
            break
        held += square
        layers.append(layer)
    return sorted(layers)
