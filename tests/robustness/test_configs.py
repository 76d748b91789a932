"""Config files that cannot be read, or say something else than was meant: a sentence, the place, the exit code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.robustness.conftest import Ran

MODEL = "model: meta-llama/Llama-3.1-8B\n"
UNREADABLE: dict[str, tuple[str, bytes | str, str, str | None]] = {
    # id: (file, content, a part of the sentence, the place)
    "json-syntax": ("c.json", '{"model": "x/y", "lora": {"r": 8,,}}', "not valid JSON", "c.json:1:34"),
    "json-cut-off": ("c.json", '{"model": "x/y", "lora": {"r": 8', "ends before it is complete", "c.json:1:33"),
    "yaml-syntax": ("c.yaml", MODEL + "lora:\n  r: 8\n lora_alpha: 3\n", "not valid YAML", "c.yaml:4:2"),
    "yaml-tab": ("c.yaml", MODEL + "lora:\n\tr: 8\n", "a tab stands where", "c.yaml:3:1"),
    "yaml-two-documents": ("c.yaml", MODEL + "---\nmodel: x/y\n", "a second document", "c.yaml:2:1"),
    "yaml-object": ("c.yaml", 'model: !!python/object/apply:os.system ["touch pwned"]\n', "plain data", "c.yaml:1:8"),
    "yaml-bomb": ("c.yaml", "a: &a [x,x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(9)), "unfold", None),
    "nested-deep": ("c.json", "[" * 100_000, "nested more than", None),
    "empty": ("c.yaml", "", "is empty", None),
    "comments": ("c.yaml", "# nothing\n", "nothing but comments", None),
    "null": ("c.json", "null", "null", None),
    "list": ("c.json", "[1, 2]", "a list at its top", None),
    "no-model": ("c.yaml", "lora: {r: 8}\n", "the key lora", None),
    "latin-1": ("c.yaml", "# caf\xe9\n".encode("latin-1") + MODEL.encode(), "not UTF-8", None),
    "binary": ("c.yaml", bytes(range(256)), "not UTF-8", None),
    "text-for-number": ("c.yaml", MODEL + "lora: {r: many}\n", "lora.r must be a whole number, found the text 'many'",
                        "c.yaml:2:8"),
    "number-for-list": ("c.yaml", MODEL + "lora: {target_modules: 3}\n", "lora.target_modules must be a list",
                        "c.yaml:2:8"),
    "list-for-section": ("c.yaml", MODEL + "lora: [1, 2]\n", "lora must be a mapping", "c.yaml:2:1"),
    "too-small": ("c.yaml", MODEL + "lora: {r: -1}\n", "at least 1", "c.yaml:2:8"),
    "not-a-number": ("c.yaml", MODEL + "training: {learning_rate: .nan}\n", "must be a number", "c.yaml:2:12"),
    "unknown-card": ("c.yaml", MODEL + "hardware: {gpu: rtx-40900}\n", "not a known card", "c.yaml:2:12"),
    "endless-number": ("c.json", '{"model": "x/y", "lora": {"r": ' + "9" * 5000 + "}}", "cannot be read", None),
}  # fmt: skip


@pytest.mark.parametrize("case", UNREADABLE.values(), ids=UNREADABLE)
def test_unreadable(case: tuple[str, bytes | str, str, str | None], doctor: Callable[..., Ran], tmp_path: Path) -> None:
    name, content, sentence, place = case
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    ran = doctor(name)
    assert ran.code == 2
    assert sentence in ran.error and ran.error.endswith(".") and name in ran.stderr
    assert place is None or f"--> {place}" in ran.stderr, ran.stderr
    # The report tells it too: a gate that reads the JSON alone must not take silence for health.
    assert ran.report["exit_code"] == 2 and ran.stages["config"]["status"] == "failed"
    assert ran.stages["config"]["reason"] == ran.error
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("name", ["missing.yaml", "folder"])
def test_no_file(name: str, doctor: Callable[..., Ran], tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    ran = doctor(name)
    assert ran.code == 2 and name in ran.error and "help:" in ran.stderr


READABLE: dict[str, tuple[bytes | str, str, str]] = {
    # id: (content, the rule, a part of its message)
    "misspelt": (MODEL + "lora: {lora_aplha: 16}\n", "QD101", "the closest known one is lora.lora_alpha"),
    "unknown-section": (MODEL + "lroa: {r: 8}\n", "QD101", "the closest known one is lora"),
    "unknown": (MODEL + "lora: {zzzzqq: 16}\n", "QD102", "lora.zzzzqq"),
    "repeated": (MODEL + "lora: {r: 8}\nlora: {r: 16}\n", "QD103", "lora appears more than once"),
    "repeated-json": ('{"model": "x/y", "lora": {"r": 8, "r": 16}}', "QD103", "lora.r appears more than once"),
    "2e-4": (MODEL + "training: {learning_rate: 2e-4}\n", "QD104", "training.learning_rate"),
    "missing-folder": ("model: ./nowhere\n", "QD106", "no such folder"),
    "control-characters": ('model: "./\\e[31mred\\0"\n', "QD106", "no such folder"),
}


@pytest.mark.parametrize("case", READABLE.values(), ids=READABLE)
def test_readable_and_wrong(case: tuple[str, str, str], doctor: Callable[..., Ran], tmp_path: Path) -> None:
    content, rule, sentence = case
    quantization = ", quantization: {bnb_4bit_compute_dtype: bfloat16}"
    if content.startswith("{"):
        content = content[:-1] + ', "quantization": {"bnb_4bit_compute_dtype": "bfloat16"}}'
    else:
        content += quantization.removeprefix(", ") + "\n"
    (tmp_path / "c.yaml").write_text(content)
    ran = doctor("c.yaml", "--stage", "config")
    assert ran.rules == {rule}, ran.stdout
    assert sentence in ran.message(rule)
    location = next(f["location"] for f in ran.report["findings"] if f["rule"] == rule)
    assert location["file"].endswith("c.yaml") and location["line"]
    assert ran.code == (1 if rule in ("QD101", "QD103", "QD106") else 0)
    assert "\x1b" not in ran.stdout and "\0" not in ran.stdout


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks(encoding: str, doctor: Callable[..., Ran], tmp_path: Path) -> None:
    for name, text in (("c.json", '{"model": "x/y", "lora": {"r": 0}}'), ("c.yaml", "model: x/y\nlora: {r: 0}\n")):
        (tmp_path / name).write_bytes(text.encode(encoding))
        assert doctor(name).error == "lora.r must be at least 1, found the number 0."


def test_a_broken_config_among_others(doctor: Callable[..., Ran], tmp_path: Path) -> None:
    fine = MODEL + "quantization: {bnb_4bit_compute_dtype: bfloat16}\n"
    for name, text in (("a.yaml", fine), ("b.yaml", "model: [\n"), ("c.yaml", fine + "lora: {r: 8, r: 9}\n")):
        (tmp_path / name).write_text(text)
    ran = doctor("a.yaml", "b.yaml", "missing.yaml", "c.yaml", "--stage", "config")
    assert ran.code == 2
    outcome = {Path(r["setup"]["file"]).name: r["exit_code"] for r in ran.report}
    assert outcome == {"a.yaml": 0, "b.yaml": 2, "missing.yaml": 2, "c.yaml": 1}


def usage(**cases: Any) -> Any:
    return pytest.mark.parametrize("case", cases.values(), ids=cases)


@usage(
    stage=(["--stage", "stpe"], "There is no stage 'stpe'"),
    rule=(["--select", "QD999"], "QD999"),
    severity=(["--severity", "QD103=fatal"], "RULE=error"),
    format=(["--format", "pdf"], "There is no format 'pdf'"),
    timeout=(["--timeout", "0"], "--timeout"),
    option=(["--stgae", "config"], "--stage"),
    facts=(["--facts", "nowhere.json"], "nowhere.json does not exist"),
    output=(["-o", "html"], "FORMAT=PATH"),
    folder=(["-o", "html=nowhere/x.html"], "The folder nowhere does not exist"),
)
def test_usage(case: tuple[list[str], str], doctor: Callable[..., Ran], tmp_path: Path) -> None:
    arguments, sentence = case
    (tmp_path / "c.yaml").write_text(MODEL)
    ran = doctor("c.yaml", "--stage", "config", *arguments)
    assert ran.code == 2 and sentence in ran.stderr, ran.stderr
    assert ran.stdout == "" and ran.report is None


@pytest.mark.parametrize(
    "document",
    ["", "{", "[]", "3", "null", '{"schema_version": 99}', '{"facts": 3}', '{"load": {"failure": "x"}}', "\xff\xfe"],
)
def test_recorded_facts_that_are_none(document: str, doctor: Callable[..., Ran], tmp_path: Path) -> None:
    (tmp_path / "facts.json").write_bytes(document.encode("latin-1"))
    ran = doctor("--facts", "facts.json")
    assert ran.code == 2 and "facts.json" in ran.error


def test_debug_shows_where_it_was_raised(doctor: Callable[..., Ran], tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("model: [\n")
    ran = doctor("c.yaml", "--debug")
    assert ran.code == 2 and "Traceback" in ran.stderr and "error: c.yaml is not valid YAML" in ran.stderr
