"""Progress on stderr: there before anything heavy is imported, and alive while a step is long."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from qlora_doctor.cli import main
from qlora_doctor.cli._progress import PATIENCE, Lines, Moving
from qlora_doctor.core.report import StageRecord

_AT_THE_FIRST_BYTE = """
import json, sys
from qlora_doctor.cli import main
kept = {}
class Stream:
    encoding = "utf-8"
    def isatty(self): return TTY
    def write(self, text):
        kept.setdefault("modules", [m for m in ("torch", "pydantic", "rich", "yaml", "jinja2") if m in sys.modules])
        kept["text"] = kept.get("text", "") + text
        return len(text)
    def flush(self): pass
sys.stderr = Stream()
try:
    main(ARGUMENTS)
except SystemExit as ended:
    kept["code"] = ended.code
sys.__stdout__.write("\\n" + json.dumps(kept))
"""


@pytest.mark.parametrize("terminal", [False, True], ids=["log", "terminal"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["plan", "--model", "Qwen/Qwen2.5-0.5B", "--gpu", "t4", "--batch", "1", "--sequence", "512"],
        ["check", "CONFIG", "--stage", "config"],
        ["check", "CONFIG", "--stage", "config", "--format", "json"],
        ["cure", "CONFIG", "--gpu", "no-such-card"],
    ],
    ids=" ".join,
)
def test_something_is_told_before_anything_heavy_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], terminal: bool
) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("model: Qwen/Qwen2.5-0.5B\nlora: {r: 16}\n")
    monkeypatch.chdir(tmp_path)
    command = [config.name if argument == "CONFIG" else argument for argument in arguments]
    script = _AT_THE_FIRST_BYTE.replace("ARGUMENTS", repr(command)).replace("TTY", str(terminal))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    document, _, last = done.stdout.rpartition("\n")
    told = json.loads(last)
    assert told["modules"] == [] and told["code"] in (0, 1, 2)
    first = told["text"].replace("\r", "\n").strip().splitlines()[0]
    assert ("planning Qwen/Qwen2.5-0.5B" if arguments[0] == "plan" else "reading c.yaml") in first
    if "json" in arguments:
        json.loads(document)
    if terminal:
        assert "\x1b[K" in told["text"] and "\x1b[?7l" not in told["text"].rpartition("\x1b[K")[2], "no line is left"


def test_a_log_hears_of_a_long_step_every_ten_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    with Lines("reading c.yaml", clock=lambda: now[0]) as lines:
        lines.beat()
        lines.on_stage_start("memory")
        lines.on_progress("tracing", 3, 8, "layers")
        for now[0] in (PATIENCE - 1, PATIENCE + 1, PATIENCE + 2, 2 * PATIENCE + 1):
            lines.beat()
        lines.on_stage(StageRecord(name="memory", status="done", seconds=21.0))
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == [
        "reading c.yaml …", "memory …", "still memory: tracing 3 of 8 layers (11 s)",
        "still memory: tracing 3 of 8 layers (21 s)", "memory done (21.0 s)",
    ]  # fmt: skip


def test_a_long_line_of_a_log_breaks_where_the_columns_are_known(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    now = [0.0]
    with Lines("reading c.yaml", clock=lambda: now[0]) as lines:
        lines.on_stage_start("memory")
        lines.on_progress("tracing a step of 1 × 1,024 tokens (trace 2)", None, None, None)
        now[0] = PATIENCE + 1
        lines.beat()
    told = capsys.readouterr().err.splitlines()
    assert max(map(len, told)) <= 60 and told[-1].endswith("(11 s)")


def test_a_terminal_sees_the_line_move_and_room_for_what_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    moving = Moving("reading c.yaml", clock=lambda: now[0])
    moving.beat()
    now[0] = 1.0
    moving.beat()
    moving.on_trouble("nothing is kept")
    moving.close()
    shown = capsys.readouterr().err
    frames = [part for part in shown.split("\r\x1b[K") if "reading" in part]
    assert len(set(frames)) >= 3 and "note: nothing is kept\n" in shown
    assert shown.endswith("\r\x1b[K")


def _invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def test_a_plan_from_shipped_traces_tells_its_stage_once_and_before_it_ends() -> None:
    told = _invoke("plan", "--model", "Qwen/Qwen2.5-0.5B", "--gpu", "t4", "--batch", "1", "--sequence", "512")
    assert told.exit_code == 0
    lines = [line.partition(" (")[0] for line in told.stderr.splitlines()]
    # Where other versions are installed than were traced, the model is traced here, which tells more.
    assert [line for line in lines if line.endswith((" …", " done"))] == [
        "planning Qwen/Qwen2.5-0.5B …", "config …", "config done", "memory …", "memory done",
    ]  # fmt: skip
    assert _invoke("plan", "--model", "Qwen/Qwen2.5-0.5B", "--gpu", "t4", "--batch", "1", "-q").stderr == ""
