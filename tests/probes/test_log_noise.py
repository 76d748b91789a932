"""Trend and noise against values from the literature and scipy."""

from __future__ import annotations

import math
import random

import pytest

from qlora_doctor.probes.log import course_facts, course_from_records
from qlora_doctor.probes.log.noise import mann_kendall, noise, sen_slope, trend
from qlora_doctor.probes.log.series import Series, as_number
from qlora_doctor.probes.log.thinning import MOST, chosen


def test_mann_kendall_with_and_without_ties() -> None:
    values = [10, 22, 21, 30, 22, 30, 40, 40]
    s = sum((b > a) - (b < a) for i, a in enumerate(values) for b in values[i + 1 :])
    z, probability = mann_kendall(values)
    assert z == pytest.approx((s - 1) / math.sqrt((8 * 7 * 21 - 3 * 2 * 1 * 9) / 18))
    assert probability == pytest.approx(math.erfc(z / math.sqrt(2)))
    assert mann_kendall([1.0] * 9) == (0.0, 1.0)
    rising, falling = mann_kendall(list(range(20))), mann_kendall(list(range(20))[::-1])
    assert rising[0] == -falling[0] > 5 and rising[1] == falling[1] < 1e-6


@pytest.mark.parametrize("slope", [0.0, 0.5])
def test_noise_is_that_of_a_point_whatever_the_slope_and_the_spikes(slope: float) -> None:
    draw = random.Random(1)
    values = [slope * i + draw.gauss(0, 0.2) for i in range(2000)]
    values[100] = values[700] = 50.0
    assert noise(values) == pytest.approx(0.2, rel=0.1)
    assert sen_slope(values[:300]) == pytest.approx(slope, abs=1e-3)


def test_no_trend_in_noise_and_trend_in_a_slope() -> None:
    wrong = 0
    for seed in range(200):
        draw = random.Random(seed)
        values = [draw.gauss(0, 1) for _ in range(60)]
        found = trend(Series([float(i) for i in range(60)], values))
        assert found is not None
        wrong += found.direction != "flat"
    assert wrong <= 8  # one percent by the test, and by the levels hardly any
    falling = trend(
        Series([float(i) for i in range(60)], [2 - 0.1 * i + random.Random(i).gauss(0, 1) for i in range(60)])
    )
    assert falling is not None and falling.direction == "falls"


def test_a_fall_is_not_called_flat() -> None:
    """A run that falls by two standard deviations is hardly ever called flat, one that does not fall mostly is."""
    for length in (20, 50, 100, 400):
        flat = {fall: sum(is_flat(length, fall, seed) for seed in range(40)) for fall in (0.0, 2.0)}
        assert flat[2.0] <= 1
        assert flat[0.0] >= {20: 0, 50: 10, 100: 30, 400: 34}[length]


def test_a_gradient_that_moves_nothing_is_evidence_of_a_flat_loss() -> None:
    """Forty records alone leave the question open; a norm that is lost in Adam's epsilon closes it."""
    for norm, flat in ((0.3, None), (3e-10, True)):
        draw = random.Random(3)
        records = [{"step": i, "loss": 6.22 + draw.gauss(0, 0.01), "grad_norm": norm} for i in range(40)]
        assert course_facts(course_from_records(records)).loss_flat is flat


def is_flat(length: int, fall: float, seed: int) -> bool:
    """Whether a loss that falls by so many standard deviations of a point is called flat."""
    draw = random.Random(seed)
    rows = [{"step": i + 1, "loss": 2 + 0.1 * (draw.gauss(0, 1) - fall * i / length)} for i in range(length)]
    return course_facts(course_from_records(rows)).loss_flat is True


@pytest.mark.parametrize(
    ("written", "number"),
    [("1.5e-4", 1.5e-4), ("12.5%", 12.5), ("0:01:30", 90.0), ("2 days, 1:00:00", 176400.0), ("1m 3s", 63.0),
     ("nan", math.nan), (True, None), ("text", None), ("", None), (3, 3.0)],
)  # fmt: skip
def test_numbers_as_they_are_written(written: object, number: float | None) -> None:
    found = as_number(written)
    assert found == number or (found != found and number != number)


def test_of_a_very_long_log_nothing_that_stands_out_is_lost() -> None:
    draw = random.Random(2)
    count = 2 * MOST
    lines = [f'{{"step": {i + 1}, "loss": {2 + draw.gauss(0, 0.1):.4f}}}' for i in range(count)]
    lines[70_001] = '{"step": 70002, "loss": 9.5}'
    lines[90_007] = '{"step": 90008, "loss": NaN}'
    lines[100_003] = '{"step": 100003, "eval_loss": 1.5}'
    kept = chosen(lines)
    assert kept is not None and len(kept) < MOST
    assert {0, 70_001, 90_007, 100_003, count - 1} <= set(kept)
    assert chosen(lines[:MOST]) is None


@pytest.mark.parametrize(("clipped", "alike"), [(1.0, 0.25), (0.1, 1.0)])
def test_generated_answers_are_judged_by_the_end_of_the_log(clipped: float, alike: float) -> None:
    """Quantities as GRPOTrainer logs them; the first records are left out."""
    records = [
        {"step": step, "loss": 0.0, "reward": 0.5, "completions/clipped_ratio": clipped if step > 5 else 0.5,
         "frac_reward_zero_std": alike if step > 5 else 0.5}
        for step in range(1, 21)
    ]  # fmt: skip
    facts = course_facts(course_from_records(records))
    assert facts.completions_cut_ratio == pytest.approx(clipped) and facts.groups_of_one_reward == pytest.approx(alike)
    assert facts.generated_records == 10
