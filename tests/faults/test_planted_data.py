"""Faults planted in data and its mask: stages config and data tell exactly the rule, and nothing of the twin."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("datasets")

from tests.faults.planting import check_here, found, healthy_config, told, write
from tests.models import CHAT_TEMPLATE, make_data
from tests.probes.test_forms import SCRIPT

STAGES = ("config", "data")
Rows = list[dict[str, Any]]


def pairs(count: int = 40) -> Rows:
    return [{"prompt": f"Say the number {n}:", "completion": f" It is number {n}."} for n in range(count)]


def trl_config(folder: Path, model: Path, rows: Rows, **data: Any) -> Path:
    (folder / "train.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    said = {"train": "train.jsonl", "format": "prompt-completion", **data}
    return write(
        folder / "config.json", healthy_config(model, data=said, training={"trainer": "trl", "max_length": 128})
    )


def held_out(folder: Path, rows: Rows) -> str:
    (folder / "eval.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return "eval.jsonl"


PLANTED: dict[str, Callable[[Rows], Rows]] = {
    "QD658": lambda rows: rows[:20] + rows[:20],
    "QD659": lambda rows: [{**row, "prompt": rows[0]["prompt"]} for row in rows],
    "QD660": lambda rows: [{**row, "completion": ""} if n < 5 else row for n, row in enumerate(rows)],
    "QD655": lambda rows: [{**row, "reasoning": f"Because of {n * n}."} for n, row in enumerate(rows)],
    "QD681": lambda rows: [{**row, "completion": f"It isn\u00e2\u20ac\u2122t {n}."} for n, row in enumerate(rows)],
    "QD683": lambda rows: [{"prompt": f"{n:02d} " + "a " * 40, "completion": f"{n:02d}"} for n in range(2 * len(rows))],
}


@pytest.mark.parametrize("rule", PLANTED)
def test_planted_in_rows(rule: str, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trl")
    report = check_here(trl_config(tmp_path, tiny_llama, PLANTED[rule](pairs())), monkeypatch, stages=STAGES)
    assert found(report, "info") == {rule}, told(report)


def test_evaluation_rows_in_training(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trl")
    rows = pairs()
    same = trl_config(tmp_path, tiny_llama, rows, eval=held_out(tmp_path, rows[:10]))
    assert found(check_here(same, monkeypatch, stages=STAGES), "info") == {"QD657"}
    apart = trl_config(tmp_path, tiny_llama, rows[10:], eval=held_out(tmp_path, rows[:10]))
    report = check_here(apart, monkeypatch, stages=STAGES)
    assert not found(report, "info"), told(report)


def test_evaluation_rows_of_another_form(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trl")
    other = [{"question": "Sing.", "answer": f"La {n}."} for n in range(10)]
    path = trl_config(tmp_path, tiny_llama, pairs(), eval=held_out(tmp_path, other))
    assert "QD682" in found(check_here(path, monkeypatch, stages=STAGES), "error")
    talks = [{"messages": [{"role": "user", "content": "Sing."}, {"role": "assistant", "content": f"La {n}."}]}
             for n in range(10)]  # fmt: skip
    path = trl_config(tmp_path, tiny_llama, pairs(), eval=held_out(tmp_path, talks))
    assert "QD682" not in found(check_here(path, monkeypatch, stages=STAGES), "error")


def test_columns_that_the_text_repeats_are_read(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alpaca's own file has the text beside its parts."""
    pytest.importorskip("trl")
    rows = [{"instruction": f"Say {n}.", "output": f"It is {n}.", "text": f"### Say {n}. ### It is {n}."}
            for n in range(20)]  # fmt: skip
    report = check_here(trl_config(tmp_path, tiny_llama, rows, format="text"), monkeypatch, stages=STAGES)
    assert "QD655" not in found(report, "info"), told(report)


def test_reasoning_that_the_template_drops(
    model_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("trl")
    from transformers import AutoTokenizer

    model = tmp_path / "model"
    shutil.copytree(model_folder("qwen3"), model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = (
        "{% for m in messages %}{% set c = m['content'] %}{% if m['role'] == 'assistant' and not loop.last %}"
        "{% set c = c.split('</think>')[-1].strip() %}{% endif %}"
        "<|im_start|>{{ m['role'] }}\n{{ c }}<|im_end|>\n{% endfor %}"
    )
    tokenizer.save_pretrained(model)

    def chat(turns: int, n: int) -> dict[str, Any]:
        messages = []
        for turn in range(turns):
            messages.append({"role": "user", "content": f"What is {n} and {turn}?"})
            answer = f"<think>\nadd {turn} to {n}\n</think>\n\nIt is {n + turn}."
            messages.append({"role": "assistant", "content": answer})
        return {"messages": messages}

    several = trl_config(tmp_path, model, [chat(2, n) for n in range(8)], format="messages")
    assert found(check_here(several, monkeypatch, stages=STAGES), "warning") == {"QD656"}
    single = trl_config(tmp_path, model, [chat(1, n) for n in range(8)], format="messages")
    report = check_here(single, monkeypatch, stages=STAGES)
    assert not found(report, "warning"), told(report)


def axolotl_file(folder: Path, model: Path, entry: str = "") -> Path:
    make_data(folder / "rows.jsonl", "messages", rows=24)
    path = folder / "qlora.yml"
    path.write_text(
        f"base_model: {model}\nadapter: qlora\nload_in_4bit: true\nlora_r: 16\nlora_alpha: 32\n"
        "lora_target_linear: true\nsequence_len: 128\nmicro_batch_size: 2\ngradient_accumulation_steps: 1\n"
        "learning_rate: 0.0002\nbf16: true\ngradient_checkpointing: true\nnum_epochs: 1\n"
        f"datasets:\n  - path: rows.jsonl\n    type: chat_template\n{entry}"
    )
    return path


@pytest.mark.parametrize(
    ("rule", "level", "entry", "top"),
    [
        ("QD651", "error", "    roles_to_train: [bot]\n", ""),
        ("QD652", "warning", "    roles: {assistant: [assistant]}\n", ""),
        ("QD653", "warning", "", "SHORT"),
        ("QD654", "error", "", "VERY SHORT"),
    ],
)
def test_planted_in_axolotl(
    rule: str, level: str, entry: str, top: str, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = axolotl_file(tmp_path, tiny_llama, entry)
    if top:
        limit = {"SHORT": 74, "VERY SHORT": 16}[top]
        path.write_text(path.read_text().replace("sequence_len: 128", f"sequence_len: {limit}"))
    report = check_here(path, monkeypatch, stages=STAGES)
    assert found(report, level) == {rule}, told(report)


def test_healthy_axolotl_is_silent(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = check_here(axolotl_file(tmp_path, tiny_llama), monkeypatch, stages=STAGES)
    assert not found(report, "warning"), told(report)


@pytest.mark.parametrize(
    ("rules", "collator", "labels"),
    [
        ({"QD633"}, "DataCollatorForLanguageModeling(tok, mlm=False)", "labels"),
        ({"QD630"}, "DataCollatorForSeq2Seq(tok)", "ids[1:] + [-100]"),
        (set(), "DataCollatorForSeq2Seq(tok)", "labels"),
    ],
)
def test_planted_in_a_script(
    rules: set[str], collator: str, labels: str, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "qa.jsonl").write_text(
        "\n".join(json.dumps({"q": f"number {n}", "a": f"It is {n}."}) for n in range(24))
    )
    text = SCRIPT.replace("MODEL", str(tiny_llama)).replace("COLLATOR", collator)
    text = text.replace('"labels": labels}', f'"labels": {labels}}}')
    path = tmp_path / "train.py"
    path.write_text(text)
    report = check_here(path, monkeypatch, stages=STAGES)
    assert found(report, "error") == rules, told(report)


@pytest.mark.parametrize(("marker", "rules"), [("<|im_start|>assistant\\n", {"QD663"}), ("### Response:\\n", set())])
def test_a_response_marker_of_another_template(
    marker: str, rules: set[str], tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("trl")
    (tmp_path / "qa.jsonl").write_text(
        "\n".join(json.dumps({"q": f"number {n}", "a": f"It is {n}."}) for n in range(24))
    )
    path = tmp_path / "train.py"
    path.write_text(UNSLOTH.replace("MODEL", str(tiny_llama)).replace("MARKER", marker))
    report = check_here(path, monkeypatch, stages=STAGES)
    assert found(report, "error") == rules, told(report)


UNSLOTH = """\
from unsloth import FastLanguageModel
from unsloth.chat_templates import train_on_responses_only
from trl import SFTTrainer, SFTConfig
from datasets import load_dataset

model, tokenizer = FastLanguageModel.from_pretrained("MODEL", max_seq_length=128, load_in_4bit=True)
model = FastLanguageModel.get_peft_model(model, r=16, lora_alpha=16, target_modules=["q_proj", "v_proj"])
prompt = "### Instruction:\\n{}\\n\\n### Response:\\n{}"
END = tokenizer.eos_token

def form(rows):
    texts = []
    for asked, answered in zip(rows["q"], rows["a"]):
        texts.append(prompt.format(asked, answered) + END)
    return {"text": texts}

data = load_dataset("json", data_files="qa.jsonl", split="train").map(form, batched=True)
trainer = SFTTrainer(model=model, tokenizer=tokenizer, train_dataset=data, args=SFTConfig(
    dataset_text_field="text", max_length=128, output_dir="out", learning_rate=2e-4, per_device_train_batch_size=2))
trainer = train_on_responses_only(trainer, instruction_part="### Instruction:\\n", response_part="MARKER")
trainer.train()
"""


LLAMA3 = (
    "{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' }}"
    "{{ m['content'] + '<|eot_id|>' }}"
    "{% endfor %}"
)


@pytest.mark.parametrize("own", [True, False])
def test_a_template_that_is_written_out(
    own: bool, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The marks of another family are no tokens of the model's vocabulary, and that its end is not trained follows."""
    pytest.importorskip("trl")
    make_data(tmp_path / "train.jsonl", "messages", rows=24)
    template = CHAT_TEMPLATE if own else LLAMA3
    said = {"train": "train.jsonl", "format": "messages", "chat_template": template}
    config = healthy_config(tiny_llama, data=said, training={"trainer": "trl", "max_length": 256})
    report = check_here(write(tmp_path / "config.json", config), monkeypatch, stages=STAGES)
    assert found(report, "warning") == (set() if own else {"QD650"}), told(report)


def test_rows_that_name_their_messages_otherwise(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("trl")
    make_data(tmp_path / "train.jsonl", "messages", rows=24)
    text = (tmp_path / "train.jsonl").read_text()
    (tmp_path / "train.jsonl").write_text(text + text.replace("messages", "conversation"))
    config = healthy_config(tiny_llama, data={"train": "train.jsonl"}, training={"trainer": "trl", "max_length": 128})
    report = check_here(write(tmp_path / "config.json", config), monkeypatch, stages=STAGES)
    assert found(report, "error") == {"QD601"}, told(report)
    assert "24 of the 48 rows looked at have nothing in the column 'messages'" in told(report)


def _talk(number: int) -> dict[str, Any]:
    call = json.dumps({"name": "weather", "arguments": {"city": f"city {number}"}})
    turns = [
        ("human", f"How is city {number}?"),
        ("function_call", call),
        ("observation", "sun"),
        ("gpt", f"Good {number}"),
    ]
    tools = json.dumps([{"name": "weather", "parameters": {"type": "object", "properties": {}}}])
    return {"conversations": [{"from": role, "value": text} for role, text in turns], "tools": tools}


def _called(rows: Rows, call: str) -> Rows:
    return [
        {**row, "conversations": [row["conversations"][0], {"from": "function_call", "value": call}]} for row in rows
    ]


def _seen(rows: Rows, mark: str, images: int) -> Rows:
    return [
        {
            "conversations": [{"from": "human", "value": f"{mark} What is {n}?"}, {"from": "gpt", "value": f"A {n}"}],
            "images": ["a.png"] * images,
        }
        for n, _ in enumerate(rows)
    ]


@pytest.mark.parametrize(
    ("rules", "columns", "change"),
    [
        (set(), {"tools": "tools"}, lambda rows: rows),
        ({"QD655"}, {}, lambda rows: rows),
        ({"QD664"}, {"tools": "tools"}, lambda rows: _called(rows, "weather(city=x)")),
        ({"QD665"}, {"tools": "tools"}, lambda rows: _called(rows, '{"name": "forecast", "arguments": {}}')),
        ({"QD651"}, {"tools": "tools"}, lambda rows: json.loads(json.dumps(rows).replace('"from": "', '"from": "x'))),
        (set(), {"images": "images"}, lambda rows: _seen(rows, "<image>", 1)),
        ({"QD655"}, {}, lambda rows: _seen(rows, "<image>", 1)),
        ({"QD601"}, {"images": "images"}, lambda rows: _seen(rows, "<image>", 2)),
        ({"QD601"}, {"images": "images"}, lambda rows: _seen(rows, "Look:", 1)),
    ],
)
def test_tools_and_images_of_llamafactory(
    rules: set[str],
    columns: dict[str, str],
    change: Callable[[Rows], Rows],
    tiny_llama: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Their tokens are not followed; what needs none is told all the same."""
    rows = change([_talk(number) for number in range(24)])
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    entry = {"file_name": "rows.jsonl", "formatting": "sharegpt", "columns": {"messages": "conversations", **columns}}
    (tmp_path / "dataset_info.json").write_text(json.dumps({"mine": entry}))
    config = {
        "model_name_or_path": str(tiny_llama), "stage": "sft", "do_train": True, "finetuning_type": "lora",
        "quantization_bit": 4, "lora_target": "all", "dataset": "mine", "dataset_dir": ".", "template": "chatml",
        "cutoff_len": 128, "learning_rate": 1e-4, "bf16": True, "output_dir": "out",
    }  # fmt: skip
    report = check_here(write(tmp_path / "lf.json", config), monkeypatch, stages=STAGES)
    assert {rule for rule in found(report, "info") if rule.startswith("QD6")} == rules, told(report)
    assert next(stage.status for stage in report.stages if stage.name == "data") == (
        "failed" if "QD601" in rules else "done"
    )
