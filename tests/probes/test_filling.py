"""Shares of text of the ways to fill batches, counted out by hand and held against TRL's own packing."""

from __future__ import annotations

import random

import pytest

from qlora_doctor.probes.data.filling import filling


def test_counted_by_hand() -> None:
    found = filling([10] * 8 + [90] * 8, 2, 100)
    assert found["text_ratio_grouped"] == 1.0 and found["text_ratio_packed"] == pytest.approx(800 / 800)
    assert 800 / (16 * 90) <= found["text_ratio_padded"] < 1.0
    assert filling([10] * 16, 1, None) == {"text_ratio_padded": 1.0, "text_ratio_grouped": 1.0}
    assert filling([10] * 15, 1, None) == {}
    assert filling([400] * 16, 4, 100)["text_ratio_packed"] == 1.0, "rows are cut at the limit"


def test_packed_as_trl_packs() -> None:
    pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    from trl.data_utils import pack_dataset

    draw = random.Random(3)
    lengths = [draw.randint(5, 120) for _ in range(300)]
    rows = datasets.Dataset.from_dict({"input_ids": [[1] * length for length in lengths]})
    packed = pack_dataset(rows, 128, "bfd")
    own = filling(lengths, 8, 128)["text_ratio_packed"]
    assert own == pytest.approx(sum(lengths) / (len(packed) * 128), rel=0.02)
