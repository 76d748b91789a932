"""Settings and comments of a repository: where they are found, what they mean, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from qlora_doctor.core.errors import ConfigError
from qlora_doctor.reading.comments import remarks_in
from qlora_doctor.run.settings import find_settings, read_settings


def test_the_nearest_settings_are_all_there_are(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text('[tool.qlora-doctor]\nprofile = "strict"\n')
    (tmp_path / "a" / "pyproject.toml").write_text("[tool.other]\n")
    assert find_settings(deep / "c.yaml").settings.profile == "strict"
    (tmp_path / "a" / "qlora-doctor.toml").write_text('fail-on = "info"\nrules = ["ours"]\n')
    found = find_settings(deep / "c.yaml")
    assert found.settings.profile is None and found.settings.fail_on == "info"
    assert found.rule_folders == ((tmp_path / "a" / "ours").resolve(),)


def test_limits_are_numbers_sizes_and_shares(tmp_path: Path) -> None:
    file = tmp_path / "qlora-doctor.toml"
    file.write_text(
        '[budgets]\n"a.x_bytes" = {max = "22GiB"}\n"a.y_ratio" = {min = "0.5%", level = "warn"}\n"z" = {max = 3}\n'
    )
    budgets = read_settings(file).settings.budgets
    assert budgets["a.x_bytes"].max == 22 * 2**30 and budgets["a.x_bytes"].level == "error"
    assert budgets["a.y_ratio"].min == pytest.approx(0.005) and budgets["a.y_ratio"].level == "warn"
    assert budgets["z"].max == 3


def test_ignored_findings_have_reasons(tmp_path: Path) -> None:
    file = tmp_path / "qlora-doctor.toml"
    file.write_text('[[ignore]]\nrule = "QD203"\nreason = "on purpose"\nuntil = 2027-01-01\n')
    (ignored,) = read_settings(file).settings.ignored_findings
    assert ignored.reason == "on purpose" and str(ignored.until) == "2027-01-01"
    file.write_text('ignore = ["QD208"]\n[[ignore-findings]]\nrule = "QD203"\nreason = "r"\n')
    settings = read_settings(file).settings
    assert settings.ignored_rules == ["QD208"] and settings.ignored_findings[0].rule == "QD203"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("profiel = 1", "there is no profiel; there are select, ignore"),
        ('profile = "lax"', "profile: Input should be 'min', 'recommended' or 'strict'"),
        ("select = 'QD3'", "select: Input should be a valid list"),
        ('[[ignore]]\nrule = "QD1"', "reason"),
        ("[budgets]\nx = {level = 'error'}", "the budget of x has neither max nor min"),
        ("[budgets]\nx = {max = 'much'}", "not a memory size"),
        ("[budgets]\nx = {max = true}", "truth value"),
        ("fail-on = 3", "fail-on"),
        ("= 3", "is no TOML"),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, text: str, sentence: str) -> None:
    file = tmp_path / "qlora-doctor.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        find_settings(tmp_path / "x.yaml")
    assert sentence in caught.value.message and str(file) in caught.value.message


YAML = """\
# qlora-doctor: ignore-file[QD208] single quantization is our choice
model: m
lora:
  r: 16  # qlora-doctor: ignore[QD122, QD3] tried it
  # qlora-doctor: ignore[odd-name]
  # about the next key

  lora_alpha: 64
  note: "# qlora-doctor: ignore[QD999] a text"
"""


def test_comments_in_yaml(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(YAML)
    found = [(remark.line, remark.covers, remark.rules, remark.reason) for remark in remarks_in(file)]
    assert found == [
        (1, None, ("QD208",), "single quantization is our choice"),
        (4, 4, ("QD122", "QD3"), "tried it"),
        (5, 8, ("odd-name",), "no reason was given"),
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.py", 'r = 16  # qlora-doctor: ignore[QD1] why\nt = "# qlora-doctor: ignore[QD2] no"\n'),
        ("c.json", '{"r": 16, // qlora-doctor: ignore[QD1] why\n "t": "// qlora-doctor: ignore[QD2] no"}'),
    ],
)
def test_comments_elsewhere(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    (remark,) = remarks_in(tmp_path / name)
    assert (remark.rules, remark.covers, remark.reason) == (("QD1",), 1, "why")


def test_files_that_cannot_be_read_have_no_comments(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"\xff qlora-doctor: ignore[QD1]")
    (tmp_path / "c.py").write_text("'''  # qlora-doctor: ignore[QD1]")
    assert remarks_in(tmp_path / "gone.yaml") == remarks_in(tmp_path / "c.yaml") == remarks_in(tmp_path / "c.py") == []
