"""Numbers, names and verdicts in words."""

from __future__ import annotations

import math

import pytest

from qlora_doctor.core.report import Summary
from qlora_doctor.reporters import _words as words
from qlora_doctor.reporters.verdict import counting, verdict
from tests.reporters import fixtures


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, "0 bytes"), (1023, "1023 bytes"), (1024, "1 KiB"), (7_590_000_000, "7.07 GiB"),
        (25_300_000_000, "23.6 GiB"), (2**40 - 1, "1 TiB"), (9_999_999_999_999_999, "9095 TiB"), (None, "unknown"),
    ],
)  # fmt: skip
def test_sizes(count: int | None, expected: str) -> None:
    assert words.size(count) == expected


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        (0.0, "0%"), (1.0, "100%"), (0.99999, "over 99.99%"), (0.9996, "99.9%"), (0.994, "99.4%"),
        (0.00000001, "under 0.01%"), (0.0025, "0.25%"), (0.2494, "24.9%"), (1.13, "113%"), (None, "unknown"),
        (math.nan, "nan"),
    ],
)  # fmt: skip
def test_shares_are_all_or_none_only_where_they_are(ratio: float | None, expected: str) -> None:
    assert words.percent(ratio) == expected


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([], ""), ([3], "3"), ([0, 1, 2, 3], "0–3"), ([5, 0, 1, 7, 6], "0–1, 5–7"),
        (range(0, 80, 2), "0–78 in steps of 2"), ([0, 2], "0, 2"), ([1, 1, 2], "1–2"),
    ],
)  # fmt: skip
def test_layers_as_ranges(numbers: list[int], expected: str) -> None:
    assert words.layers(numbers) == expected


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("memory.card_bytes", 2**30, "1 GiB (1,073,741,824 bytes)"),
        ("adapter.trainable_ratio", 0.0025, "0.25%"),
        ("step.loss_finite", False, "false"),
        ("step.loss_before", math.nan, "NaN"),
        ("config.learning_rate", 2e-4, "0.0002"),
        ("adapter.matched_modules", [], "none"),
        ("adapter.matched_modules", [str(i) for i in range(20)], "0, 1, 2, 3, 4, 5, 6, 7 and 12 more"),
        ("load.nested_ratio", None, "unknown"),
        ("config.lora_alpha", 16.0, "16"),
    ],
)
def test_facts_carry_the_unit_of_their_name(name: str, value: object, expected: str) -> None:
    assert words.fact(name, value) == expected


def test_module_names_are_told_by_kind() -> None:
    names = [f"model.layers.{i}.mlp.up_proj" for i in range(3)] + ["lm_head"]
    assert words.kinds(names) == "model.layers.*.mlp.up_proj (3), lm_head"
    assert words.kinds(["a", "b", "c"], most=1) == "a and 2 other kinds"


def test_times() -> None:
    assert [words.seconds(s) for s in (0.0214, 3.94, 125, None)] == ["21 ms", "3.94 s", "2 min 5 s", "unknown"]


def test_controls_are_made_visible_and_letters_of_every_script_stay() -> None:
    assert words.visible("a\x00b\u202ec\u200fd") == "a\\x00b\\u202ec\\u200fd"
    assert words.visible("مرحبا 模型 é\tx\n") == "مرحبا 模型 é\tx\n"
    assert "\ud800".encode("utf-8", "replace") and words.visible("\ud800") == "\\ud800"


@pytest.mark.parametrize(
    ("name", "level", "headline"),
    [
        ("healthy", "pass", "Healthy: every stage ran, and nothing was found."),
        ("broken", "error", "3 errors: training would fail, or train the wrong thing."),
        ("config_only", "partial", "Nothing found in the config stage."),
        ("large", "warning", "No errors in any stage; 1 warning."),
        ("not_understood", "partial", "Nothing was checked."),
    ],
)
def test_verdicts(name: str, level: str, headline: str) -> None:
    told = verdict(fixtures.ALL[name]())
    assert (told.level, told.headline) == (level, headline)


def test_a_failed_stage_is_never_a_good_verdict() -> None:
    stages = fixtures.stages(load={"status": "failed", "reason": "It was killed."})
    told = verdict(fixtures.healthy().model_copy(update={"stages": stages}))
    assert (told.level, told.headline) == ("incomplete", "Not settled: the load stage failed.")
    warned = fixtures.healthy().model_copy(update={"stages": stages, "summary": Summary(warning=2)})
    assert verdict(warned).level == "incomplete"


def test_the_gravest_and_surest_come_first() -> None:
    found = counting(fixtures.broken())
    assert [f.severity for f in found] == ["error"] * 3 + ["warning"] * 3 + ["info"]
    assert [f.rule for f in found][:3] == ["QD301", "QD503", "QD202"]
    assert all(f.suppressed is None for f in found)
