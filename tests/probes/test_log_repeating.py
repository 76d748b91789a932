"""Losses that come again exactly, and those that only look alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from qlora_doctor.probes.log.judging import course_facts
from qlora_doctor.probes.log.repeating import period
from qlora_doctor.probes.log.searching import read_runs

EPOCH = [0.9741, 1.3742, 1.239, 0.967, 1.0386, 1.1681, 1.224, 0.961]


@pytest.mark.parametrize(
    ("values", "after"),
    [
        (EPOCH * 2, 8),
        (EPOCH * 6, 8),
        (EPOCH * 2 + EPOCH[:3], 8),
        (EPOCH, 0),
        (EPOCH + EPOCH[:6], 0),  # too few that are equal
        (EPOCH * 3 + [0.5], 0),
        ([round(value * 0.99**epoch, 4) for epoch in range(6) for value in EPOCH], 0),
        ([1.0] * 64, 0),  # a constant loss has a rule of its own
        ([1.0, 2.0] * 32, 0),
    ],
)
def test_the_period_of_a_loss(values: list[float], after: int) -> None:
    assert period(values) == after


def test_a_log_of_losses_that_come_again(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    log.write_text("".join(f"{{'loss': {loss}, 'epoch': {n / 8}}}\n" for n, loss in enumerate(EPOCH * 4)))
    (course,) = read_runs([log])
    assert course_facts(course).loss_period == 8


def test_the_loss_of_reinforcement_says_nothing(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    log.write_text("".join(f"{{'loss': {loss}, 'reward': 1.0, 'reward_std': 0.1}}\n" for loss in EPOCH * 4))
    (course,) = read_runs([log])
    assert course_facts(course).loss_period is None
