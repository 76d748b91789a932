"""What an editor is told, without a server: places, hostile texts, and no torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qlora_doctor.editor.actions import actions, fix_all
from qlora_doctor.editor.analysis import Analyst
from qlora_doctor.editor.hover import hover
from qlora_doctor.editor.ranges import Text, units
from qlora_doctor.run.session import CheckOptions

from .test_server import BROKEN, HOSTILE


@pytest.fixture(scope="module")
def analyst() -> Analyst:
    return Analyst(lambda path: CheckOptions(stages=("config",), offline=True, cache=False))


@given(st.text(alphabet=st.sampled_from("ab\n\r\U0001f999é "), max_size=40))
def test_places_there_and_back(text: str) -> None:
    view = Text(text)
    for offset in range(len(text) + 1):
        if text[offset - 1 : offset + 1] == "\r\n":
            continue  # no place in an editor
        line, character = view.position(offset)
        assert view.offset_at(line, character) == offset
    assert units("a\U0001f999") == 3


def test_columns_behind_a_wide_character(analyst: Analyst, tmp_path: Path) -> None:
    text = '{"model": "x/\U0001f999", "lora": {"r": 4, "lora_alpha": 8, "ranks": 4}}'
    problem = next(p for p in analyst.look(tmp_path / "c.json", text).problems if "ranks" in p.message)
    assert problem.range[0] == (0, units(text[: text.index('"ranks"')]))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts(analyst: Analyst, tmp_path: Path, name: str) -> None:
    analysis = analyst.look(tmp_path / name, HOSTILE[name])
    for line, character in ((0, 0), (1, 3), (10**6, 10**6)):
        hover(analysis, line, character)
    list(actions(analysis, (0, 0), (10**6, 0)))
    fix_all(analysis)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(BROKEN)), st.integers(0, 30), st.text(max_size=12))
def test_any_slip_of_the_hand(tmp_path_factory: pytest.TempPathFactory, at: int, cut: int, typed: str) -> None:
    text = BROKEN[:at] + typed + BROKEN[at + cut :]
    analysis = _ANALYST.look(Path("/nowhere/config.yaml"), text)
    assert analysis.trouble is None
    hover(analysis, 4, 3)
    list(actions(analysis, (0, 0), (99, 0)))


_ANALYST = Analyst(lambda path: CheckOptions(stages=("config",), offline=True, cache=False))


def test_a_link_where_there_is_a_site(tmp_path: Path) -> None:
    options = CheckOptions(stages=("config",), docs="https://docs.example.org/doctor/", cache=False)
    analysis = Analyst(lambda path: options).look(tmp_path / "config.yaml", BROKEN)
    urls = {problem.code: problem.url for problem in analysis.problems}
    assert urls and all(url == f"https://docs.example.org/doctor/rules/{code}/" for code, url in urls.items())


def test_torch_is_not_imported(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from qlora_doctor.editor.analysis import Analyst
from qlora_doctor.editor.hover import hover
from qlora_doctor.run.session import CheckOptions
from tests.editor.test_server import BROKEN
analysis = Analyst(lambda path: CheckOptions(stages=("config",), cache=False)).look(Path("c.yaml"), BROKEN)
assert analysis.problems and hover(analysis, 4, 3)
assert not {"torch", "transformers", "peft"} & set(sys.modules), sys.modules
"""
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", program], check=True, cwd=root)
