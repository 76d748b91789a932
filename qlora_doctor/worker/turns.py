"""One job at a time on a device: a lock that the kernel gives back when its holder dies, however it dies."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

ONE_AT_A_TIME = fcntl is None
"""True where there is no such lock: real stages must then not run in several children at once."""


def turns_folder() -> Path:
    """The user's folder of locks, for all checks on this machine; it is made when a lock is wanted."""
    return Path(tempfile.gettempdir()) / f"qlora-doctor-{os.getuid() if hasattr(os, 'getuid') else 'turns'}"


@contextlib.contextmanager
def turn(folder: Path, name: str, waits: Callable[[], None]) -> Iterator[None]:
    """Hold a device's lock; ``waits`` is called once where somebody else holds it.

    Where no lock can be had (no such system call, a full disk) the work goes on without one.
    """
    handle = _open(folder / f"{name}.lock")
    if handle is None or fcntl is None:
        yield
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waits()
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def device_name(device: Any) -> str:
    """A name for the lock of a torch device: the card's own, so that ``cuda:0`` means the same card to all.

    On the CPU the children of one parent take turns, other checks are none of their business.
    """
    import torch

    device = torch.device(device)
    if device.type != "cuda":
        return f"{device.type}-{os.getppid()}"
    index = torch.cuda.current_device() if device.index is None else device.index
    unique = getattr(torch.cuda.get_device_properties(index), "uuid", None)
    return f"cuda-{unique if unique is not None else index}"


def forget_turns(folder: Path) -> None:
    """Remove the lock that this process's children used among themselves, and the folder where it is then empty."""
    with contextlib.suppress(OSError):
        (folder / f"cpu-{os.getpid()}.lock").unlink()
        folder.rmdir()


def _open(path: Path) -> int | None:
    """The lock's file, in a folder that is the user's own: the temporary folder is everybody's."""
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        if hasattr(os, "getuid") and path.parent.lstat().st_uid != os.getuid():
            return None
        return os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
    except OSError:
        return None
