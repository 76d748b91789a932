"""An exact fingerprint of a tensor, computed where the tensor is, over every byte of it.

Definition. The bytes, in row-major order, are read as little-endian 64-bit words (the last one filled up with zeros)
in chunks of ``CHUNK`` words. Within a chunk, word ``w`` at position ``i`` becomes ``z = mix(w + (i + 1)·φ)`` with
SplitMix64's finaliser (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014), and the chunk's
digest is the pair ``Σ z`` and ``Σ (2i + 1)·z`` modulo 2⁶⁴. The fingerprint is the chunks' digests in order, 16 bytes
for each 256 KiB, with dtype and shape.

Collisions. ``mix`` is a bijection, so a change within one word (any single bit, any single weight) changes ``Σ z`` of
its chunk with certainty. A change in several words goes unseen only where both sums cancel; for changes that know
nothing of the hash that is one chance in about 2¹²⁶.

Cost. Where torch can compile a kernel at run time (``torch.cuda._compile_kernel``, torch ≥ 2.9) one launch reads all
tensors of a CUDA device once; else the same numbers come from plain torch operations. Transient device memory is
28 bytes for every 256 KiB fingerprinted with the kernel, and at most 40 MiB without.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from ..tensors import is_readable, local_part
from .chunk import CHUNK, Fingerprint, dtype_name

PHI, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_PIECE = 1 << 20
"""Words that plain torch works on at a time on an accelerator (8 MiB); a multiple of CHUNK."""
Tables = tuple[torch.Tensor, torch.Tensor]


def fingerprint(tensor: torch.Tensor) -> Fingerprint | None:
    """Fingerprint of one tensor; None where there is nothing to read, as on the meta device."""
    return fingerprints({"": tensor}).get("")


def fingerprints(tensors: Mapping[str, torch.Tensor]) -> dict[str, Fingerprint]:
    """Fingerprints by name, of a sharded tensor that of the shard held here; what cannot be read is left out."""
    one = _one_cuda_device(tensors)
    held = tensors if one is not None else {name: local_part(tensor) for name, tensor in tensors.items()}
    found: dict[str, Fingerprint] = {}
    for device, group in {one: held}.items() if one is not None else _on_cuda(held).items():
        from .fingerprint_cuda import chunk_digests

        found.update(chunk_digests(group, device))
    if len(found) == len(held):
        return {name: found[name] for name in held} if one is None else found
    tables: dict[torch.device, Tables] = {}
    for name, tensor in held.items():
        if name in found or not is_readable(tensor):
            continue
        if tensor.device not in tables:
            tables[tensor.device] = _tables(tensor.device)
        digests = _chunk_digests(tensor.detach(), tables[tensor.device])
        found[name] = Fingerprint(digests, dtype_name(tensor.dtype), tuple(tensor.shape))
    return {name: found[name] for name in held if name in found}


def _one_cuda_device(tensors: Mapping[str, torch.Tensor]) -> torch.device | None:
    """The CUDA device that all of these tensors are on; None where they are not, or where one is held in parts."""
    places = set(map(torch.Tensor.get_device, tensors.values()))
    if len(places) != 1 or not next(iter(tensors.values())).is_cuda:
        return None
    if any(hasattr(kind, "__tensor_flatten__") for kind in set(map(type, tensors.values()))):
        return None
    return torch.device("cuda", places.pop())


def _on_cuda(tensors: Mapping[str, torch.Tensor]) -> dict[torch.device, dict[str, torch.Tensor]]:
    """Those on CUDA, by their device."""
    found: dict[torch.device, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        if tensor.is_cuda:
            found.setdefault(tensor.device, {})[name] = tensor
    return found


# -- the chunks' digests by plain torch operations


def _chunk_digests(tensor: torch.Tensor, tables: Tables) -> bytes:
    """16 bytes for each chunk of the tensor."""
    # On the CPU one chunk and its work space stay in a core's cache.
    step = CHUNK if tensor.device.type == "cpu" else _PIECE
    return b"".join(_digest(words, tables).cpu().numpy().tobytes() for words in _pieces(tensor, step * 8))


def _pieces(tensor: torch.Tensor, nbytes: int) -> Iterator[torch.Tensor]:
    """The tensor's bytes as int64 words, ``nbytes`` (a multiple of 8) at a time; the last piece may be shorter."""
    rest: torch.Tensor | None = None
    for block in _blocks(tensor, nbytes):
        flat = block if rest is None else torch.cat([rest, block])
        full = flat.numel() // nbytes * nbytes
        for start in range(0, full, nbytes):
            yield _as_words(flat[start : start + nbytes])
        rest = flat[full:] if full < flat.numel() else None
    if rest is not None:
        yield _as_words(rest)


def _blocks(tensor: torch.Tensor, nbytes: int) -> Iterator[torch.Tensor]:
    """The tensor's bytes in row-major order; only what is not contiguous is copied, about ``nbytes`` at a time."""
    if tensor.numel() == 0:
        return
    if tensor.is_contiguous() or tensor.numel() * tensor.element_size() <= nbytes:
        yield tensor.resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)
        return
    for part in tensor.unbind(0):
        yield from _blocks(part, nbytes)


def _as_words(data: torch.Tensor) -> torch.Tensor:
    if data.numel() % 8 or data.storage_offset() % 8 or data.data_ptr() % 8:
        padded = torch.zeros(-(-data.numel() // 8) * 8, dtype=torch.uint8, device=data.device)
        padded[: data.numel()] = data
        data = padded
    return data.view(torch.int64)


def _digest(words: torch.Tensor, tables: Tables) -> torch.Tensor:
    """Digests of all chunks in a piece, shape (chunks, 2)."""
    keys, odd = tables
    full = words.numel() // CHUNK
    parts = []
    if full:
        parts.append(_sums(words[: full * CHUNK].view(full, CHUNK), keys, odd))
    if full * CHUNK < words.numel():
        tail = words[full * CHUNK :]
        parts.append(_sums(tail.view(1, -1), keys[: tail.numel()], odd[: tail.numel()]))
    return torch.cat(parts)


def _sums(words: torch.Tensor, keys: torch.Tensor, odd: torch.Tensor) -> torch.Tensor:
    z = words + keys
    shifted = torch.empty_like(z)
    for shift, factor in ((30, FIRST), (27, SECOND), (31, None)):
        torch.bitwise_right_shift(z, shift, out=shifted)  # int64 shifts in copies of the sign …
        shifted.bitwise_and_((1 << (64 - shift)) - 1)  # … which go here
        z.bitwise_xor_(shifted)
        if factor is not None:
            z.mul_(_signed(factor))
    first = z.sum(dim=1)
    return torch.stack([first, z.mul_(odd).sum(dim=1)], dim=1)


def _tables(device: torch.device) -> Tables:
    """``(i + 1)·φ`` and ``2i + 1`` for every position of a chunk: half a MiB, kept no longer than one call."""
    position = torch.arange(CHUNK, dtype=torch.int64, device=device)
    return (position + 1) * _signed(PHI), 2 * position + 1


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
