"""Every block that docs/ci/ offers to copy is read by its consumer's own rules."""

from __future__ import annotations

import sys
from typing import Any

import jsonschema
import pytest
import yaml

from qlora_doctor.engine.budgets import Budget, check_budget
from qlora_doctor.run.settings import Settings
from tests.ci.recipes import ROOT, Recipe, read_yaml, recipe, recipes
from tests.reporters.stored_schemas import stored_schema

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

WORKFLOW = "https://json.schemastore.org/github-workflow.json"
GITLAB = "https://gitlab.com/gitlab-org/gitlab/-/raw/master/app/assets/javascripts/editor/schema/ci.json"
PRE_COMMIT = "https://json.schemastore.org/pre-commit-config.json"
ACTION = read_yaml((ROOT / "action.yml").read_text(encoding="utf-8"))


def validate(document: Any, url: str) -> None:
    schema = stored_schema(url)
    jsonschema.validators.validator_for(schema)(schema).validate(document)


def of(language: str) -> list[Any]:
    return [pytest.param(each, id=f"{each.page}: {each.target}") for each in recipes() if each.language == language]


def uses(node: Any) -> list[dict[str, Any]]:
    """Every step that uses this project's action."""
    if isinstance(node, list):
        return [step for each in node for step in uses(each)]
    if not isinstance(node, dict):
        return []
    own = [node] if str(node.get("uses", "")).startswith("OWNER/qlora-doctor@") else []
    return own + [step for each in node.values() for step in uses(each)]


def commands(workflow: dict[str, Any]) -> list[str]:
    """The lines that run the tool itself."""
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    return [step["run"] for step in steps if str(step.get("run", "")).startswith("qlora-doctor ")]


@pytest.mark.parametrize("block", of("yaml"))
def test_yaml_is_what_its_consumer_reads(block: Recipe) -> None:
    document = block.data()
    if block.target.startswith(".github/workflows/"):
        if isinstance(document, list):  # a part of a workflow: some steps
            document = {"on": "push", "jobs": {"check": {"runs-on": "ubuntu-latest", "steps": document}}}
        validate(document, WORKFLOW)
        assert uses(document) or commands(document)
    elif block.target == ".gitlab-ci.yml":
        validate(document, GITLAB)
    elif block.target.startswith(".pre-commit-config.yaml"):
        if isinstance(document, list):
            document = {"repos": [{"repo": "https://example.org", "rev": "v1", "hooks": document}]}
        validate(document, PRE_COMMIT)
    else:
        assert block.page == "settings.md", f"{block.page}: a block for {block.target!r} is tested by nobody"


@pytest.mark.parametrize("block", of("toml"))
def test_settings_are_settings(block: Recipe) -> None:
    document = tomllib.loads(block.text)
    settings = Settings.model_validate(document.get("tool", {}).get("qlora-doctor", document))
    for fact, limit in settings.budgets.items():
        check_budget(Budget(fact, limit.max, limit.min, "error"))


def test_the_action_is_an_action() -> None:
    validate(ACTION, "https://json.schemastore.org/github-action.json")


def test_the_recipes_use_inputs_that_the_action_has() -> None:
    steps = [step for each in recipes() if each.language == "yaml" for step in uses(each.data())]
    assert len(steps) >= 4
    for step in steps:
        assert step["with"].keys() <= ACTION["inputs"].keys()
        assert all(ACTION["inputs"][name].get("default") is not None for name in ACTION["inputs"] if name != "configs")


def test_the_page_lists_every_input_with_its_default() -> None:
    page = (ROOT / "docs" / "ci" / "github.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:3] for line in page.splitlines() if line.startswith("| `")]
    listed = {name.strip(" `"): default.strip(" `") for names, default in rows for name in names.split(",")}
    assert listed.keys() == ACTION["inputs"].keys()
    words = {"fail-on": "", "profile": "", "settings": "", "torch-index": "https://download.pytorch.org/whl/cpu"}
    for name, default in listed.items():
        assert str(ACTION["inputs"][name].get("default", "")) == words.get(name, default), name


def test_scripts_take_no_input_as_text() -> None:
    """A pull request can name a file as it likes; a name that is pasted into a script is a command."""
    blocks = [each.data() for each in recipes() if each.language == "yaml" and "workflows" in each.target]
    scripts = [step["run"] for step in (*ACTION["runs"]["steps"], *every_step(blocks)) if "run" in step]
    assert len(scripts) >= 5 and not [script for script in scripts if "${{" in script]


def every_step(node: Any) -> list[dict[str, Any]]:
    if isinstance(node, list):
        return [step for each in node for step in every_step(each)]
    if isinstance(node, dict):
        return [node] if "run" in node else [step for each in node.values() for step in every_step(each)]
    return []


def test_the_gpu_recipe_runs_every_stage() -> None:
    from qlora_doctor.core.report import STAGES

    (step,) = uses(recipe("gpu-runner.md", ".github/workflows/qlora-gpu.yml").data())
    assert step["with"]["stages"].split(",") == list(STAGES)


def test_names_are_read_as_a_service_reads_them() -> None:
    assert read_yaml("on: push") == {"on": "push"} and yaml.safe_load("on: push") == {True: "push"}
