"""Any fact may be unknown: every format must say the rest all the same."""

from __future__ import annotations

import pytest

from qlora_doctor.core.assets import asset_folder
from qlora_doctor.core.errors import UsageError
from qlora_doctor.core.report import Report
from qlora_doctor.facts import Facts
from qlora_doctor.facts.memory import MemoryPicture
from qlora_doctor.facts.step import OptimizerFacts
from qlora_doctor.reporters import FORMATS, notebook
from qlora_doctor.reporters.card import fit_of
from tests.reporters import fixtures

AFTERWARDS = Facts.model_validate_json((asset_folder("rules") / "healthy.json").read_text(encoding="utf-8"))
"""Facts of what a run has left, which the report of a check does not have."""
SUBJECTS = [name for name in Facts.model_fields if name != "environment"]


def everything() -> Facts:
    absent = ("course", "run", "batch", "stored", "script")
    return fixtures.healthy().facts.model_copy(update={name: getattr(AFTERWARDS, name) for name in absent})


def rendered(facts: Facts) -> None:
    report: Report = fixtures.healthy().model_copy(update={"facts": facts})
    for format, render in FORMATS.items():
        if format in ("card", "badge") and fit_of(report) is None:
            with pytest.raises(UsageError, match="no peak"):
                render(report)
            continue
        assert len(render(report)) > 100 or format in ("github", "gitlab", "concise")  # which hold findings alone
    assert len(notebook.render(report)) > 100


@pytest.mark.parametrize("subject", Facts.model_fields)
def test_a_subject_that_nobody_looked_at(subject: str) -> None:
    rendered(everything().model_copy(update={subject: None}))


@pytest.mark.parametrize("subject", SUBJECTS)
def test_a_subject_of_which_nothing_is_known(subject: str) -> None:
    facts = everything()
    empty = type(getattr(facts, subject))()
    rendered(facts.model_copy(update={subject: empty}))
    rendered(Facts(**{subject: empty}))


@pytest.mark.parametrize("subject", SUBJECTS)
def test_each_fact_unknown_alone_and_each_list_empty(subject: str) -> None:
    facts = everything()
    known = getattr(facts, subject)
    for field in type(known).model_fields:
        value = getattr(known, field)
        changes = [None, []] if isinstance(value, list) else [None, {}] if isinstance(value, dict) else [None]
        for change in changes:
            rendered(facts.model_copy(update={subject: known.model_copy(update={field: change})}))


def test_each_part_of_a_picture_unknown() -> None:
    facts = fixtures.healthy().facts
    assert facts.memory and facts.memory.predicted and facts.step
    for field in MemoryPicture.model_fields:
        picture = facts.memory.predicted.model_copy(update={field: None})
        for measured in (picture, None):
            memory = facts.memory.model_copy(update={"predicted": picture, "measured": measured})
            rendered(facts.model_copy(update={"memory": memory}))
    rendered(facts.model_copy(update={"step": facts.step.model_copy(update={"optimizer": OptimizerFacts()})}))


@pytest.mark.parametrize(
    "setup",
    [{}, {"model": None}, {"model": "x"}, {"file": "a.json", "origins": None}, {"model": {"dtype": "auto"}},
     {"origins": {"model.dtype": {"source": "unknown", "note": "decided by ZeRO"}}, "model": {"dtype": None}}],
)  # fmt: skip
def test_a_setup_of_another_version(setup: dict[str, object]) -> None:
    report = fixtures.healthy().model_copy(update={"setup": setup})
    for format, render in FORMATS.items():
        assert len(render(report)) > 100 or format in ("github", "gitlab", "concise")  # which hold findings alone
    assert len(notebook.render(report)) > 100
