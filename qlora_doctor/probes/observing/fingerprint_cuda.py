"""The chunks' digests of many CUDA tensors in a few launches, each byte read once.

The kernel is compiled at run time with the NVRTC that every CUDA build of torch brings along (no toolkit, no compiler,
no extra package) and launched through the driver. Where that is not to be had, the caller falls back on plain torch.
QLORA_DOCTOR_NO_NVRTC=1 in the environment asks for that.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..tensors import is_readable
from .chunk import CHUNK, Fingerprint, dtype_name

_Part = tuple[torch.Tensor, Any]
"""Digests on the host, and what tells that they are there."""
_THREADS = 256
_GROUP = 336
"""Tensors in one launch: the device waits while the host looks at the first ones, and each launch costs the host what
looking at some hundred tensors does. Half of a 7B's 672."""
_SOURCE = (
    r"""
typedef unsigned long long u64;
#define PHI 0x9E3779B97F4A7C15ULL

__device__ __forceinline__ u64 mix(u64 z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
}

extern "C" __global__ void __launch_bounds__(THREADS)
chunk_sums(const u64* address, const u64* length, u64* digest) {
    const unsigned char* bytes = (const unsigned char*)address[blockIdx.x];
    const int count = (int)length[blockIdx.x];
    const int pairs = count >> 4;
    const ulonglong2* data = (const ulonglong2*)bytes;
    u64 first = 0, second = 0;
    u64 key = (2 * (u64)threadIdx.x + 1) * PHI;
    #pragma unroll 4
    for (int p = threadIdx.x; p < pairs; p += THREADS) {
        const ulonglong2 word = data[p];
        const u64 a = mix(word.x + key), b = mix(word.y + key + PHI);
        key += 2 * THREADS * PHI;
        first += a + b;
        second += a * (u64)(4 * p + 1) + b * (u64)(4 * p + 3);
    }
    if (threadIdx.x == 0) {  // what is left of the last chunk of a tensor: at most 15 bytes
        for (int i = 2 * pairs; 8 * i < count; ++i) {
            u64 word = 0;
            for (int k = 0; k < 8 && 8 * i + k < count; ++k) word |= (u64)bytes[8 * i + k] << (8 * k);
            const u64 z = mix(word + (u64)(i + 1) * PHI);
            first += z;
            second += z * (u64)(2 * i + 1);
        }
    }
    __shared__ u64 sums[2][THREADS / 32];
    for (int lane = 16; lane; lane >>= 1) {
        first += __shfl_down_sync(0xffffffffu, first, lane);
        second += __shfl_down_sync(0xffffffffu, second, lane);
    }
    if ((threadIdx.x & 31) == 0) {
        sums[0][threadIdx.x >> 5] = first;
        sums[1][threadIdx.x >> 5] = second;
    }
    __syncthreads();
    if (threadIdx.x < 2) {
        u64 total = 0;
        for (int warp = 0; warp < THREADS / 32; ++warp) total += sums[threadIdx.x][warp];
        digest[2 * (u64)blockIdx.x + threadIdx.x] = total;
    }
}
"""
).replace("THREADS", str(_THREADS))


@dataclass(frozen=True)
class _Group:
    """Tensors that one launch reads.

    Attributes:
        addresses: of each tensor.
        sizes: bytes of each.
        table: address and length of every chunk, shape (2, chunks); in pinned memory, for CUDA.
        places: where the digests of each tensor lie among those of the launch.
        dtypes: of each tensor, and by name.
        shapes: of each tensor.
        last: the digests of the last reading as the device gave them, and the fingerprints that were made of them.
    """

    names: list[str]
    addresses: list[int]
    sizes: list[int]
    table: torch.Tensor
    places: list[slice]
    dtypes: tuple[list[torch.dtype], list[str]]
    shapes: list[tuple[int, ...]]
    last: list[tuple[bytes, dict[str, Fingerprint]]] = field(default_factory=list)

    def lies_there(self, tensors: Sequence[torch.Tensor]) -> bool:
        """Whether tensors of these sizes lie where those lay that it was made of: then they can be read."""
        return list(map(_address, tensors)) == self.addresses and list(map(_size, tensors)) == self.sizes

    def fits(self, tensors: Sequence[torch.Tensor]) -> bool:
        """Whether their bytes mean what they meant: dtypes and shapes are the same, in row-major order."""
        return (
            list(map(_shape, tensors)) == self.shapes
            and list(map(_dtype, tensors)) == self.dtypes[0]
            and all(map(torch.Tensor.is_contiguous, tensors))
        )


@dataclass(frozen=True)
class _Plan:
    """Which chunks to read: kept on the host, since the base lies where it lay when it is read again."""

    names: list[str] = field(default_factory=list)
    groups: list[_Group] = field(default_factory=list)


# Called by `map` for each of thousands of tensors: no line of Python runs between them.
_address, _size, _shape, _dtype = torch.Tensor.data_ptr, attrgetter("nbytes"), attrgetter("shape"), attrgetter("dtype")
_plans: dict[int, list[_Plan]] = {}
"""The last plans for each device: of the base, and of what trains."""
_KEPT = 2


def chunk_digests(tensors: Mapping[str, torch.Tensor], device: torch.device) -> dict[str, Fingerprint]:
    """Fingerprints of the tensors of one device that can be read in place; ``{}`` where no kernel can be had."""
    with torch.cuda.device(device):
        index = torch.cuda.current_device()
        kernel = _kernel(index)
        if kernel is None:
            return {}
        names, kept = list(tensors), _plans.setdefault(index, [])
        every = list(tensors.values())
        for plan in [each for each in kept if each.names == names]:
            found = _read_again(kernel, plan, every, device)
            if found is not None:
                return found
            kept.remove(plan)
        plan, parts = _read_first(kernel, tensors, device)
        if len(plan.names) == len(tensors):  # what could not be read in place may be read in place next time
            kept[:] = [plan, *kept][:_KEPT]
        return _collected(plan, parts)


def _read_again(
    kernel: Any, plan: _Plan, tensors: list[torch.Tensor], device: torch.device
) -> dict[str, Fingerprint] | None:
    """The digests by a plan; None where it fits no more. The device reads one group while the host looks at the next,
    and all of them while the host makes sure that their bytes mean what they meant."""
    parts, start = [], 0
    for group in plan.groups:
        if not group.lies_there(tensors[start : start + len(group.names)]):
            return None
        parts.append(_launched(kernel, group.table, device))
        start += len(group.names)
    start = 0
    for group in plan.groups:
        if not group.fits(tensors[start : start + len(group.names)]):
            return None
        start += len(group.names)
    return _collected(plan, parts)


def _collected(plan: _Plan, parts: Sequence[_Part]) -> dict[str, Fingerprint]:
    """The digests as they come: those of one launch are taken apart while the device reads for the next, and not at all
    where they are those of the last reading: taking a 7B's apart takes the host half as long as the device reads."""
    found: dict[str, Fingerprint] = {}
    for group, part in zip(plan.groups, parts, strict=True):
        digests = _fetched(part)
        if not group.last or group.last[0][0] != digests:
            each = map(digests.__getitem__, group.places)
            made = map(Fingerprint._make, zip(each, group.dtypes[1], group.shapes, strict=True))
            group.last[:] = [(digests, dict(zip(group.names, made, strict=True)))]
        found.update(group.last[0][1])
    return found


def _fetched(part: _Part) -> bytes:
    """The digests of a launch on the host; it is waited for this launch alone."""
    copy, event = part
    if event is not None:
        event.synchronize()
    return bytes(copy.numpy())


def _read_first(kernel: Any, tensors: Mapping[str, torch.Tensor], device: torch.device) -> tuple[_Plan, list[_Part]]:
    """Plan and read: in groups, so that the device reads one while the host gathers the addresses of the next."""
    plan = _Plan()
    parts = []
    for members in _groups(tensors):
        every = list(members.values())
        addresses, sizes = list(map(_address, every)), list(map(_size, every))
        counts, table = _table(addresses, sizes)
        if device.type == "cuda":
            table = table.pin_memory()
        parts.append(_launched(kernel, table, device))
        ends = np.cumsum([0, *counts]) * 16
        plan.groups.append(
            _Group(
                list(members),
                addresses,
                sizes,
                table,
                list(map(slice, ends[:-1].tolist(), ends[1:].tolist())),
                (list(map(_dtype, every)), [dtype_name(tensor.dtype) for tensor in every]),
                [tuple(tensor.shape) for tensor in every],
            )
        )
        plan.names.extend(members)
    return plan, parts


def _groups(tensors: Mapping[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
    direct = ((name, tensor) for name, tensor in tensors.items() if can_be_read_in_place(tensor))
    while group := dict(islice(direct, _GROUP)):
        yield group


def _table(addresses: list[int], sizes: list[int]) -> tuple[list[int], torch.Tensor]:
    """The number of chunks of each tensor, and address and length of each chunk, shape (2, chunks)."""
    starts, nbytes = np.array(addresses, dtype=np.int64), np.array(sizes, dtype=np.int64)
    chunks = -(-nbytes // (CHUNK * 8))
    first = np.cumsum(chunks) - chunks
    offset = (np.arange(chunks.sum()) - np.repeat(first, chunks)) * (CHUNK * 8)  # of a chunk within its tensor
    length = np.minimum(np.repeat(nbytes, chunks) - offset, CHUNK * 8)
    return chunks.tolist(), torch.from_numpy(np.stack([np.repeat(starts, chunks) + offset, length]))


def _launched(kernel: Any, table: torch.Tensor, device: torch.device) -> _Part:
    """Launch the kernel over the chunks of a table, and the copy of the digests, shape (chunks, 2), behind it."""
    # Not waiting for the copy, which is from pinned memory: it would wait for the kernel of the group before.
    table = table.to(device, non_blocking=True)
    digest = torch.empty((table.shape[1], 2), dtype=torch.int64, device=device)
    _launch(kernel, table.shape[1], [table[0], table[1], digest])
    if device.type != "cuda":
        return digest, None
    copy = torch.empty(digest.shape, dtype=torch.int64, pin_memory=True)
    copy.copy_(digest, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return copy, event


def can_be_read_in_place(tensor: torch.Tensor) -> bool:
    """Whether the kernel can read it where it lies."""
    return (
        tensor.is_contiguous()
        and tensor.numel() > 0
        and tensor.data_ptr() % 16 == 0
        and not tensor.is_conj()
        and not tensor.is_neg()
        and is_readable(tensor)
    )


# -- NVRTC and the driver


@lru_cache(maxsize=16)
def _kernel(device: int) -> Any:
    """The compiled function for a device; None where NVRTC or the driver are out of reach."""
    if torch.version.hip or os.environ.get("QLORA_DOCTOR_NO_NVRTC"):
        return None
    try:
        torch.cuda.synchronize(device)  # makes the device's primary context current
        major, minor = torch.cuda.get_device_capability(device)
        image = _compile(f"--gpu-architecture=sm_{major}{minor}")
        return _load(image)
    except (OSError, RuntimeError, AttributeError):
        return None


def _compile(architecture: str) -> bytes:
    nvrtc = _nvrtc()
    program = ctypes.c_void_p()
    _ok(nvrtc.nvrtcCreateProgram(ctypes.byref(program), _SOURCE.encode(), b"chunk_sums.cu", 0, None, None))
    try:
        options = (ctypes.c_char_p * 1)(architecture.encode())
        _ok(nvrtc.nvrtcCompileProgram(program, 1, options))
        size = ctypes.c_size_t()
        _ok(nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size)))
        image = ctypes.create_string_buffer(size.value)
        _ok(nvrtc.nvrtcGetCUBIN(program, image))
        return image.raw
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _load(image: bytes) -> Any:
    driver = _driver()
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    _ok(driver.cuModuleLoadData(ctypes.byref(module), image))
    _ok(driver.cuModuleGetFunction(ctypes.byref(function), module, b"chunk_sums"))
    return function


def _launch(kernel: Any, blocks: int, tensors: list[torch.Tensor]) -> None:
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
    arguments = (ctypes.c_void_p * len(pointers))(*(ctypes.addressof(pointer) for pointer in pointers))
    stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
    _ok(_driver().cuLaunchKernel(kernel, blocks, 1, 1, _THREADS, 1, 1, 0, stream, arguments, None))


def _ok(result: int) -> None:
    if result != 0:
        raise RuntimeError(f"NVRTC or the CUDA driver answered {result}")


@lru_cache(maxsize=1)
def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")


@lru_cache(maxsize=1)
def _nvrtc() -> ctypes.CDLL:
    """NVRTC by its plain name where the loader knows it, else from where torch's wheels put it."""
    version = (torch.version.cuda or "0").split(".")[0]
    if sys.platform == "win32":
        names, patterns = [f"nvrtc64_{version}0_0.dll"], ["nvrtc64_*.dll"]
    else:
        names, patterns = [f"libnvrtc.so.{version}", "libnvrtc.so"], ["libnvrtc.so*", "libnvrtc-????????.so*"]
    home = Path(torch.__file__).parent
    for folder in (home / "lib", *home.parent.glob("nvidia/*/lib"), *home.parent.glob("nvidia/*/bin")):
        for pattern in patterns:
            names += sorted(map(str, folder.glob(pattern)))
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise OSError("NVRTC was not found")
