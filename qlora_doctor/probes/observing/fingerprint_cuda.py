"""The chunks' digests of many CUDA tensors in a few launches, each byte read once.

The kernel is compiled at run time with the NVRTC that every CUDA build of torch brings along (no toolkit, no compiler,
no extra package) and launched through the driver. Where that is not to be had, the caller falls back on plain torch.
QLORA_DOCTOR_NO_NVRTC=1 in the environment asks for that.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .chunk import CHUNK

_THREADS = 256
_GROUP = 256
"""Tensors in one launch."""
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


def chunk_digests(tensors: Mapping[str, torch.Tensor], device: torch.device) -> dict[str, bytes]:
    """16 bytes for each chunk of each tensor that can be read in place; ``{}`` where no kernel can be had."""
    with torch.cuda.device(device):
        kernel = _kernel(torch.cuda.current_device())
        if kernel is None:
            return {}
        names: list[str] = []
        counts: list[int] = []
        parts: list[torch.Tensor] = []
        # In groups, so that the device reads one while the host gathers the addresses of the next.
        for group in _groups(tensors):
            chunks, part = _read(kernel, list(group.values()), device)
            names += group
            counts += chunks
            parts.append(part)
        if not parts:
            return {}
        data = torch.cat(parts).cpu().numpy().tobytes()
    ends = accumulate(16 * count for count in counts)
    return {name: data[end - 16 * count : end] for name, count, end in zip(names, counts, ends, strict=True)}


def _groups(tensors: Mapping[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
    direct = ((name, tensor) for name, tensor in tensors.items() if _can_be_read_in_place(tensor))
    while group := dict(islice(direct, _GROUP)):
        yield group


def _read(kernel: Any, tensors: list[torch.Tensor], device: torch.device) -> tuple[list[int], torch.Tensor]:
    """Launch the kernel over some tensors; the number of chunks of each, and the digests, shape (chunks, 2)."""
    starts = np.array([tensor.data_ptr() for tensor in tensors], dtype=np.int64)
    sizes = np.array([tensor.nbytes for tensor in tensors], dtype=np.int64)
    chunks = -(-sizes // (CHUNK * 8))
    first = np.cumsum(chunks) - chunks
    offset = (np.arange(chunks.sum()) - np.repeat(first, chunks)) * (CHUNK * 8)  # of a chunk within its tensor
    length = np.minimum(np.repeat(sizes, chunks) - offset, CHUNK * 8)
    # Not waiting for the copy: it would wait for the kernel of the group before.
    table = torch.from_numpy(np.stack([np.repeat(starts, chunks) + offset, length])).to(device, non_blocking=True)
    digest = torch.empty((len(offset), 2), dtype=torch.int64, device=device)
    _launch(kernel, len(offset), [table[0], table[1], digest])
    return chunks.tolist(), digest


def _can_be_read_in_place(tensor: torch.Tensor) -> bool:
    return (
        tensor.numel() > 0
        and tensor.is_contiguous()
        and tensor.data_ptr() % 16 == 0
        and not tensor.is_conj()
        and not tensor.is_neg()
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
