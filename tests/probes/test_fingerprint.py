"""A fingerprint sees every bit, reads what it is given as it is, and is what its definition says."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from qlora_doctor.probes.observing import fingerprint as module  # noqa: E402
from qlora_doctor.probes.observing.fingerprint import CHUNK, fingerprint, fingerprints  # noqa: E402

_ALL = (1 << 64) - 1


def by_definition(data: bytes) -> bytes:
    """The chunks' digests in plain Python integers."""

    def mix(z: int) -> int:
        z = ((z ^ (z >> 30)) * module.FIRST) & _ALL
        z = ((z ^ (z >> 27)) * module.SECOND) & _ALL
        return z ^ (z >> 31)

    digests = b""
    for start in range(0, len(data), CHUNK * 8):
        chunk = data[start : start + CHUNK * 8]
        chunk += bytes(-len(chunk) % 8)
        first = second = 0
        for i in range(len(chunk) // 8):
            word = int.from_bytes(chunk[8 * i : 8 * i + 8], "little")
            z = mix((word + (i + 1) * module.PHI) & _ALL)
            first, second = (first + z) & _ALL, (second + (2 * i + 1) * z) & _ALL
        digests += first.to_bytes(8, "little") + second.to_bytes(8, "little")
    return digests


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 1000, CHUNK * 8 - 1, CHUNK * 8, CHUNK * 8 + 3])
def test_is_what_its_definition_says(size: int) -> None:
    data = torch.randint(0, 256, (size,), dtype=torch.uint8)
    digests = module._chunk_digests(data, module._tables(data.device))
    assert digests == by_definition(data.numpy().tobytes())


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 5000), position=st.integers(0, 10**9), bit=st.integers(0, 7))
def test_every_single_bit_counts(size: int, position: int, bit: int) -> None:
    data = torch.arange(size, dtype=torch.int32).to(torch.uint8)
    before = fingerprint(data)
    data[position % size] ^= 1 << bit
    assert fingerprint(data) != before


def test_sign_bits_of_two_words_do_not_cancel() -> None:
    """What plain sums modulo 2⁶⁴ with odd weights cannot see."""
    data = torch.randn(1024, dtype=torch.float64)
    before = fingerprint(data)
    data[3], data[700] = -data[3], -data[700]
    assert fingerprint(data) != before


def test_exchanged_values_are_another_tensor() -> None:
    data = torch.randn(CHUNK + 5, dtype=torch.float64)
    before = fingerprint(data)
    data[[0, CHUNK + 2]] = data[[CHUNK + 2, 0]]
    assert fingerprint(data) != before


def test_a_tensor_that_grew_by_zeros_is_another_tensor() -> None:
    assert fingerprint(torch.zeros(8, dtype=torch.uint8)) != fingerprint(torch.zeros(16, dtype=torch.uint8))
    assert fingerprint(torch.zeros(7, dtype=torch.uint8)) != fingerprint(torch.zeros(8, dtype=torch.uint8))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64", "uint8", "int8", "int64", "bool"])
def test_dtypes(dtype: str) -> None:
    data = torch.arange(1003).remainder(2).to(getattr(torch, dtype))
    found = fingerprint(data)
    assert found is not None and found.dtype == dtype
    assert found.nbytes == 1003 * data.element_size()
    data[500] = 1 - data[500].to(torch.int32)
    assert fingerprint(data) != found


def test_views_are_read_in_row_major_order() -> None:
    data = torch.randn(96, 130)
    expected = fingerprint(data.T.contiguous())
    assert fingerprint(data.T) == expected
    pieces = list(module._pieces(data.T, 1024))
    assert b"".join(p.numpy().tobytes() for p in pieces) == data.T.contiguous().numpy().tobytes()


def test_a_view_that_begins_between_words() -> None:
    data = torch.randint(0, 256, (5000,), dtype=torch.uint8)
    assert fingerprint(data[3:4003]) == fingerprint(data[3:4003].clone())


def test_scalar_and_empty() -> None:
    assert fingerprint(torch.tensor(1.5)) != fingerprint(torch.tensor(1.25))
    assert fingerprint(torch.empty(0, 4)) == fingerprint(torch.empty(0, 4))


def test_meta_tensors_are_left_out() -> None:
    assert fingerprint(torch.empty(4, device="meta")) is None
    assert set(fingerprints({"a": torch.empty(4, device="meta"), "b": torch.ones(1)})) == {"b"}


def test_nan_and_negative_zero_are_told_by_their_bits() -> None:
    nan = torch.full((4,), float("nan"))
    assert fingerprint(nan) == fingerprint(nan.clone())
    assert fingerprint(torch.zeros(4)) != fingerprint(-torch.zeros(4))
