"""The report as JSON, its schemas, and the registry of formats."""

from __future__ import annotations

import json
import subprocess
import sys

import jsonschema
import pytest

from qlora_doctor.core.assets import asset_folder
from qlora_doctor.core.errors import UsageError
from qlora_doctor.core.report import Report
from qlora_doctor.reporters import FORMATS, render, schema
from qlora_doctor.reporters.json import embedded
from tests.reporters import fixtures


@pytest.mark.parametrize("name", fixtures.ALL)
def test_json_is_the_report_and_comes_back_as_it(name: str) -> None:
    report = fixtures.ALL[name]()
    document = render(report, "json")
    assert json.loads(document) == json.loads(report.model_dump_json())
    again = Report.model_validate_json(document)
    assert again.model_dump_json() == report.model_dump_json()


def test_several_reports_are_a_list() -> None:
    reports = [fixtures.healthy(), fixtures.hostile()]
    documents = json.loads(render(reports, "json"))
    assert documents == [json.loads(report.model_dump_json()) for report in reports]
    assert json.loads(render([], "json")) == []


def test_embedded_json_is_the_same_document_without_anything_that_ends_a_script() -> None:
    report = fixtures.hostile()
    text = embedded(report)
    assert json.loads(text) == json.loads(report.model_dump_json())
    assert not set(text) & set("<>&'\u2028\u2029")


def test_an_unknown_format_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"no format 'pdf'.*text, concise, json, html, sarif"):
        render(fixtures.healthy(), "pdf")


def test_html_holds_one_report() -> None:
    with pytest.raises(UsageError, match="there are 2"):
        render([fixtures.healthy(), fixtures.broken()], "html")
    assert render([fixtures.healthy()], "html") == render(fixtures.healthy(), "html")


@pytest.mark.parametrize("name", schema.SCHEMAS)
def test_the_kept_schema_is_current(name: str) -> None:
    path = asset_folder("reports") / "schema" / schema.file_name(name)
    assert path.read_text(encoding="utf-8") == schema.text(name), "make schema"


@pytest.mark.parametrize("name", fixtures.ALL)
def test_every_report_is_valid_under_the_schemas(name: str) -> None:
    document = json.loads(render(fixtures.ALL[name](), "json"))
    jsonschema.Draft202012Validator.check_schema(schema.schema("report"))
    jsonschema.validate(document, schema.schema("report"))
    jsonschema.validate(document["facts"], schema.schema("facts"))


def test_the_schema_refuses_what_is_no_report() -> None:
    document = json.loads(render(fixtures.healthy(), "json"))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**document, "exit_code": "none"}, schema.schema("report"))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**document, "invented": 1}, schema.schema("report"))


def test_text_and_json_import_no_template_engine() -> None:
    code = (
        "import sys; from qlora_doctor.core.report import Report, Tool; from qlora_doctor.reporters import render\n"
        "report = Report(tool=Tool(version='0', created='now')); render(report, 'text'); render(report, 'json')\n"
        "print([name for name in ('jinja2', 'markdown_it', 'torch', 'rich') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_every_format_is_a_pure_function_of_the_report() -> None:
    for name, render_one in FORMATS.items():
        assert render_one(fixtures.broken()) == render_one(fixtures.broken()), name
