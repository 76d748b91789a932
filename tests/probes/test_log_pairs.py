"""Preference training with nothing left to tell apart, and evaluations without a loss."""

from __future__ import annotations

from typing import Any

import pytest

from qlora_doctor.probes.log.judging import course_facts
from qlora_doctor.probes.log.series import course_from_records


def dpo(losses: list[float], accuracy: float) -> list[dict[str, Any]]:
    return [
        {"step": n, "loss": loss, "rewards/accuracies": accuracy, "rewards/margins": 0.5 * n, "rewards/chosen": 0.1}
        for n, loss in enumerate(losses, 1)
    ]


@pytest.mark.parametrize(
    ("losses", "accuracy", "since"),
    [
        ([0.69, 0.3, 0.05] + [0.0] * 20, 1.0, 4),
        ([0.69, 0.3, 0.05] + [0.0] * 20, 0.9, 0),  # not every pair
        ([0.69 - 0.02 * n for n in range(23)], 1.0, 0),
        ([0.5] * 20 + [0.001] * 6, 1.0, 0),  # at the end alone
    ],
)
def test_pairs_told_apart(losses: list[float], accuracy: float, since: int) -> None:
    facts = course_facts(course_from_records(dpo(losses, accuracy)))
    assert facts.pairs_told_apart_from == since


@pytest.mark.parametrize(
    ("evaluation", "lossless"),
    [({"eval_runtime": 12.0}, True), ({"eval_runtime": 12.0, "eval_loss": 1.5}, False), ({"eval_accuracy": 0.5}, None)],
)
def test_evaluations_without_a_loss(evaluation: dict[str, float], lossless: bool | None) -> None:
    records: list[dict[str, Any]] = [{"step": n, "loss": 2 - n / 100} for n in range(1, 30)]
    facts = course_facts(course_from_records([*records, {"step": 29, **evaluation}]))
    assert facts.evaluation_lossless is lossless
