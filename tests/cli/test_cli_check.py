"""``check``: exit codes, what goes where, and options."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import qlora_doctor.run.checking
import qlora_doctor.worker.runner
from qlora_doctor.cli import main
from qlora_doctor.core.report import Report, StageRecord
from qlora_doctor.worker import events

CLEAN = "model: meta-llama/Llama-3.1-8B\n"


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run ``check`` on the config stage; colours and terminals of the test's own environment do not count."""
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: object, stage: str | None = "config") -> Result:
        stages = ["--stage", stage] if stage else []
        return CliRunner().invoke(main, ["check", *stages, *map(str, arguments)])

    return run


@pytest.fixture
def configs(tmp_path: Path) -> dict[str, Path]:
    """A clean starter, one with a typo in a key, one that is invalid."""
    from qlora_doctor.writing.starter import starter_config

    clean = starter_config("meta-llama/Llama-3.1-8B", "rtx-4090")
    texts = {
        "clean": clean,
        "typo": clean.replace("lora_alpha", "lora_aplha"),
        "invalid": clean.replace("r: 16", "r: many", 1),
    }
    paths = {name: tmp_path / f"{name}.yaml" for name in texts}
    for name, path in paths.items():
        path.write_text(texts[name])
    return paths


def document(result: Result) -> Any:
    return json.loads(result.stdout)


def test_a_clean_setup(check: Callable[..., Result], configs: dict[str, Path]) -> None:
    result = check(configs["clean"])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert " ".join(result.stdout.split()).startswith(f"{configs['clean']} · native config ")
    assert lines[-1].startswith("verdict: nothing found")
    assert "config done" in result.stderr and "config done" not in result.stdout


def test_findings_and_where_they_fail(check: Callable[..., Result], configs: dict[str, Path]) -> None:
    found = document(check(configs["typo"], "--format", "json"))
    (finding,) = [f for f in found["findings"] if f["location"]["pointer"] == "/lora/lora_aplha"]
    line = configs["typo"].read_text().splitlines().index("  lora_aplha: 32") + 1
    assert (finding["location"]["line"], finding["location"]["column"]) == (line, 3)
    rule = finding["rule"]
    text = check(configs["typo"])
    assert text.stdout.count(f"[{rule}]") == 1  # told while the check ran, and not again at the end
    assert f"{configs['typo']}:{line}:3" in text.stdout
    others = ["--ignore", ",".join({f["rule"] for f in found["findings"]} - {rule}) or "QD999"]
    others = others if others[1] != "QD999" else []
    assert check(configs["typo"], *others, "--severity", f"{rule}=error").exit_code == 1
    assert check(configs["typo"], *others, "--severity", f"{rule}=info").exit_code == 0
    assert check(configs["typo"], *others, "--severity", f"{rule}=info", "--fail-on", "info").exit_code == 1
    assert check(configs["typo"], "--severity", f"{rule}=error", "--fail-on", "never").exit_code == 0
    assert check(configs["typo"], "--ignore", rule, *others, "--fail-on", "info").exit_code == 0
    only = document(check(configs["typo"], "--select", rule, "--format", "json"))
    assert {outcome["rule"] for outcome in only["rules"]} == {rule}


def test_stdout_holds_the_document_alone(check: Callable[..., Result], configs: dict[str, Path]) -> None:
    result = check(configs["clean"], "--format", "json")
    report = document(result)
    assert report["exit_code"] == 0 and report["setup"]["dialect"] == "native"
    assert {stage["name"]: stage["status"] for stage in report["stages"]}["config"] == "done"
    assert [stage["status"] for stage in report["stages"]].count("skipped") == 5
    assert all(stage["reason"] and stage["remedy"] for stage in report["stages"] if stage["status"] == "skipped")
    assert check(configs["clean"], "--format", "json", "--quiet").stderr == ""
    page = check(configs["clean"], "--format", "html")
    assert page.stdout.lstrip().lower().startswith("<!doctype html")


def test_several_configs(check: Callable[..., Result], configs: dict[str, Path], tmp_path: Path) -> None:
    paths = [configs["clean"], configs["invalid"], configs["typo"]]
    result = check(
        *paths, "--format", "json", "-o", f"html={tmp_path}/{{name}}.html", "-o", f"json={tmp_path}/all.json"
    )
    assert result.exit_code == 2
    reports = document(result)
    assert [report["exit_code"] for report in reports][:2] == [0, 2]
    assert json.loads((tmp_path / "all.json").read_text()) == reports
    assert sorted(path.name for path in tmp_path.glob("*.html")) == [
        "clean.html", "index.html", "invalid.html", "typo.html",
    ]  # fmt: skip
    assert not list(tmp_path.glob(".*"))


def test_a_folder_stands_for_its_configs(
    check: Callable[..., Result], configs: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "notes.yaml").write_text("title: no config\n")
    (tmp_path / "torn.yaml").write_text("a: [\n")
    result = check(tmp_path, "--format", "json")
    assert [report["setup"]["file"] for report in document(result)] == [
        str(configs[name]) for name in ("clean", "invalid", "typo")
    ]
    assert f"{tmp_path}: 3 to check; 1 other file is no config, 1 cannot be read: {tmp_path}/torn.yaml" in " ".join(
        result.stderr.split()
    )
    assert len(document(check(tmp_path, configs["clean"], "--format", "json"))) == 3
    alone = check(tmp_path, "--exclude", "invalid.yaml", "--exclude", "ty*", "--format", "json")
    assert document(alone)["setup"]["file"] == str(configs["clean"])
    (tmp_path / "qlora-doctor.toml").write_text('exclude = ["typo.yaml", "invalid.yaml", "torn.yaml"]\n')
    silent = check(tmp_path, "--format", "json", "--quiet")
    assert document(silent)["setup"]["file"] == str(configs["clean"]) and silent.stderr == ""
    assert check(tmp_path / "notes.yaml").exit_code == 2
    nothing = check(tmp_path, "--dialect", "litgpt")
    assert nothing.exit_code == 2 and "litgpt" in nothing.stderr


def test_the_first_line_says_whose_config_it_is(check: Callable[..., Result], tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("base_model: x/y\nadapter: qlora\nload_in_4bit: true\nmicro_batch_size: 1\nnum_epochs: 1\n")
    first = " ".join(check(path).stdout.split())  # a long path makes it two lines
    assert re.match(rf"{path} · axolotl config, 9\d% sure ", first)
    named = " ".join(check(path, "--dialect", "trl").stdout.split())
    assert named.startswith(f"{path} · trl config, as --dialect says; its content makes it 0% sure ")
    path.write_text("model: {name: x/y}\nlora: {r: 8}\nquantization: {load_4bit: true}\ntrain: {lr: 1.0e-4}\n")
    assert ", a guess by its keys' names, " in " ".join(check(path).stdout.split())[:300]
    check(path, "-o", f"text={tmp_path}/r.txt")
    assert "custom config, a guess" in " ".join((tmp_path / "r.txt").read_text().split())


def test_a_folder_gets_a_page_for_each_config_and_an_index(
    check: Callable[..., Result], configs: dict[str, Path], tmp_path: Path
) -> None:
    named = tmp_path / "index.yaml"  # a config that bears the index's own name
    named.write_text(configs["clean"].read_text())
    result = check(configs["clean"], configs["invalid"], named, "-o", f"html={tmp_path}/out/")
    assert result.exit_code == 2
    pages = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert set(pages) == {"clean.html", "invalid.html", "index-2.html", "index.html"}
    assert "1 of 3 setups does not pass." in pages["index.html"]
    assert all(f'<a href="{name}">' in pages["index.html"] for name in pages if name != "index.html")
    assert all('<a class="up" href="index.html">' in page for name, page in pages.items() if name != "index.html")
    assert check(configs["clean"], "-o", f"html={tmp_path}/out").exit_code == 0  # one config, a folder that exists
    assert "1 setup, all pass." in (tmp_path / "out" / "index.html").read_text()


def test_an_invalid_config_is_one_sentence(check: Callable[..., Result], configs: dict[str, Path]) -> None:
    result = check(configs["invalid"])
    assert result.exit_code == 2 and result.stdout == ""
    assert result.stderr.splitlines()[1] == "error: lora.r must be a whole number, found the text 'many'."
    assert "r: many" in result.stderr and "^" in result.stderr and "Traceback" not in result.output
    report = document(check(configs["invalid"], "--format", "json"))
    assert report["stages"][0]["status"] == "failed" and "found the text 'many'" in report["stages"][0]["reason"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "No config is named."),
        (["gone.yaml"], "gone.yaml does not exist."),
        (["CLEAN", "--stage", "training"], "There is no stage 'training'"),
        (["CLEAN", "--format", "pdf"], "There is no format 'pdf'"),
        (["CLEAN", "-o", "pdf=x.pdf"], "There is no format 'pdf'"),
        (["CLEAN", "-o", "report.html"], "-o takes FORMAT=PATH"),
        (["CLEAN", "-o", "html=no/such/folder/x.html"], "does not exist, so x.html cannot be written"),
        (["CLEAN", "-o", "json=."], "is a folder"),
        (["CLEAN", "-o", "json=a", "-o", "text=a"], "Two outputs are to be written to a."),
        (["CLEAN", "CLEAN", "-o", "html=x.html"], "One html file holds one report"),
        (["CLEAN", "-o", "html=no/such/folder/"], "The folder no/such/folder cannot be made: No such file"),
        (["CLEAN", "-o", "html=/dev/null/"], "is no folder"),
        (["CLEAN", "CLEAN", "--format", "html"], "One html document holds one report"),
        (["CLEAN", "--severity", "QD101=fatal"], "is not RULE=error, RULE=warning or RULE=info"),
        (["CLEAN", "--dialect", "latin"], "There is no dialect 'latin'"),
        (["CLEAN", "--facts", "gone.json"], "gone.json"),
        (["CLEAN", "--timeout", "0"], "--timeout"),
        (["CLEAN", "--rules", "no-such-folder"], "There is no folder no-such-folder"),
        (["CLEAN", "--select", "QD9999"], "QD9999"),
    ],
)
def test_usage_errors(
    check: Callable[..., Result], configs: dict[str, Path], arguments: list[str], sentence: str
) -> None:
    result = check(*[str(configs["clean"]) if a == "CLEAN" else a for a in arguments])
    assert result.exit_code == 2, result.output
    assert sentence in " ".join(result.stderr.split())
    assert result.stdout == "" and "Traceback" not in result.stderr


def test_outputs_are_looked_at_before_anything_is_paid_for(
    check: Callable[..., Result], configs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(qlora_doctor.run.checking, "run_check", lambda *a: pytest.fail("a probe was paid for"))
    assert check(configs["clean"], "-o", f"json={tmp_path}/none/x.json").exit_code == 2
    if os.geteuid() != 0:
        (tmp_path / "locked").mkdir(mode=0o500)
        assert check(configs["clean"], "-o", f"json={tmp_path}/locked/x.json").exit_code == 2


def test_a_written_file_replaces_the_old_one_whole(
    check: Callable[..., Result], configs: dict[str, Path], tmp_path: Path
) -> None:
    target = tmp_path / "r.json"
    target.write_text("old")
    target.chmod(0o640)
    assert check(configs["clean"], "-o", f"json={target}").exit_code == 0
    assert json.loads(target.read_text())["exit_code"] == 0
    assert target.stat().st_mode & 0o777 == 0o640


def test_recorded_facts_are_judged_again(
    check: Callable[..., Result], configs: dict[str, Path], tmp_path: Path
) -> None:
    recorded = tmp_path / "r.json"
    first = check(configs["typo"], "-o", f"json={recorded}")
    again = check("--facts", recorded, "--format", "json", stage=None)
    assert again.exit_code == first.exit_code
    rules = {finding["rule"] for finding in json.loads(recorded.read_text())["findings"]}
    assert rules and {finding["rule"] for finding in document(again)["findings"]} == rules


@pytest.mark.parametrize(
    ("variables", "options", "colored"),
    [({}, [], False), ({"FORCE_COLOR": "1"}, [], True), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, [], False),
     ({"FORCE_COLOR": "1"}, ["--no-color"], False)],
)  # fmt: skip
def test_colours(
    check: Callable[..., Result],
    configs: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    options: list[str],
    colored: bool,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(main, ["check", "--stage", "config", str(configs["typo"]), *options], color=True)
    assert ("\x1b[" in result.stdout) is colored


def _interrupted(*arguments: Any, **options: Any) -> Iterator[events.Event]:
    yield events.Start(name="structure")
    yield events.End(record=StageRecord(name="structure", status="done", seconds=1.0))
    yield events.Start(name="load")
    raise KeyboardInterrupt


def test_ctrl_c_keeps_what_is_known(
    check: Callable[..., Result], configs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(qlora_doctor.worker.runner, "run_stages", _interrupted)
    result = check(configs["clean"], "-o", f"json={tmp_path}/r.json", stage="structure,load")
    assert result.exit_code == 3, result.output
    report = json.loads((tmp_path / "r.json").read_text())
    stages = {stage["name"]: stage for stage in report["stages"]}
    assert stages["config"]["status"] == stages["structure"]["status"] == "done"
    assert stages["load"]["reason"] == "The check was interrupted." and report["exit_code"] == 3


def _interrupted_savings(*arguments: Any, **options: Any) -> Iterator[events.Event]:
    from qlora_doctor.facts import MemoryFacts

    yield events.Start(name="memory")
    peak = {"peak_allocated_bytes": 2**35, "peak_reserved_bytes": 2**35}
    known = {"card": "RTX 4090", "card_bytes": 2**34, "predicted_ratio": 2.0, "margin_ratio": 0.1}
    yield events.Learned(subject="memory", value=MemoryFacts.model_validate({"predicted": peak} | known))
    yield events.Progress(text="predicted peak 32 GiB reserved", known=True)
    raise KeyboardInterrupt


def test_ctrl_c_keeps_the_prediction(
    check: Callable[..., Result], configs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(qlora_doctor.worker.runner, "run_stages", _interrupted_savings)
    result = check(configs["clean"], "-o", f"json={tmp_path}/r.json", stage="memory")
    report = json.loads((tmp_path / "r.json").read_text())
    assert "predicted peak 32 GiB reserved" in result.stderr.splitlines()
    assert report["facts"]["memory"]["predicted"]["peak_reserved_bytes"] == 2**35
    assert report["facts"]["memory"]["savings"] is None and report["exit_code"] == 3
    assert "QD503" in {finding["rule"] for finding in report["findings"]}
    monkeypatch.setattr("qlora_doctor.run.curing.recalled_cure", lambda *_: None)  # it would need no child
    for command in ("plan", "cure"):
        asked = ["--gpu", "rtx-4090", *(["--no-cache"] if command == "plan" else [])]
        ended = CliRunner().invoke(main, [command, str(configs["clean"]), *asked])
        assert ended.exit_code == 3 and "32 GiB" in ended.stdout, ended.output
        assert "interrupted" in ended.stdout and "fits: " not in ended.stdout


def _broken(*arguments: Any) -> Any:
    raise ZeroDivisionError("something\nof ours")


def test_a_fault_of_the_tool_is_a_sentence_too(
    check: Callable[..., Result], configs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qlora_doctor.run.checking, "run_check", _broken)
    result = check(configs["clean"])
    assert result.exit_code == 3 and "Traceback" not in result.output
    assert result.stderr.splitlines()[1] == "error: qlora-doctor failed: ZeroDivisionError: something of ours"
    assert "qlora-doctor env" in result.stderr


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("litgpt.yaml", "checkpoint_dir: {folder}\nprecision: bf16-true\nquantize: bnb.nf4-dq\nlora_r: 8\ndata:\n"
         "  class_path: litgpt.data.Alpaca2k\ntrain:\n  micro_batch_size: 1\n"),
        ("torchtune.yaml", "model:\n  _component_: torchtune.models.llama2.qlora_llama2_7b\n"
         "  lora_attn_modules: [q_proj, output_proj]\n  lora_rank: 8\ncheckpointer:\n"
         "  _component_: torchtune.training.FullModelHFCheckpointer\n  checkpoint_dir: {folder}\n"
         "dataset:\n  _component_: torchtune.datasets.alpaca_dataset\nbatch_size: 1\n"
         "optimizer:\n  _component_: torch.optim.AdamW\n  lr: 2e-4\n"),
    ],
)  # fmt: skip
def test_a_trainer_with_a_model_of_its_own_is_not_judged_by_ours(
    check: Callable[..., Result], model_folder: Callable[..., Path], tmp_path: Path, name: str, text: str
) -> None:
    (tmp_path / name).write_text(text.format(folder=model_folder("llama")), encoding="utf-8")
    result = check(tmp_path / name, "--format", "json", "--offline", stage="structure")
    report = Report.model_validate_json(result.stdout)
    assert not [each for each in report.findings if each.severity == "error"]
    structure = next(stage for stage in report.stages if stage.name == "structure")
    assert structure.status == "skipped" and "model of its own" in str(structure.reason)
