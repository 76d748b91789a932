"""The workflow that publishes: valid, without a stored secret, and with no more rights than each job needs."""

from __future__ import annotations

import jsonschema

from tests.ci.recipes import ROOT, read_yaml
from tests.reporters.stored_schemas import stored_schema

WORKFLOW = "https://json.schemastore.org/github-workflow.json"
TEXT = (ROOT / ".github" / "workflows" / "publish.yml").read_text(encoding="utf-8")


def test_it_is_a_workflow_that_needs_no_secret() -> None:
    document, schema = read_yaml(TEXT), stored_schema(WORKFLOW)
    assert document["jobs"]["build"]["permissions"].pop("attestations") == "write"  # newer than the stored schema
    jsonschema.validators.validator_for(schema)(schema).validate(document)
    assert "secrets." not in TEXT and "password" not in TEXT
    assert document["permissions"] == {}
    publish = document["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"} and publish["environment"] == "pypi"
    assert not any("run" in step for step in publish["steps"]), (
        "what holds the right to publish runs nothing of its own"
    )


def test_it_refuses_a_tag_that_is_not_the_version() -> None:
    steps = {step.get("name"): step for step in read_yaml(TEXT)["jobs"]["build"]["steps"]}
    assert "GITHUB_REF_NAME" in steps["The tag is the version"]["run"]
