"""What phase a step is in, and on CUDA how much memory it took: the peak of every interval between two hooks.

The allocator's own counters are read and reset at each sample, so a spike inside a layer is not missed; reading them
neither allocates nor waits for the device.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from ...facts.memory import PhasePeak, TimelinePoint

POINTS = 600
"""Points that a timeline has at most; neighbours of one phase are joined by their larger value."""
_INTERVAL = 1e-3
_ORDER = ("load", "prepare", "attach", "forward", "backward", "optimizer")


@dataclass
class StepPeak:
    """One training step on CUDA, in bytes."""

    allocated: int = 0
    reserved: int = 0
    phase: str = ""
    """Phase in which the allocation was highest."""


@dataclass
class Timeline:
    """Phases, their seconds and on CUDA their peaks; ``device`` says where to look.

    Attributes:
        phase: what is under way, for whoever has to explain a failure.
        seconds: of each finished step, without what was spent in ``pause``.
    """

    device: torch.device
    phase: str = "idle"
    seconds: list[float] = field(default_factory=list)
    steps: list[StepPeak] = field(default_factory=list)
    peaks: dict[str, StepPeak] = field(default_factory=dict)
    _points: list[tuple[float, int, str]] = field(default_factory=list)
    _clock: float = 0.0
    """Seconds on the timeline up to the moment at which the watch was last started."""
    _started: float | None = None
    _step_began: float = 0.0
    _sampled: float = 0.0
    _inside_step: bool = False

    @property
    def on_cuda(self) -> bool:
        return str(self.device.type) == "cuda"

    @property
    def clock(self) -> float:
        """Seconds timed so far, over all phases and steps."""
        return self._now()

    def begin(self, phase: str) -> None:
        """A phase outside the steps (load, prepare) or the first one of a step begins; counters start again."""
        self._reset()
        self.phase = phase
        self._started = time.perf_counter()
        self._add_point(torch.cuda.memory_allocated(self.device) if self.on_cuda else 0)

    def begin_step(self) -> None:
        """A training step begins."""
        self._synchronize()
        self._inside_step = True
        self.steps.append(StepPeak())
        self.begin("batch")
        self._step_began = self._now()

    def enter(self, phase: str) -> None:
        """The next phase begins."""
        self.sample()
        self.phase = phase

    def sample(self) -> None:
        """Book the peak since the last sample under the current phase."""
        if self._started is None or not self.on_cuda:
            return
        counters = torch.cuda.memory_stats_as_nested_dict(self.device)  # a tenth of the time of memory_stats()
        allocated = counters["allocated_bytes"]["all"]["peak"]
        reserved = counters["reserved_bytes"]["all"]["peak"]
        self._book(self.peaks.setdefault(self.phase, StepPeak(phase=self.phase)), allocated, reserved)
        if self._inside_step:
            self._book(self.steps[-1], allocated, reserved)
        self._add_point(allocated)
        self._reset()
        self._sampled = time.perf_counter()

    def sample_now_and_then(self) -> None:
        """Sample, unless that was done less than a millisecond ago: for hooks that fire in quick succession."""
        if self.on_cuda and time.perf_counter() - self._sampled > _INTERVAL:
            self.sample()

    def end(self) -> None:
        """The phase that ``begin`` began is over."""
        self._synchronize()
        self.sample()
        self._clock, self._started = self._now(), None
        self.phase = "idle"

    def end_step(self) -> None:
        """The training step is over."""
        self._synchronize()
        self.sample()
        self.seconds.append(self._now() - self._step_began)
        self._clock, self._started = self._now(), None
        self._inside_step = False
        self.phase = "idle"

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Work of the doctor's own: it counts neither in seconds nor in peaks."""
        if self._started is None:
            yield
            return
        self._synchronize()
        self.sample()
        self._clock, self._started = self._now(), None
        try:
            yield
        finally:
            self._synchronize()
            self._reset()
            self._started = time.perf_counter()

    def step_peak(self) -> StepPeak | None:
        """The highest step; None without CUDA."""
        return max(self.steps, key=lambda s: s.allocated) if self.on_cuda and self.steps else None

    def phase_peaks(self) -> list[PhasePeak] | None:
        """Peaks by phase in the order of a run; None without CUDA."""
        if not self.on_cuda or not self.peaks:
            return None
        names = sorted(self.peaks, key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER))
        return [
            PhasePeak(phase=n, peak_allocated_bytes=self.peaks[n].allocated, peak_reserved_bytes=self.peaks[n].reserved)
            for n in names
        ]

    def points(self) -> list[TimelinePoint] | None:
        """The envelope of allocated memory over all that was timed; None without CUDA."""
        if not self.on_cuda or not self._points:
            return None
        begun, ended = self._points[0][0], self._points[-1][0]
        length = max(ended - begun, 1e-9)
        return [
            TimelinePoint(at=round((at - begun) / length, 5), allocated_bytes=allocated, phase=phase)
            for at, allocated, phase in _thinned(self._points, POINTS)
        ]

    def _add_point(self, allocated: int) -> None:
        if self.on_cuda and self._inside_step:
            self._points.append((self._now(), allocated, self.phase))

    def _book(self, peak: StepPeak, allocated: int, reserved: int) -> None:
        if allocated > peak.allocated:
            peak.allocated, peak.phase = allocated, self.phase
        peak.reserved = max(peak.reserved, reserved)

    def _now(self) -> float:
        return self._clock + (time.perf_counter() - self._started if self._started is not None else 0.0)

    def _reset(self) -> None:
        if self.on_cuda:
            torch.cuda.reset_peak_memory_stats(self.device)

    def _synchronize(self) -> None:
        if self.on_cuda:
            torch.cuda.synchronize(self.device)


def _thinned(points: list[tuple[float, int, str]], limit: int) -> list[tuple[float, int, str]]:
    """Join neighbours of one phase, keeping the larger allocation, until the limit is met."""
    while len(points) > limit:
        joined: list[tuple[float, int, str]] = []
        position = 0
        while position < len(points):
            here = points[position]
            following = points[position + 1] if position + 1 < len(points) else None
            if following is not None and following[2] == here[2]:
                joined.append(max(here, following, key=lambda point: point[1]))
                position += 2
            else:
                joined.append(here)
                position += 1
        if len(joined) == len(points):
            return points[:: -(-len(points) // limit)]
        points = joined
    return points
