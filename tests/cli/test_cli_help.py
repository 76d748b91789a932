"""``--help`` is enough, shells complete, and a log without a terminal stays readable."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from qlora_doctor.cli import main

COMMAND = [sys.executable, "-m", "qlora_doctor"]


def commands() -> Iterator[tuple[str, click.Command]]:
    assert isinstance(main, click.Group)
    context = click.Context(main)
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None
        yield name, command


@pytest.mark.parametrize(("name", "command"), commands(), ids=lambda value: value if isinstance(value, str) else "")
def test_every_option_says_what_it_does(name: str, command: click.Command) -> None:
    silent = [each.opts for each in command.params if isinstance(each, click.Option) and not each.help]
    assert command.help and not silent


@pytest.mark.parametrize(("name", "command"), commands(), ids=lambda value: value if isinstance(value, str) else "")
def test_every_example_is_a_call_that_the_command_takes(
    name: str, command: click.Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(main, [name, "--help"]).stdout
    lines = [line.strip() for line in shown.partition("Examples:")[2].splitlines() if line.strip()]
    assert lines
    for line in lines:
        program, called, *arguments = shlex.split(line)
        assert (program, called) == ("qlora-doctor", name)
        command.make_context(name, arguments)  # an option or a value that there is not is an error here


def test_bash_completes_commands_and_options() -> None:
    folder = Path(sys.executable).parent
    if not (folder / "qlora-doctor").exists():
        pytest.skip("the command is not installed")
    environment = {**os.environ, "PATH": os.pathsep.join([str(folder), os.environ["PATH"]])}
    script = """
        eval "$(_QLORA_DOCTOR_COMPLETE=bash_source qlora-doctor)"
        compopt() { :; }
        complete_words() {
            COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
            _qlora_doctor_completion qlora-doctor
        }
        complete_words qlora-doctor exp; echo "${COMPREPLY[@]}"
        complete_words qlora-doctor check --pro; echo "${COMPREPLY[@]}"
        complete_words qlora-doctor check --profile r; echo "${COMPREPLY[@]}"
    """
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["explain", "--profile", "recommended"], done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_source_for_each_shell_of_the_docs(shell: str) -> None:
    result = CliRunner().invoke(main, env={"_QLORA_DOCTOR_COMPLETE": f"{shell}_source"}, prog_name="qlora-doctor")
    assert "_QLORA_DOCTOR_COMPLETE" in result.stdout
    told = (Path(__file__).resolve().parents[2] / "docs" / "contract.md").read_text(encoding="utf-8")
    assert f"_QLORA_DOCTOR_COMPLETE={shell}_source" in told


@pytest.mark.parametrize("configs", [1, 3])
def test_a_log_gets_lines_and_nothing_that_moves_a_cursor(tmp_path: Path, configs: int) -> None:
    files = [tmp_path / f"config-{number}.yaml" for number in range(configs)]
    for path in files:
        path.write_text("model: meta-llama/Llama-3.1-8B\nlora: {r: 16, lora_aplha: 32}\n")
    environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    command = [*COMMAND, "check", "--stage", "config", *map(str, files)]
    done = subprocess.run(command, env={**environment, "TERM": "xterm-256color"}, capture_output=True, timeout=120)
    assert done.returncode == 1, done.stderr
    for stream in (done.stdout, done.stderr):
        assert b"\r" not in stream and b"\x1b" not in stream and b"\b" not in stream
    assert b"QD101" in done.stdout
    assert b"config done" in done.stderr if configs == 1 else b"[3/3]" in done.stderr
    quiet = subprocess.run([*command, "--quiet"], env=environment, capture_output=True, timeout=120)
    assert quiet.stderr == b"" and b"QD101" in quiet.stdout
