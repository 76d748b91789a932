"""Runs a composite action's shell steps as a runner does: a clean environment, GITHUB_* files, conditions, outputs.

Only the expressions that action.yml uses are understood: names joined by dots, texts, ``==``, ``!=``, ``!``, ``&&`` and
``cancelled()``. Anything else is an error of the test, not something that passes unseen.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}")
_NAME = re.compile(r"[a-z][\w-]*(\.[\w-]+)+")


@dataclass
class Run:
    """What happened."""

    failed: bool = False
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)
    log: dict[str, str] = field(default_factory=dict)
    used: dict[str, dict[str, str]] = field(default_factory=dict)
    """The actions that would have been used, with their inputs."""
    summary: str = ""


def evaluate(expression: str, context: Mapping[str, Any]) -> Any:
    """The value of an expression."""
    expression = expression.strip()
    if "&&" in expression:
        return all(evaluate(part, context) for part in expression.split("&&"))
    for operator in ("==", "!="):
        if operator in expression:
            left, right = (evaluate(part, context) for part in expression.split(operator))
            return (left == right) is (operator == "==")
    if expression.startswith("!"):
        return not evaluate(expression[1:], context)
    if expression == "cancelled()":
        return False
    if re.fullmatch(r"'[^']*'", expression):
        return expression[1:-1]
    if not _NAME.fullmatch(expression):
        raise ValueError(f"not understood: {expression}")
    value: Any = context
    for part in expression.split("."):
        value = value.get(part, "") if isinstance(value, Mapping) else ""
    return value


def fill(text: str, context: Mapping[str, Any]) -> str:
    """A text with its expressions replaced."""
    return _EXPRESSION.sub(lambda found: str(evaluate(found[1], context)), text)


def holds(step: Mapping[str, Any], context: Mapping[str, Any], failed: bool) -> bool:
    """Whether a step runs; after a failure only one that names a status does."""
    condition = _EXPRESSION.sub(r"\1", str(step.get("if", "")))
    if failed and "cancelled()" not in condition:
        return False
    return not condition or bool(evaluate(condition, context))


def run_action(
    action: Mapping[str, Any],
    inputs: Mapping[str, str],
    *,
    checkout: Path,
    temp: Path,
    path: str,
    action_path: Path,
    event: Mapping[str, Any] | None = None,
    done: Mapping[str, Mapping[str, str]] | None = None,
) -> Run:
    """Run the steps; what ``uses:`` another action is noted and not run, nor is a step whose outputs ``done`` gives."""
    unknown = set(inputs) - set(action["inputs"])
    assert not unknown, unknown
    given = {name: inputs.get(name, str(spec.get("default", ""))) for name, spec in action["inputs"].items()}
    missing = [name for name, spec in action["inputs"].items() if spec.get("required") and name not in inputs]
    assert not missing, missing
    result = Run()
    known = {name: {"outputs": dict(outputs)} for name, outputs in (done or {}).items()}
    home, files = temp / "home", temp / "files"
    home.mkdir()
    files.mkdir()
    steps: dict[str, Any] = {**known}
    context = {"inputs": given, "steps": steps, "github": {"event": event or {}, "actor": "somebody"}}
    for number, step in enumerate(action["runs"]["steps"]):
        if step.get("id") in known or not holds(step, context, result.failed):
            continue
        if "uses" in step:
            result.used[step["uses"]] = {key: fill(str(value), context) for key, value in step["with"].items()}
            continue
        output, summary = files / f"output-{number}", files / f"summary-{number}"
        script = files / f"step-{number}.sh"
        output.touch()
        summary.touch()
        script.write_text(fill(step["run"], context), encoding="utf-8")
        environment = {
            "PATH": path,
            "HOME": str(home),
            "RUNNER_TEMP": str(temp),
            "GITHUB_ACTIONS": "true",
            "GITHUB_ACTION_PATH": str(action_path),
            "GITHUB_WORKSPACE": str(checkout),
            "GITHUB_OUTPUT": str(output),
            "GITHUB_STEP_SUMMARY": str(summary),
            "PIP_CACHE_DIR": str(Path("~/.cache/pip").expanduser()),  # packages are fetched once
            **{name: os.environ[name] for name in os.environ if name.startswith(("PIP_", "SSL_"))},
            **{name: fill(str(value), context) for name, value in step.get("env", {}).items()},
        }
        assert step["shell"] == "bash"
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
            cwd=checkout / fill(step.get("working-directory", "."), context),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
        )
        result.log[step["name"]] = done.stdout
        result.failed = result.failed or done.returncode != 0
        result.summary += summary.read_text(encoding="utf-8")
        if "id" in step:
            pairs = (line.partition("=") for line in output.read_text(encoding="utf-8").splitlines())
            result.outputs[step["id"]] = {name: value for name, _, value in pairs}
            steps[step["id"]] = {"outputs": result.outputs[step["id"]]}
    return result
