"""A checkpoint on disk, judged by its headers before anything is loaded: what is there, and whether it is whole.

A safetensors file begins with the length of its header (8 bytes, little-endian), the header as JSON, then the data;
the header says for every tensor its dtype, shape and place (https://huggingface.co/docs/safetensors/index).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...core.errors import StageError

_HEADER_LIMIT = 100_000_000
"""Bytes of a header at most, as safetensors itself has it."""
_BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}
_BYTES |= {"I8": 1, "U8": 1, "BOOL": 1}
_PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt", "consolidated*.bin")
_FETCH = "Download or copy the file again."
_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a safetensors file."""

    name: str
    dtype: str
    """In safetensors' names: ``BF16``, ``F32``, ``U8``, …"""
    shape: tuple[int, ...]
    file: Path
    nbytes: int
    begin: int = 0
    """Where it begins, behind the header."""

    @property
    def elements(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count


@dataclass(frozen=True)
class Checkpoint:
    """The weights that a folder holds."""

    folder: Path
    files: list[Path]
    tensors: dict[str, StoredTensor] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of the files."""
        return sum(file.stat().st_size for file in self.files)

    @property
    def elements(self) -> int:
        """Elements of all tensors; of packed 4-bit weights these are bytes."""
        return sum(tensor.elements for tensor in self.tensors.values())

    @property
    def largest(self) -> StoredTensor | None:
        return max(self.tensors.values(), key=lambda tensor: tensor.nbytes, default=None)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read the headers of all weight files that from_pretrained would read.

    Raises:
        StageError: kind ``missing-file``, ``truncated``, ``corrupt`` or ``pickle-only``.
    """
    files, index = _files(folder)
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        tensors.update(read_header(file))
    for name, file_name in (index or {}).items():
        stored = tensors.get(name)
        if stored is None or stored.file.name != file_name:
            raise StageError(
                f"The index places {name} in {file_name}, which does not hold it.",
                kind="corrupt",
                remedy=_FETCH,
            )
    return Checkpoint(folder, files, tensors)


def read_header(file: Path) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file by name; none of their data is read.

    Raises:
        StageError: kind ``missing-file``, ``truncated`` or ``corrupt``.
    """
    return {tensor.name: tensor for tensor in _tensors(file)}


def is_packed_in(checkpoint: Checkpoint, name: str) -> bool:
    """Whether a tensor holds packed bytes, in whatever dtype they are stored.

    bitsandbytes stores the statistics beside such a weight (``QuantState.as_dict`` in bitsandbytes/functional.py).
    """
    return f"{name}.absmax" in checkpoint.tensors


def check_shapes(checkpoint: Checkpoint, expected: dict[str, tuple[int, ...]]) -> None:
    """Hold the checkpoint's shapes against those that config.json gives.

    Args:
        expected: shapes of the parameters as designed (not packed), by name. Names that the checkpoint does not have
            are passed over: transformers renames on load.

    Raises:
        StageError: kind ``wrong-shape``, naming the first tensor and how many there are.
    """
    wrong = []
    for name, shape in expected.items():
        stored = checkpoint.tensors.get(name)
        numbers = stored is not None and stored.dtype in ("F32", "F16", "BF16") and not is_packed_in(checkpoint, name)
        if stored is not None and numbers and stored.shape != shape:
            wrong.append((name, stored.shape, shape))
    if wrong:
        name, has, wants = wrong[0]
        others = f", and {len(wrong) - 1} more tensors differ" if len(wrong) > 1 else ""
        raise StageError(
            f"{name} is {_shape(has)} in the checkpoint and {_shape(wants)} by its config.json{others}.",
            kind="wrong-shape",
            remedy="Take config.json and weights from the same place.",
        )


def _files(folder: Path) -> tuple[list[Path], dict[str, str] | None]:
    """Weight files in the order that transformers looks for them, and the index where there is one."""
    single, index_file = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single], None
    if index_file.is_file():
        index = _index(index_file)
        files = [folder / name for name in sorted(set(index.values()))]
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            named = ", ".join(missing[:3]) + (" …" if len(missing) > 3 else "")
            raise StageError(
                f"{len(missing)} of {len(files)} weight files are missing from {folder}: {named}.",
                kind="missing-file",
                remedy="Download or copy the missing files.",
            )
        return files, index
    if any(next(folder.glob(pattern), None) for pattern in _PICKLES):
        raise StageError(
            f"{folder} holds its weights only as pickle files, which can run code when they are read.",
            kind="pickle-only",
            remedy="Convert them to safetensors, or use a safetensors revision of the model.",
        )
    raise StageError(
        f"{folder} has a config.json and no weights (model.safetensors or its index).",
        kind="missing-file",
        remedy="Download the weights into the folder.",
    )


def _index(file: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(file.read_text(encoding="utf-8"))["weight_map"]
        names = {str(name): str(where) for name, where in weight_map.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StageError(f"{file} is no index of weight files.", kind="corrupt", remedy=_FETCH) from error
    outside = [where for where in names.values() if Path(where).name != where]
    if outside:
        raise StageError(f"{file} names a file outside its folder: {outside[0]!r}.", kind="corrupt", remedy=_FETCH)
    return names


def _tensors(file: Path) -> Iterator[StoredTensor]:
    header, data_start, size = _header(file)
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            dtype, shape = str(entry["dtype"]), tuple(int(n) for n in entry["shape"])
            begin, end = (int(n) for n in entry["data_offsets"])
        except (KeyError, TypeError, ValueError) as error:
            raise _corrupt(file, f"its entry for {name!r} cannot be read") from error
        stored = StoredTensor(name, dtype, shape, file, end - begin, begin)
        fits = dtype not in _BYTES or stored.nbytes == stored.elements * _BYTES[dtype]
        if begin < 0 or end < begin or not fits:
            raise _corrupt(file, f"{name!r} has {end - begin} bytes for {_shape(shape)} of {dtype}")
        if data_start + end > size:
            raise StageError(
                f"{file.name} is truncated: it has {size:,} of at least {data_start + end:,} bytes.",
                kind="truncated",
                remedy=_FETCH,
            )
        yield stored


def _header(file: Path) -> tuple[dict[str, Any], int, int]:
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            start = stream.read(8)
            if start == _POINTER[:8] and stream.read(len(_POINTER) - 8) == _POINTER[8:]:
                message = f"{file.name} is a pointer of Git LFS and not the file itself: `git lfs pull` fetches that."
                raise StageError(message, kind="corrupt", remedy=_FETCH)
            length = int.from_bytes(start, "little")
            if size >= 8 and length > _HEADER_LIMIT:
                raise _corrupt(file, "its header has an impossible length")
            if size < 8 or 8 + length > size:
                message = f"{file.name} ends before its header does ({size:,} bytes)."
                raise StageError(message, kind="truncated", remedy=_FETCH)
            header = json.loads(stream.read(length))
    except OSError as error:
        message = f"{file} cannot be read: {error.strerror}."
        raise StageError(message, kind="missing-file", remedy="Look at the file's permissions.") from error
    except ValueError as error:
        raise _corrupt(file, "its header is no JSON") from error
    if not isinstance(header, dict):
        raise _corrupt(file, "its header is no JSON object")
    return header, 8 + length, size


def _corrupt(file: Path, why: str) -> StageError:
    return StageError(f"{file.name} is damaged: {why}.", kind="corrupt", remedy=_FETCH)


def _shape(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape)) or "a single number"
