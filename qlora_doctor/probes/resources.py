"""What host and device can hold, and how long a CPU would take: asked before a real load, not found out by dying."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from ..core.errors import StageError

_CGROUP = Path("/sys/fs/cgroup")
_GIB = 1 << 30
CPU_MINUTE = 60.0
"""Seconds that the real stages may take on a CPU without being asked for."""


def host_memory() -> int | None:
    """Bytes of host memory that can be had now, by the kernel's estimate and the container's limit; None if unknown."""
    limits = [value for value in (_meminfo(), _cgroup_v2(), _cgroup_v1()) if value is not None]
    if limits:
        return min(limits)
    try:  # not Linux: what is installed, free or not
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def device_memory(device: torch.device) -> tuple[int, int] | None:
    """Free and total bytes of a CUDA device; None elsewhere."""
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    return int(free), int(total)


def check_that_it_fits(base_bytes: int, largest_bytes: int, device: torch.device) -> None:
    """Refuse a load that cannot end well.

    Args:
        base_bytes: the base as it will lie in memory.
        largest_bytes: the largest tensor of the checkpoint: while it is quantized it is there twice.

    Raises:
        StageError: kind ``out-of-memory`` or ``host-out-of-memory``, with the numbers.
    """
    needed = base_bytes + 2 * largest_bytes
    on_device = device_memory(device)
    if on_device is not None and needed > on_device[0]:
        raise StageError(
            f"The load needs about {_gib(needed)} and the GPU has {_gib(on_device[0])} free of {_gib(on_device[1])}.",
            kind="out-of-memory",
            remedy="Free the GPU, or choose a larger one or a smaller model.",
        )
    # With a GPU the files are mapped and pass through the host a few tensors at a time.
    on_host = needed if device.type == "cpu" else 4 * largest_bytes
    available = host_memory()
    if available is not None and on_host > available:
        raise StageError(
            f"The load needs about {_gib(on_host)} of host memory and {_gib(available)} can be had.",
            kind="host-out-of-memory",
            remedy="Close other programs, or check on a machine with more memory.",
        )


def cpu_load_seconds(elements: int) -> float:
    """What reading and quantizing takes on a CPU.

    Measured with bitsandbytes 0.50 on one core of an EPYC: 40 million elements a second.
    """
    return elements / 40e6


def cpu_step_seconds(elements: int, tokens: int) -> float:
    """What two steps take on a CPU, the doctor's own forwards included.

    Every pass unpacks all 4-bit weights, whatever the batch, and computes on every token. Measured with torch 2.13 and
    bitsandbytes 0.50 on one core of an EPYC with bf16 arithmetic, checkpointing on: 2.5 ns for each element and
    0.065 ns for each element and token in a step. A machine without bf16 arithmetic takes a few times longer.
    """
    cores = max(os.cpu_count() or 1, 1)
    forwards_of_ours = 2 / 3  # a forward is a third of a step with recomputation; the loss is taken twice
    return (2 + forwards_of_ours) * elements * (2.5e-9 + 6.5e-11 * tokens) / cores


def _meminfo() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _cgroup_v2() -> int | None:
    return _left(_CGROUP / "memory.max", _CGROUP / "memory.current", _CGROUP / "memory.stat", "inactive_file")


def _cgroup_v1() -> int | None:
    folder = _CGROUP / "memory"
    return _left(
        folder / "memory.limit_in_bytes",
        folder / "memory.usage_in_bytes",
        folder / "memory.stat",
        "total_inactive_file",
    )


def _left(limit: Path, usage: Path, statistics: Path, reclaimable: str) -> int | None:
    """Limit less usage, where usage counts file pages that the kernel gives up at once."""
    try:
        most = int(limit.read_text())
        used = int(usage.read_text())
        for line in statistics.read_text().splitlines():
            if line.startswith(f"{reclaimable} "):
                used -= int(line.split()[1])
    except (OSError, ValueError, IndexError):  # "max": no limit
        return None
    return max(most - used, 0) if most < 1 << 60 else None


def _gib(count: float) -> str:
    return f"{count / _GIB:.1f} GiB"
