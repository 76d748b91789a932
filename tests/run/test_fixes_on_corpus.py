"""Every fix of the config stage on a small config of each dialect, and on configs that people really wrote, where that
corpus lies beside the checkout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qlora_doctor.core.report import Finding
from qlora_doctor.reading import Setup, read_setup
from qlora_doctor.reading.document import document_of
from qlora_doctor.run.checking import run_check
from qlora_doctor.run.session import CheckOptions
from qlora_doctor.writing.convert import TARGETS, convert
from qlora_doctor.writing.edit import apply_patch
from qlora_doctor.writing.express import reread, same, values_of
from tests.reading.dialects.test_corpus import CORPUS, rows
from tests.small_configs import SMALL
from tests.writing.test_convert import back, not_carried

OPTIONS = CheckOptions(stages=("config",), cache=False)
INFERRED = {"training.method"}
"""Which of TRL's trainers is meant is told from the old name of a key."""

IS_HERE = (CORPUS / "INDEX.tsv").exists()


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The files, each in a folder of its own where it is one of ours."""
    files = []
    for dialect, (name, text) in SMALL.items():
        files.append(tmp_path_factory.mktemp(dialect) / name)
        files[-1].write_text(text, encoding="utf-8")
    return files + [CORPUS / row["file"] for row in (rows() if IS_HERE else [])]


def fixable(setup: Setup) -> list[Finding]:
    return [f for f in run_check(setup, OPTIONS).findings if f.remediation is not None and f.remediation.diff]


def test_a_fix_silences_its_rule_and_changes_nothing_else(configs: list[Path]) -> None:
    fixed = 0
    for file in configs:
        setup = read_setup(file)
        document = setup._document
        before = values_of(setup)
        for finding in fixable(setup):
            assert document is not None and document.path is not None and finding.remediation is not None
            operations = finding.remediation.patch
            text = apply_patch(document.text, document.format, operations)
            again = reread(setup, document_of(document.path, text))
            case = (file, finding.rule, finding.remediation.diff)

            # the rule has nothing left to say that this kind of fix could put right at the same places
            places = {operation.path for operation in operations}
            left = [f for f in fixable(again) if f.rule == finding.rule]
            assert not {o.path for f in left if f.remediation for o in f.remediation.patch} & places, case

            after = values_of(again)
            changed = {path for path in before if not same(before[path], after[path])} - INFERRED
            named = {o.place.pointer for path in changed if (o := setup.origins.get(path)) and o.place is not None}
            assert named <= places, case
            if finding.rule in ("QD101", "QD102", "QD103", "QD104", "QD105"):
                assert not {path for path in changed if not _renamed(setup, path, places)}, case
            assert len(again.unknown_keys) <= len(setup.unknown_keys), case
            assert again.dialect == setup.dialect, case
            _only_named_lines(document.text, text, [operation.path for operation in operations], case)
            fixed += 1
    assert fixed > (80 if IS_HERE else 20)


def _renamed(setup: Setup, path: str, places: set[str]) -> bool:
    """The value came from a key that the fix renames, or comes to one that it makes."""
    origin = setup.origins.get(path)
    if origin is not None and origin.place is not None:
        return origin.place.pointer in places
    keys = {own.key for own in setup._keys_of(path)} if setup._keys_of is not None else {path}
    return bool(keys & {place.strip("/").replace("/", ".") for place in places})


def _only_named_lines(before: str, after: str, places: list[str], case: object) -> None:
    keys = {step for place in places for step in place.split("/")}
    old, new = before.splitlines(), after.splitlines()
    for line in set(old) - set(new) if len(old) > 1 else ():  # a file in one line has no other
        assert any(key and key in line for key in keys) or line.strip().startswith("- "), (line, case)


def test_what_fix_writes_is_read_by_everybody(configs: list[Path], tmp_path: Path) -> None:
    """All fixes of a file together, twice: the second time there is nothing to do."""
    from qlora_doctor.run.fixing import fix

    count = 0
    for file in configs:
        path = tmp_path / file.name
        path.write_bytes(file.read_bytes())
        fixed = fix(path, OPTIONS, unsafe=True)
        assert fixed.settled, file
        if fixed.write():
            again = fix(path, OPTIONS, unsafe=True)
            assert (again.rules, again.before, again.after) == ((), fixed.after, fixed.after), file
            assert not again.held_back
            count += 1
    assert count > (40 if IS_HERE else 10)


@pytest.mark.parametrize("to", TARGETS)
def test_conversion_carries_or_reports_every_value(to: str, configs: list[Path], tmp_path: Path) -> None:
    for file in configs:
        setup = read_setup(file)
        converted = convert(setup, to)
        again = back(converted, to, tmp_path)
        left = not_carried(setup, again, converted)
        if to == "python":  # the script cuts, packs and formats samples by code of its own, and its reader cannot know
            own = ("training.max_length", "training.method", "training.trainer", "training.group_by_length")
            own += ("hardware.", "budgets.", "data.")
            left = [each for each in left if not each[0].startswith(own)]
            # a folder that is not here might be made by the script, says its reader
            if again.is_unknown("model.name_or_path") and json.dumps(setup.model.name_or_path) in converted.text:
                left = [each for each in left if each[0] != "model.name_or_path"]
        assert left == [], (file, converted.text)
