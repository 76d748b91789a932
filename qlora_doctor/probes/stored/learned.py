"""What an adapter learned: ΔW of each module by its norm and its singular values, out of the two small factors alone.

The squares of the singular values of B·A are the eigenvalues of (BᵀB)(AAᵀ), which are r × r: nothing of the size of W
is ever made. The effective rank is exp of the entropy of the singular values' shares (Roy and Vetterli,
"The effective rank", EUSIPCO 2007).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from ...facts.stored import LearnedModule
from .names import place, stack

_OUTLIER = 6.0
"""Standard deviations of the logarithm, among the same projection of other layers, beyond which a norm stands out."""
_FEWEST = 6
"""Layers below which nobody can tell an outlier."""

_FEWEST_SHARDS = 4
"""Modules below which rows without numbers may be a matter of the data."""
_WHOLE, _SHARD_SPREAD = 0.8, 0.02
"""Share of rows with numbers from which an adapter counts as whole, and how far modules may be from one another."""


@dataclass(frozen=True)
class Factor:
    """What is kept of lora_A or lora_B: of its numbers nothing but what follows.

    Attributes:
        gram: rank × rank, float64: A·Aᵀ of lora_A, Bᵀ·B of lora_B.
        zero: every number is exactly zero.
        written: share of the columns up to the last that is not all zero.
    """

    gram: Any
    zero: bool
    written: float = 1.0


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
    if np.any(matrix[:, -1:]):  # as nearly always; a look at all columns costs as much as half of the rest
        return Factor(gram, zero=False)
    used = np.flatnonzero(np.any(matrix, axis=0))
    return Factor(gram, zero=not len(used), written=(int(used[-1]) + 1) / matrix.shape[1] if len(used) else 0.0)


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


def written_share(shares: Mapping[str, float]) -> float | None:
    """The share of lora_B's rows that hold numbers, where it is the same part of nearly all modules; else 1.

    A rank of a sharded run holds the first rows of each tensor, 1 over the number of ranks, and where they were not
    gathered the rest of the file is zero. Rows of one module that learned nothing look otherwise in the next.

    Args:
        shares: ``Factor.written`` of lora_B by module, of those that are not zero as a whole; None of too few modules.
    """
    if len(shares) < _FEWEST_SHARDS:
        return None
    middle = median(shares.values())
    alike = [module for module, share in shares.items() if abs(share - middle) <= _SHARD_SPREAD]
    return middle if middle < _WHOLE and len(alike) >= 0.9 * len(shares) else 1.0


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
