"""Bounds of a process that runs others' code: no network, memory, an end with its parent. It imports nothing of ours.

The system holds them where it can (Linux: a seccomp filter, resource limits); Python's audit events name what was
asked for and hold the network everywhere. They keep code from what it does by itself, and are no prison for code
that means harm.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct
import sys
from typing import Any

ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": "", "ROCR_VISIBLE_DEVICES": "", "ZE_AFFINITY_MASK": "",
    "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
    "WANDB_MODE": "disabled", "TOKENIZERS_PARALLELISM": "false",
}  # fmt: skip
"""No GPU, no hub, no tracker."""
LEFT_OUT = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "QLORA_DOCTOR_RUN")
"""Variables that make one process of several of it, whatever this one was launched by."""
_NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.sendto")
_INTERNET = (2, 10)
"""AF_INET and AF_INET6 of Linux."""
_MACHINES = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
"""Machine → audit architecture and the number of the system call ``socket`` (linux/audit.h, asm/unistd.h)."""
_UNREACHABLE = 101
_PDEATHSIG, _NO_NEW_PRIVILEGES, _SECCOMP, _FILTER = 1, 38, 22, 2


class NetworkClosed(OSError):
    """What a script meets that asks for the network."""


def confine(memory: int, asked: list[str]) -> None:
    """Close the network and bound the memory of this process and of all that it starts.

    Args:
        memory: bytes.
        asked: takes the hosts that are asked for.
    """
    _bound_memory(memory)
    if sys.platform == "linux":
        _end_with_parent()
        _without_sockets()
    sys.addaudithook(_Listener(asked))


class _Listener:
    """Refuses what reaches out of this machine, and notes it; a file's socket (AF_UNIX) stays."""

    def __init__(self, asked: list[str]) -> None:
        self._asked = asked

    def __call__(self, event: str, given: tuple[Any, ...]) -> None:
        if event not in _NETWORK:
            return
        host = _host(event, given)
        if host is None:
            return
        if host not in self._asked:
            self._asked.append(host)
        raise NetworkClosed(_UNREACHABLE, f"no network is open here, and {host} was asked for")


def _host(event: str, given: tuple[Any, ...]) -> str | None:
    address = given[1] if event in ("socket.connect", "socket.sendto") and len(given) > 1 else given[0]
    if isinstance(address, tuple):
        address = f"{address[0]}:{address[1]}" if len(address) > 1 else address[0]
    elif event in ("socket.connect", "socket.sendto"):
        return None  # a path: AF_UNIX
    if isinstance(address, bytes):
        address = address.decode("utf-8", "replace")
    return None if address in (None, "", "localhost") or str(address).startswith("127.0.0.1") else str(address)


def _bound_memory(memory: int) -> None:
    try:
        import resource
    except ImportError:  # Windows: the parent alone watches
        return
    limit = getattr(resource, "RLIMIT_DATA", None)
    if limit is None or sys.platform != "linux":
        return
    try:
        resource.setrlimit(limit, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (OSError, ValueError):
        return  # the parent watches all the same


def _end_with_parent() -> None:
    parent = os.getppid()
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    except (OSError, AttributeError):
        return
    if os.getppid() != parent:
        os._exit(1)


def _without_sockets() -> None:
    """A filter of system calls under which ``socket`` makes none of the internet; children inherit it.

    Where the kernel takes no filter the audit events are left.
    """
    known = _MACHINES.get(platform.machine())
    if known is None:
        return
    architecture, number = known
    equal, load, ret = 0x15, 0x20, 0x06
    lines = [
        (load, 0, 0, 4),  # the architecture of the call
        (equal, 0, 5, architecture),
        (load, 0, 0, 0),  # its number
        (equal, 0, 3, number),
        (load, 0, 0, 16),  # its first argument
        (equal, 2, 0, _INTERNET[0]),
        (equal, 1, 0, _INTERNET[1]),
        (ret, 0, 0, 0x7FFF0000),  # allowed
        (ret, 0, 0, 0x00050000 | _UNREACHABLE),
    ]
    code = b"".join(struct.pack("HBBI", *line) for line in lines)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxP", len(lines), ctypes.addressof(buffer))
    handed = ctypes.create_string_buffer(program, len(program))
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0:
            libc.prctl(_SECCOMP, _FILTER, ctypes.byref(handed), 0, 0)
    except (OSError, AttributeError):
        return
