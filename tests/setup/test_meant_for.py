"""A setup for a card, or for several, that are named beside it."""

from __future__ import annotations

import pytest

from qlora_doctor.core.errors import UsageError
from qlora_doctor.setup.meant_for import meant_for
from qlora_doctor.setup.setup import Hardware, Setup

OWN = Setup(hardware=Hardware(gpu="t4", count=4))


@pytest.mark.parametrize(
    "said, gpu, memory, count",
    [
        ("rtx-4090", "rtx-4090", None, 4),
        ("24GiB", None, "24GiB", 4),
        ("2xrtx-4090", "rtx-4090", None, 2),
        ("8 x 80GiB", None, "80GiB", 8),
        ("2×RTX 4090", "RTX 4090", None, 2),
    ],
)
def test_a_card_by_name_or_size_and_how_many(said: str, gpu: str | None, memory: str | None, count: int) -> None:
    hardware = meant_for(OWN, said).hardware
    assert (hardware.gpu, hardware.memory, hardware.count) == (gpu, memory, count)


@pytest.mark.parametrize("said", ["2x", "0.5xrtx-4090", "2xnocard", "x2"])
def test_what_is_no_card_is_refused_with_a_remedy(said: str) -> None:
    with pytest.raises(UsageError) as refused:
        meant_for(OWN, said)
    assert "2xrtx-4090" in (refused.value.remedy or "")
