"""What is read again is read by the plan of the first time, as long as it fits. The kernel is played on the CPU."""

from __future__ import annotations

import contextlib
import ctypes
from typing import Any

import pytest
import torch

from qlora_doctor.probes.observing import fingerprint_cuda
from qlora_doctor.probes.observing.fingerprint import Fingerprint, _chunk_digests, _tables, fingerprints

CPU = torch.device("cpu")
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A kernel that reads host memory; the blocks of each launch."""
    seen: list[int] = []

    def launch(kernel: Any, blocks: int, tensors: list[torch.Tensor]) -> None:
        seen.append(blocks)
        addresses, lengths, digests = tensors
        for at, (address, length) in enumerate(zip(addresses.tolist(), lengths.tolist(), strict=True)):
            data = torch.frombuffer(bytearray(ctypes.string_at(address, length)), dtype=torch.uint8)
            words = torch.frombuffer(bytearray(_chunk_digests(data, _tables(CPU))), dtype=torch.int64)
            digests[at] = words

    monkeypatch.setattr(fingerprint_cuda, "_launch", launch)
    monkeypatch.setattr(fingerprint_cuda, "_kernel", lambda index: object())
    monkeypatch.setattr(fingerprint_cuda, "_plans", {})
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    return seen


def read(tensors: Tensors) -> dict[str, Fingerprint]:
    return fingerprint_cuda.chunk_digests(tensors, CPU)


def some(count: int) -> Tensors:
    return {f"t{n}": torch.randn(n * 37 % 5000 + 4) for n in range(count)}


def test_the_second_reading_plans_nothing_and_gives_the_same(
    launches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = some(600)
    first = read(tensors)
    assert first == fingerprints(tensors) and launches == [336, 264]
    monkeypatch.setattr(fingerprint_cuda, "_table", None)
    again = read(tensors)
    assert all(again[name] is first[name] for name in first)
    assert again == first and launches == [336, 264] * 2


def test_a_change_in_place_is_seen(launches: list[int]) -> None:
    tensors = some(20)
    first = read(tensors)
    tensors["t7"][3] += 1e-3
    second = read(tensors)
    assert [name for name in first if first[name] != second[name]] == ["t7"]


@pytest.mark.parametrize("how", ["moved", "reshaped", "cast", "renamed", "turned"])
def test_a_plan_that_fits_no_more_is_made_anew(launches: list[int], how: str) -> None:
    tensors = some(20) | {"square": torch.randn(64, 64)}
    read(tensors)
    if how == "moved":
        tensors["t3"] = tensors["t3"].clone()
    elif how == "reshaped":
        tensors["square"] = tensors["square"].view(32, 128)
    elif how == "cast":
        tensors["square"] = tensors["square"].view(torch.int32)
    elif how == "renamed":
        tensors["other"] = tensors.pop("t3")
    else:
        tensors["square"] = tensors["square"].T
    expected = fingerprints(tensors)
    found = read(tensors)
    assert found == {name: expected[name] for name in found}
    assert ("square" in found) == (how != "turned")


def test_two_sets_are_kept_side_by_side(launches: list[int]) -> None:
    base, adapter = some(10), some(4)
    for _ in range(2):
        read(base)
        read(adapter)
    assert len(launches) == 4 and len(fingerprint_cuda._plans[0]) == 2
