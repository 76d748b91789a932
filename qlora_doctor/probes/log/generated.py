"""What a reinforcement run logs of its answers: how many are cut at their limit, how many groups have one reward.

The quantities are TRL's (grpo_trainer.py and rloo_trainer.py, ``_metrics``).
"""

from __future__ import annotations

import statistics
from typing import Any

from .known import Known
from .series import Course

_LAST = 10
"""Records that the end of a run is judged by."""


def generated_facts(course: Course, known: Known, found: dict[str, Any]) -> dict[str, Any]:
    """Fields of ``CourseFacts``; nothing where no answers are logged."""
    told: dict[str, Any] = {}
    for name, quantity in _QUANTITIES.items():
        series = course.series.get(quantity)
        values = series.finite().values[-_LAST:] if series is not None else []
        if values:
            told |= {name: statistics.fmean(values), "generated_records": len(values)}
    return told


_QUANTITIES = {"completions_cut_ratio": "completions/clipped_ratio", "groups_of_one_reward": "frac_reward_zero_std"}
