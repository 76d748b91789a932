"""What an adapter does to one weight, at any scale, and which of these a merged weight shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ...facts.stored import MergedTensor

_LEAST = 48
"""Elements that must be able to tell; with fewer the tensor is undecided."""
AGREE = 0.97
_LOOSE = 0.02
"""Of ΔW itself: a merge in 16-bit arithmetic computes ΔW with that error."""
_SCALES = (1 / 16, 1 / 8, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 3 / 4, 1.0, 1.25, 1.5, 2, 3, 4, 6, 8, 12, 16)
"""Where the search for another scale begins; each with its negative."""
_SEARCHED = 1 << 18
"""Elements, of the first rows, that a scale is searched on."""
_EXACT, _NEAR = 0.02, 0.2
"""Of the distance that the next best explanation leaves: what is nothing, and what is little."""
SCALE_OF = {"applied": 1.0, "not-applied": 0.0, "twice": 2.0, "applied-and-quantized": 1.0}


@dataclass
class Change:
    """ΔW of one weight, on some of its rows or on all, as float64.

    Attributes:
        base: the weight itself.
        low_rank: scaling · B · A.
        magnitude: of DoRA, one for each row: the change then is m · (W + ΔW) / |W + ΔW| − W.
    """

    base: Any
    low_rank: Any
    magnitude: Any = None

    def at(self, times: float) -> Any:
        """With its scaling multiplied so."""
        if self.magnitude is None or times == 0:
            return times * self.low_rank
        return self._turned(self.base + times * self.low_rank) - self.base

    def again(self) -> Any:
        """Applied to what it was applied to before."""
        if self.magnitude is None:
            return 2 * self.low_rank
        return self._turned(self.base + self.at(1) + self.low_rank) - self.base

    def candidates(self) -> Iterator[tuple[str, Any]]:
        """What a merge may have done, the likeliest first."""
        yield "applied", self.at(1)
        yield "not-applied", self.at(0)
        yield "twice", self.again()
        if self.magnitude is not None:
            yield "without-magnitudes", self.low_rank

    def _turned(self, weight: Any) -> Any:
        import numpy as np

        return self.magnitude[:, None] * weight / np.linalg.norm(weight, axis=1, keepdims=True)


def judged(name: str, merged: Any, change: Change, spacing: Any) -> MergedTensor:
    """Which change is in a merged tensor of plain numbers, by the elements that can tell.

    Args:
        spacing: the distance of neighbouring numbers of the merged file.
    """
    import numpy as np

    once = change.at(1)
    room = spacing + _LOOSE * np.abs(once)
    tells = np.abs(once) > 1.5 * room
    if int(tells.sum()) < _LEAST:
        return MergedTensor(tensor=name, verdict="undecided")
    moved = (merged - change.base)[tells]
    room, spacing = room[tells], spacing[tells]
    for verdict, candidate in change.candidates():
        if (np.abs(moved - candidate[tells]) <= max(1.0, SCALE_OF.get(verdict, 1.0)) * room).mean() >= AGREE:
            return MergedTensor(tensor=name, verdict=verdict, scale=SCALE_OF.get(verdict))
    if change.magnitude is None:
        scale = float((moved * once[tells]).sum() / (once[tells] ** 2).sum())
    else:
        scale, _ = nearest_scale(lambda times: float(np.median(np.abs(moved - change.at(times)[tells]))))
    left = np.abs(moved - change.at(scale)[tells])
    residual = float(np.median(left / spacing))
    if (left <= max(1.0, abs(scale)) * room).mean() >= AGREE and abs(scale) > 0.01:
        return MergedTensor(tensor=name, verdict="other-scale", scale=scale, residual=residual)
    return MergedTensor(tensor=name, verdict="undecided", residual=residual)


@dataclass
class OtherScales:
    """Scales other than once that packed tensors have shown, and how many more tensors are searched for one."""

    found: list[float] = field(default_factory=list)
    left: int = 12


def judged_packed(
    name: str, merged: Any, change: Change, pack: Callable[[Any], Any], *, base_packed: bool, scales: OtherScales
) -> MergedTensor:
    """Which change is in a merged tensor of packed numbers, by packing each again.

    Args:
        merged: as the packed weight gives it back.
        pack: a weight as it is given back after it was packed in the same form.
        base_packed: the base's weight comes from packed numbers itself, so that without a change nothing is rounded.
        scales: that were found in the model's other tensors; one that is found here is added.
    """
    import numpy as np

    def far(difference: Any, rows: int | None = None) -> float:
        return float(np.abs(merged[:rows] - pack((change.base + difference)[:rows].astype(np.float32))).mean())

    distances = {verdict: far(each) for verdict, each in change.candidates() if verdict != "not-applied"}
    distances["not-applied"] = float(np.abs(merged - change.base).mean()) if base_packed else far(0.0)
    best = min(distances, key=distances.__getitem__)
    others = min(value for verdict, value in distances.items() if verdict != best)
    if others > 0 and distances[best] <= _EXACT * others:
        return _packed_verdict(name, best)
    limit = _NEAR * distances[best]
    found = next((times for times in scales.found if far(change.at(times)) <= limit), None)
    if found is None and not scales.found and scales.left > 0:
        scales.left -= 1
        some = max(1, _SEARCHED // change.base.shape[1])
        found, _ = nearest_scale(lambda times: far(change.at(times), some))
        if far(change.at(found)) > limit:
            found = None
    if found is not None and all(abs(found - each) > 0.02 for each in (0, 1, 2)):
        if found not in scales.found:
            scales.found.append(found)
        return MergedTensor(tensor=name, verdict="other-scale", scale=found)
    if others > 0 and distances[best] < _NEAR * others:
        return _packed_verdict(name, best)
    lost = others - distances[best] < 1e-9  # what packs alike cannot be distinguished
    return MergedTensor(tensor=name, verdict="undecided", residual=None if lost else distances[best] / others)


def _packed_verdict(name: str, found: str) -> MergedTensor:
    verdict = "applied-and-quantized" if found == "applied" else found
    return MergedTensor(tensor=name, verdict=verdict, scale=SCALE_OF.get(verdict))


def nearest_scale(far: Callable[[float], float]) -> tuple[float, float]:
    """The scale at which something is nearest, and how far it is there: on a grid first, then by halving about it."""
    distances = {times: far(times) for each in _SCALES for times in (each, -each)}
    best = min(distances, key=distances.__getitem__)
    step = abs(best) / 3
    while step > 1e-3 * abs(best):
        for times in (best - step, best + step):
            distances[times] = far(times)
        nearer = min((best - step, best, best + step), key=distances.__getitem__)
        if nearer == best:
            step /= 2
        best = nearer
    return best, distances[best]
