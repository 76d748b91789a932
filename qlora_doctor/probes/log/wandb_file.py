"""W&B's own file of a run, ``run-ID.wandb``: its history, its config and how it exited.

The file is a log as LevelDB writes one (github.com/google/leveldb, doc/log_format.md) behind seven bytes
of W&B's own, with zlib's CRC in place of CRC-32C; each record is a protocol buffer ``Record`` of wandb_internal.proto.
wandb had a reader in Python up to 0.21 and none since, so the few fields that are needed are read here.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_BEGINNING = struct.pack("<4sHB", b":W&B", 0xBEE1, 0)
_BLOCK, _HEADER = 32768, struct.Struct("<IHB")
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
# Numbers of the fields of wandb_internal.proto; they never change, as the format asks.
_HISTORY, _CONFIG, _RUN, _EXIT = 2, 5, 17, 18
_ITEM, _CONFIG_OF_RUN, _EXIT_CODE = 1, 4, 1
_KEY, _NESTED_KEY, _JSON = 1, 2, 16


@dataclass
class WandbFile:
    """What such a file holds.

    Attributes:
        history: what was logged, one mapping for each ``wandb.log``.
        config: the run's config, nested keys joined by a slash.
        exit_code: None where the run wrote none: it was killed, or goes on.
        damaged: the file ends in a record that cannot be read.
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None
    damaged: bool = False


def read_wandb_file(path: Path) -> WandbFile:
    """The file, up to the first record that is damaged.

    Raises:
        OSError: it cannot be read.
    """
    data = path.read_bytes()
    found = WandbFile(damaged=data[: len(_BEGINNING)] != _BEGINNING)
    if found.damaged:
        return found
    try:
        for record in _records(data):
            _take(found, record)
    except (ValueError, IndexError, struct.error):  # a run that was killed leaves its last record open
        found.damaged = True
    return found


def _take(found: WandbFile, record: bytes) -> None:
    for number, value in _fields(record):
        if number == _HISTORY:
            found.history.append(_items(value))
        elif number == _CONFIG:
            found.config |= _items(value)
        elif number == _RUN:
            for inner, part in _fields(value):
                if inner == _CONFIG_OF_RUN:
                    found.config |= _items(part)
        elif number == _EXIT:
            found.exit_code = next((code for inner, code in _fields(value) if inner == _EXIT_CODE), 0)


def _items(message: bytes) -> dict[str, Any]:
    """The pairs of key and value of a history or a config."""
    pairs: dict[str, Any] = {}
    for number, item in _fields(message):
        if number != _ITEM:
            continue
        keys: list[str] = []
        written = b"null"
        for inner, value in _fields(item):
            if inner in (_KEY, _NESTED_KEY):
                keys.append(value.decode("utf-8", "replace"))
            elif inner == _JSON:
                written = value
        if keys:
            pairs["/".join(keys)] = json.loads(written)
    return pairs


def _records(data: bytes) -> Iterator[bytes]:
    """The records, each put together from its pieces.

    Raises:
        ValueError: a piece is cut off, is not what its checksum says, or stands in the wrong place.
    """
    at, parts = len(_BEGINNING), b""
    while at < len(data):
        left = _BLOCK - at % _BLOCK
        if left < _HEADER.size:  # nothing begins there
            at += left
            continue
        checksum, length, kind = _HEADER.unpack_from(data, at)
        at += _HEADER.size
        piece = data[at : at + length]
        at += length
        if len(piece) < length or zlib.crc32(piece, zlib.crc32(bytes([kind]))) != checksum:
            raise ValueError("a damaged piece")
        if kind in (_FULL, _FIRST):
            parts = piece
        elif kind in (_MIDDLE, _LAST):
            parts += piece
        if kind in (_FULL, _LAST):
            yield parts


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of each field: a number for a varint, bytes for the rest.

    Source: https://protobuf.dev/programming-guides/encoding/.

    Raises:
        ValueError: it is no message.
    """
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield tag >> 3, value
            continue
        if kind == 2:
            length, at = _varint(message, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"a field of kind {kind}")
        if at + length > len(message):
            raise ValueError("a field that is cut off")
        yield tag >> 3, message[at : at + length]
        at += length


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
