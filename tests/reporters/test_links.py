"""Every finding carries its rule's page where a docs site is set, and names `explain` where none is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qlora_doctor.core.links import DOCS, docs_base, rule_url, schema_url
from qlora_doctor.core.report import Report
from qlora_doctor.reporters import render
from qlora_doctor.run.checking import check

CONFIG = {"model": "meta-llama/Llama-3.1-8B", "lora": {"r": 16, "lora_alpha": 32, "ranks": 1}}
SITE = "https://docs.example.org/doctor"


def checked(**options: object) -> Report:
    return check(CONFIG, stages=("config",), cache=False, **options)


def test_with_a_site() -> None:
    report = checked(docs=f"{SITE}/")
    urls = {finding.rule: finding.url for finding in report.findings}
    assert urls and all(url == f"{SITE}/rules/{rule}/" for rule, url in urls.items())
    rule, url = next(iter(urls.items()))
    assert f"docs: {url}" in render(report, "text") and f"explain {rule}" not in render(report, "text")
    assert f'<a href="{url}"' in render(report, "html")
    assert f"(<{url}>)" in render(report, "markdown")
    sarif = {
        each["id"]: each.get("helpUri")
        for each in json.loads(render(report, "sarif"))["runs"][0]["tool"]["driver"]["rules"]
    }
    assert sarif[rule] == url


def test_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QLORA_DOCTOR_DOCS", raising=False)
    report = checked()
    assert DOCS is not None or all(finding.url is None for finding in report.findings)
    assert DOCS is not None or f"docs: qlora-doctor explain {report.findings[0].rule}" in render(report, "text")


def test_by_the_environment_and_by_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from qlora_doctor.run.settings import find_settings

    monkeypatch.setenv("QLORA_DOCTOR_DOCS", SITE)
    assert rule_url("QD301") == f"{SITE}/rules/QD301/" and schema_url("a.json") == f"{SITE}/schema/a.json"
    (tmp_path / "qlora-doctor.toml").write_text(f'docs = "{SITE}"\n', encoding="utf-8")
    assert find_settings(tmp_path / "config.yaml").settings.docs == SITE


@pytest.mark.parametrize("address", ["javascript:alert(1)", "ftp://x", "https://x/<b>", "https://x/ y", ""])
def test_what_is_no_address_is_none(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("QLORA_DOCTOR_DOCS", address)
    assert docs_base() in (None, DOCS)


def test_a_rule_of_ones_own_has_no_page_there(tmp_path: Path) -> None:
    folder = Path(__file__).resolve().parents[2] / "examples" / "team-rules"
    wide = {**CONFIG, "lora": {"r": 512, "ranks": 1, "lora_alpha": 32}}
    report = check(wide, stages=("config",), cache=False, docs=SITE, rules=(folder,))
    own = [finding for finding in report.findings if not finding.rule.startswith("QD")]
    assert own and all(finding.url is None for finding in own)
    assert all(finding.url for finding in report.findings if finding.rule.startswith("QD"))
