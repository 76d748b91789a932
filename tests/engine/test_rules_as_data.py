"""Reading pages, choosing among them, adding them up."""

from __future__ import annotations

from pathlib import Path

import pytest

from qlora_doctor.core.assets import asset_folder
from qlora_doctor.core.errors import UsageError
from qlora_doctor.core.report import Finding, RuleOutcome, StageRecord
from qlora_doctor.engine import (
    PageError,
    Selection,
    check_selection,
    exit_code,
    find_rule,
    fingerprint,
    judge,
    lint_pages,
    load_rules,
    search_symptoms,
    summarise,
)
from qlora_doctor.engine.lint import healthy_facts, merge_patch
from qlora_doctor.engine.page import parse_page
from qlora_doctor.facts import Facts

from .pages import BODY, FRONT, front, page

# -- pages


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (front(severity="fatal"), "severity"),
        (front(severity=None), "severity"),
        (front(id="QD1"), "id"),
        (front(name="Large_Rank"), "name"),
        (front(since="1"), "since"),
        (front(symptoms="[]"), "symptoms"),
        (FRONT + "extra: 1\n", "extra"),
        (FRONT + "id: QD200\n", "twice"),
        (front(when="config.rank > 1"), "config.rank"),
        (front(when="true"), "when"),
        (front(references="['http://insecure.example']"), "references"),
        (front(fix="{text: x, patch: [{op: move, path: /lora/r}]}"), "fix"),
        ("id: [", "QD199-large-rank.md"),
    ],
)
def test_front_matter_is_strict(text: str, why: str) -> None:
    with pytest.raises(PageError, match=why):
        page(text)


def test_page_needs_front_matter() -> None:
    with pytest.raises(PageError, match="front matter"):
        parse_page("# Title", Path("QD199-x.md"))


def test_page_needs_examples_in_json(tmp_path: Path) -> None:
    assert "no JSON object" in lint(tmp_path, body=BODY.replace('{"config": {"lora_r": 8}}', "{config: 8}"))


# -- cache


def test_pages_that_were_read_before_judge_the_same(tmp_path: Path) -> None:
    folder = tmp_path
    healthy = Facts.model_validate(healthy_facts(asset_folder("rules")))
    first = load_rules(kept_in=folder)
    assert len(list(folder.iterdir())) == 1
    again = load_rules(kept_in=folder)
    assert [rule.model_dump() for rule in again] == [rule.model_dump() for rule in first]
    assert [rule.stage for rule in again] == [rule.stage for rule in first]
    assert [rule.sections for rule in again] == [rule.sections for rule in first]
    for facts in (Facts(), healthy):
        assert judge(facts, again) == judge(facts, first)


def test_edited_page_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "QD199-large-rank.md"
    for rank in (256, 512):
        file.write_text(f"---\n{front(when=f'config.lora_r > {rank}')}---\n{BODY}", encoding="utf-8")
        assert load_rules(tmp_path, kept_in=tmp_path / "cache")[0].when == f"config.lora_r > {rank}"


@pytest.mark.parametrize("content", ["", "[]", "{}", '[{"front": {}, "code": []}]', "\x00"])
def test_damaged_cache_is_passed_over(tmp_path: Path, content: str) -> None:
    count = len(load_rules(kept_in=tmp_path))
    (file,) = tmp_path.iterdir()
    file.write_text(content, encoding="utf-8")
    assert len(load_rules(kept_in=tmp_path)) == count


def test_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("", encoding="utf-8")
    assert load_rules(kept_in=blocked / "below")


def test_old_cache_files_go(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    pages = tmp_path / "pages"
    pages.mkdir()
    for rank in range(300, 308):
        text = f"---\n{front(when=f'config.lora_r > {rank}')}---\n{BODY}"
        (pages / "QD199-large-rank.md").write_text(text, encoding="utf-8")
        load_rules(pages, kept_in=folder)
    assert len(list(folder.iterdir())) == 4


def test_two_pages_with_one_id_are_refused(tmp_path: Path) -> None:
    for name in ("QD199-large-rank.md", "QD199-other.md"):
        (tmp_path / name).write_text(f"---\n{FRONT}---\n{BODY}", encoding="utf-8")
    with pytest.raises(PageError, match="same id"):
        load_rules(tmp_path)
    with pytest.raises(PageError, match="no folder"):
        load_rules(tmp_path / "nowhere")


def test_rule_is_found_by_id_and_by_name_and_a_typo_gets_the_closest() -> None:
    assert find_rule("QD207").name == "fp4-quant-type"
    assert find_rule("fp4-quant-type").id == "QD207"
    assert find_rule("qd207-fp4-quant-type", load_rules()).id == "QD207"
    with pytest.raises(UsageError, match="QD207-fp4-quant-type"):
        find_rule("fp4-quants-type")


# -- lint


def lint(tmp_path: Path, front_matter: str = FRONT, body: str = BODY, name: str = "QD199-large-rank.md") -> str:
    (tmp_path / name).write_text(f"---\n{front_matter}---\n{body}", encoding="utf-8")
    return "\n".join(map(str, lint_pages(tmp_path, catalogue={"known"})))


def test_sound_page_has_no_problem(tmp_path: Path) -> None:
    assert lint(tmp_path) == ""


@pytest.mark.parametrize(
    ("front_matter", "body", "why"),
    [
        (front(name="other"), BODY, "must be called"),
        (front(failures="[unheard-of]"), BODY, "unheard-of"),
        (front(message='"Rank {{ config.lora_r }} is huge."'), BODY, "The message is"),
        (front(message='"Rank {{ config.lora_r }} is large"'), BODY, "sentence"),
        (front(message='"Rank {{ config.budget_step_seconds }} is large."'), BODY, "leaves unknown"),
        (front(message='"Rank { { is }} large."'), BODY, "placeholder"),
        (front(when="config.lora_r > 8"), BODY, "healthy"),
        (front(when="config.budget_step_seconds > 8"), BODY, "skipped"),
        (front(healthy="{config: {lora_r: 400}}"), BODY, "healthy"),
        (front(healthy="{config: {lora_rank: 8}}"), BODY, "no facts document"),
        (front(when="config.lora_r > 1024"), BODY, "not fail"),
        (front(when="config.lora_r > 256 " + "and config.lora_r > 256 " * 14), BODY, "longer"),
        (front(evidence="[config.method_x]"), BODY, "method_x"),
        (front(params="{a: {default: 1, unit: x, why: x, source: x}}"), BODY, "not used"),
        (front(fix="{text: x., safety: safe}"), BODY, "needs a patch"),
        (front(fix="{text: x., patch: [{op: add, path: /nowhere/r}]}"), BODY, "no section"),
        (front(), BODY.replace("## When to ignore\nNever.\n", ""), "headings"),
        (front(), BODY.replace("json pass", "json good"), "no 'pass' example"),
        (front(), BODY.replace('{"config": {"lora_r": 8}}', '{"config": {"lora_rank": 8}}'), "no facts document"),
        (front(), BODY.replace('{"lora_r": 8}', '{"lora_r": 400}'), "not pass"),
    ],
)
def test_lint_finds(tmp_path: Path, front_matter: str, body: str, why: str) -> None:
    assert why in lint(tmp_path, front_matter, body)


def test_a_rule_that_is_stricter_than_the_healthy_facts_patches_them(tmp_path: Path) -> None:
    strict = front(when="config.lora_r > 8", healthy="{config: {lora_r: 4}}")
    assert lint(tmp_path, strict, BODY) == ""


def test_lint_finds_a_second_rule_that_tells_the_same_fault(tmp_path: Path) -> None:
    twin = front(id="QD198", name="big-rank", message='"Rank {{ config.lora_r }} is large."')
    (tmp_path / "QD198-big-rank.md").write_text(f"---\n{twin}---\n{BODY}", encoding="utf-8")
    assert "QD198 fires as well" in lint(tmp_path)


def test_merge_patch_is_rfc_7386() -> None:
    target = {"a": "b", "c": {"d": "e", "f": "g"}, "h": [1]}
    assert merge_patch(target, {"a": "z", "c": {"f": None}, "h": [2], "n": {"x": None}}) == {
        "a": "z",
        "c": {"d": "e"},
        "h": [2],
        "n": {},
    }
    assert merge_patch(target, [1]) == [1]


# -- selection


def judged(**options: object) -> set[str]:
    rules = [
        page(front(id="QD101", name="one", profile="min")),
        page(front(id="QD102", name="two")),
        page(front(id="QD201", name="three", profile="strict")),
    ]
    return {o.rule for o in judge(Facts(), rules, selection=Selection(**options)).outcomes}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"QD101", "QD102"}),
        ({"profile": "min"}, {"QD101"}),
        ({"profile": "strict"}, {"QD101", "QD102", "QD201"}),
        ({"select": ["QD2"]}, {"QD201"}),
        ({"select": ["ALL"]}, {"QD101", "QD102", "QD201"}),
        ({"select": ["two", "QD201"]}, {"QD102", "QD201"}),
        ({"ignore": ["QD1"]}, set()),
        ({"select": ["QD1"], "ignore": ["one"]}, {"QD102"}),
    ],
)
def test_selection(options: dict[str, object], expected: set[str]) -> None:
    assert judged(**options) == expected


def test_most_exact_severity_wins() -> None:
    selection = Selection(severity={"QD1": "info", "QD199": "error"})
    assert selection.severity_of(page()) == "error"
    assert selection.severity_of(page(front(id="QD198"))) == "info"


def test_pattern_without_a_rule_is_a_usage_error_with_the_closest() -> None:
    check_selection(Selection(select=["QD199"], ignore=["large-rank"]), [page()])
    with pytest.raises(UsageError, match="large-rank"):
        check_selection(Selection(ignore=["larg-rank"]), [page()])


# -- verdict


def finding(severity: str, suppressed: str | None = None) -> Finding:
    data = {"rule": "QD199", "name": "x", "stage": "config", "message": "m.", "fingerprint": "0" * 16}
    return Finding.model_validate({**data, "severity": severity, "suppressed": suppressed})


@pytest.mark.parametrize(
    ("severities", "fail_on", "code"),
    [
        ([], "error", 0),
        (["warning", "info"], "error", 0),
        (["warning"], "warning", 1),
        (["info"], "info", 1),
        (["error"], "error", 1),
        (["error"], "never", 0),
    ],
)
def test_exit_code_by_findings(severities: list[str], fail_on: str, code: int) -> None:
    assert exit_code([finding(s) for s in severities], [], fail_on) == code  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "requested", "code"),
    [("done", True, 1), ("failed", True, 3), ("skipped", True, 3), ("failed", False, 1)],
)
def test_stage_that_was_asked_for_and_did_not_complete_is_3(status: str, requested: bool, code: int) -> None:
    stage = StageRecord.model_validate({"name": "load", "status": status, "requested": requested})
    assert exit_code([finding("error")], [stage]) == code


@pytest.mark.parametrize(("status", "severity", "code"), [("failed", "warning", 3), ("skipped", "warning", 0)])
def test_stage_that_failed_without_an_error_is_not_clean(status: str, severity: str, code: int) -> None:
    stage = StageRecord.model_validate({"name": "load", "status": status})
    assert exit_code([finding(severity)], [stage]) == code


def test_suppressed_findings_do_not_count() -> None:
    findings = [finding("error", suppressed="known"), finding("warning")]
    assert exit_code(findings, []) == 0
    outcomes = [RuleOutcome(rule="QD1", name="x", status="skipped", stage="load")]
    summary = summarise(findings, outcomes)
    assert (summary.error, summary.warning, summary.info, summary.skipped) == (0, 1, 0, 1)


def test_fingerprint_knows_rule_file_and_pointer_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    base = fingerprint("QD1", "a/config.json", "/lora/r")
    assert len(base) == 16 and int(base, 16) >= 0
    assert base == fingerprint("QD1", str(tmp_path / "a" / "config.json"), "/lora/r")
    assert base == fingerprint("QD1", "a\\config.json", "/lora/r")
    others = [("QD2", "a/config.json", "/lora/r"), ("QD1", "b.json", "/lora/r"), ("QD1", "a/config.json", None)]
    assert base not in {fingerprint(*other) for other in others}


# -- search


@pytest.mark.parametrize(
    ("symptom", "rule"),
    [
        ("the loss does not go down", "QD120"),
        ("my loss stays flat and the adapter learns nothing", "QD120"),
        ("loss exploded after it had fallen", "QD121"),
        ("Attempting to unscale FP16 gradients", "QD114"),
        ("T4 says bf16 is not supported", "QD110"),
        ("quantization state not initialized", "QD235"),
        ("mat1 and mat2 shapes cannot be multiplied (32x4096 and 8388608x1)", "QD235"),
        ("load_in_4bit seems to have no effect, VRAM is the same as 16 bit", "QD202"),
        ("4bit training is much slower than fp16", "QD112"),
        ("bitsandbytes compiled without GPU support", "QD108"),
        ("Mixtral in 4-bit needs as much memory as bf16", "QD204"),
        ("learning rate is read as a string from yaml", "QD104"),
        ("Target modules not found in the base model", "QD301"),
        ("None of the inputs have requires_grad=True", "QD402"),
        ("element 0 of tensors does not require grad and does not have a grad_fn", "QD402"),
    ],
)
def test_symptom_finds_its_rule_among_the_first_three(symptom: str, rule: str) -> None:
    assert rule in [match.rule.id for match in search_symptoms(symptom)][:3]


@pytest.mark.parametrize(
    ("error", "rule"),
    [
        ("AttributeError: '_IncompatibleKeys' object has no attribute 'to'", "QD125"),
        ("TypeError: iteration over a 0-d tensor", "QD125"),
        ("ValueError: Quantized model only accepts a single adapter. Merge them first.", "QD126"),
        ("WhisperForConditionalGeneration.forward() got an unexpected keyword argument 'input_ids'", "QD627"),
        ("Expected to have finished reduction in the prior iteration before starting a new one", "QD433"),
        ("Repository Not Found for url: https://huggingface.co/None/resolve/main/config.json", "QD384"),
        ("'eval_loss', which is not found in the evaluation metrics", "QD146"),
        ("merge_and_unload returns the base (prior to fine-tuning) back", "QD143"),
        ("GRPO loss is always 0", "QD649"),
        ("Unrecognized model in ./out. Should have a `model_type` key in its config.json", "QD240"),
    ],
)
def test_an_error_that_users_report_finds_its_rule_first(error: str, rule: str) -> None:
    assert search_symptoms(error)[0].rule.id == rule


@pytest.mark.parametrize(
    "error",
    [
        "AttributeError: 'KTOTrainer' object has no attribute 'calculate_KL'",
        "torch.distributed.DistBackendError: NCCL error",
        "RuntimeError: probability tensor contains either `inf`, `nan` or element < 0",
    ],
)
def test_no_rule_is_named_for_the_words_in_which_every_error_is_told(error: str) -> None:
    assert search_symptoms(error) == []


def test_symptom_that_no_page_knows_finds_nothing() -> None:
    assert search_symptoms("zzzz qqqq") == []
    assert search_symptoms("") == []
