"""What is installed and what hardware is there, without importing anything heavy.

Versions come from package metadata, GPUs from the driver (NVML), the CUDA version of torch from its ``version.py`` read
as text, and the native libraries of bitsandbytes from the list of its files.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from .._version import __version__
from ..core.versions import version_tuple
from ..facts.environment import EnvironmentFacts, Gpu, Packages

_DISTRIBUTIONS = {
    "flash_attn": "flash-attn",
    "liger_kernel": "liger-kernel",
    "optimum_quanto": "optimum-quanto",
    "compressed_tensors": "compressed-tensors",
    "torch_npu": "torch-npu",
}
_LIBRARY = re.compile(r"libbitsandbytes_([a-z]+\d*)\.(?:so|dll|dylib)$")
_VERSION = re.compile(r"^Version:\s*(\S+)", re.MULTILINE | re.IGNORECASE)
_SAME_MAJOR_SINCE = (0, 50)
"""bitsandbytes takes another library of the same CUDA major from here on; before, only the exact version."""


def look_at_environment() -> EnvironmentFacts:
    """Everything about this machine that the config stage judges by. Never raises; what cannot be known is None."""
    packages = installed_packages()
    gpus, driver, problem = _gpus()
    torch_cuda = _torch_cuda()
    backends = _bitsandbytes_backends()
    matches, missing = _native_library(gpus, torch_cuda, backends, packages.bitsandbytes)
    total, available = _host_memory()
    return EnvironmentFacts(
        tool_version=__version__,
        python=sys.version.split()[0],
        platform=_platform(),
        packages=packages,
        gpus=gpus,
        driver=driver,
        nvml_error=problem,
        torch_cuda=torch_cuda,
        bitsandbytes_backends=backends,
        bitsandbytes_matches_torch=matches,
        bitsandbytes_native_missing=missing,
        host_memory_bytes=total,
        host_available_bytes=available,
        cpu_count=_cpu_count(),
    )


# -- packages


def installed_packages() -> Packages:
    """Versions from package metadata."""
    found: dict[str, Any] = {name: _version(_DISTRIBUTIONS.get(name, name)) for name in Packages.model_fields}
    return Packages.model_construct(**found)


def _version(distribution: str) -> str | None:
    try:
        text = metadata.distribution(distribution).read_text("METADATA") or ""
    except Exception:  # a broken dist-info folder must not end the program: the version is unknown
        return None
    # The headers alone: parsing the whole file as an e-mail, as metadata.version does, costs a millisecond a package.
    found = _VERSION.search(text.partition("\n\n")[0])
    return found[1] if found else None


def _torch_cuda() -> str | None:
    """The CUDA version that torch was built for; ``cpu`` for a build without, ``rocm…`` and the like stay unknown."""
    text = _file_text("torch", "torch/version.py")
    if text is None:
        return None
    found = re.search(r"^cuda[^=\n]*=\s*(?:'([^']*)'|\"([^\"]*)\"|None)", text, re.MULTILINE)
    if found is None:
        return None
    if found[1] or found[2]:
        return found[1] or found[2]
    other = re.search(r"^(?:hip|rocm|xpu)[^=\n]*=\s*['\"]", text, re.MULTILINE)
    return None if other else "cpu"


def _file_text(distribution: str, name: str) -> str | None:
    try:
        path = Path(str(metadata.distribution(distribution).locate_file(name)))
        return path.read_text(encoding="utf-8", errors="replace")
    except Exception:
        return None


def _bitsandbytes_backends() -> list[str] | None:
    """``cpu``, ``cuda130``, …: from the installed files; None where bitsandbytes is not installed."""
    try:
        folder = Path(str(metadata.distribution("bitsandbytes").locate_file("bitsandbytes")))
        names = [found[1] for path in folder.iterdir() if (found := _LIBRARY.match(path.name))]
    except Exception:
        return None
    return sorted(names)


def _native_library(
    gpus: list[Gpu] | None, torch_cuda: str | None, backends: list[str] | None, version: str | None
) -> tuple[bool | None, bool | None]:
    """(bitsandbytes matches torch, no library can serve the GPU); None without a GPU or without either package.

    Source of the choice: bitsandbytes/cextension.py, ``get_cuda_bnb_library_path``.
    """
    if not gpus or torch_cuda is None or backends is None:
        return None, None
    if torch_cuda == "cpu":
        return False, True
    major, _, minor = torch_cuda.partition(".")
    exact = f"cuda{major}{minor.partition('.')[0]}"
    override = os.environ.get("BNB_CUDA_VERSION")
    if override:
        served = f"cuda{override}" in backends
    elif (version_tuple(version) or ()) >= _SAME_MAJOR_SINCE:
        served = any(name.startswith(f"cuda{major}") for name in backends)
    else:
        served = exact in backends
    return served, not served


# -- hardware


def _gpus() -> tuple[list[Gpu] | None, str | None, str | None]:
    """(GPUs, driver version, why they are unknown)."""
    if not _has_nvml():
        return [], None, "The NVIDIA driver is not installed."
    try:
        import pynvml
    except ImportError:
        return None, None, "nvidia-ml-py is not installed."
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        absent = {pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED}
        # No driver and no library means no NVIDIA card to speak of; any other refusal leaves it open.
        return ([] if error.value in absent else None), None, str(error)
    try:
        driver = _text(pynvml.nvmlSystemGetDriverVersion())
        gpus = [_gpu(pynvml, index, driver) for index in range(pynvml.nvmlDeviceGetCount())]
        return _visible(gpus), driver, None
    except pynvml.NVMLError as error:
        return None, None, str(error)
    finally:
        pynvml.nvmlShutdown()


def _has_nvml() -> bool:
    """False where the driver's library is certainly absent, which is known without loading its bindings."""
    if sys.platform != "linux":
        return True
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return False
    return True


def _gpu(pynvml: Any, index: int, driver: str) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    return Gpu(
        index=index,
        name=_text(pynvml.nvmlDeviceGetName(handle)),
        memory_bytes=int(memory.total),
        free_bytes=int(memory.free),
        capability=float(f"{major}.{minor}"),
        driver=driver,
    )


def _visible(gpus: list[Gpu]) -> list[Gpu]:
    """What CUDA would see: NVML lists every card, CUDA_VISIBLE_DEVICES hides some (ids by number only)."""
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is None:
        return gpus
    chosen = [part.strip() for part in wanted.split(",") if part.strip()]
    if not all(part.lstrip("-").isdigit() for part in chosen):
        return gpus
    by_index = {str(gpu.index): gpu for gpu in gpus}
    seen: list[Gpu] = []
    for part in chosen:
        if part not in by_index:
            break  # CUDA stops at the first id that does not exist
        seen.append(by_index[part])
    return seen


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _host_memory() -> tuple[int | None, int | None]:
    """(total, available) bytes, or what the container's limit leaves of them."""
    total = available = None
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        fields = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith("kB")}
        total, available = fields.get("MemTotal"), fields.get("MemAvailable")
    except (OSError, ValueError, IndexError):
        if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
            total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit, used = _cgroup_memory()
    if limit is not None and total is not None and limit < total:
        total = limit
        if used is not None:
            available = max(0, min(available if available is not None else limit, limit - used))
    return total, available


def _cgroup_memory() -> tuple[int | None, int | None]:
    """(limit, used) bytes of the container, where cgroup v2 sets one; the page cache does not count as used."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit = int((folder / "memory.max").read_text())
        used = int((folder / "memory.current").read_text())
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return limit, used - int(statistics.get("inactive_file", 0))
    except (OSError, ValueError):
        return None, None


def _cpu_count() -> int | None:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _system() -> tuple[str, str, str]:
    """System, release, machine."""
    if hasattr(os, "uname"):
        told = os.uname()
        return told.sysname, told.release, told.machine
    import platform  # lazy: a dozen patterns are compiled for it

    return platform.system(), platform.release(), platform.machine()


def _platform() -> str:
    libc = ""
    if sys.platform == "linux":
        try:
            libc = (os.confstr("CS_GNU_LIBC_VERSION") or "").replace(" ", "-")  # platform.libc_ver reads the executable
        except (AttributeError, OSError, ValueError):
            libc = ""
    parts = (*_system(), libc)
    return " ".join(part for part in parts if part)
