"""Pairs and judged answers of axolotl and LLaMA-Factory, formed as their own code does (the texts are theirs)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("datasets")

from qlora_doctor.pipeline.forms.compared import form_compared
from qlora_doctor.pipeline.forms.kinds import CannotForm, NotFollowedForm
from qlora_doctor.probes.config.template import template_facts
from qlora_doctor.probes.data.look import look_at_data
from qlora_doctor.reading import read_setup
from qlora_doctor.setup.setup import Setup
from tests.probes.conftest import silent

U, A = "<|im_start|>user\n", "<|im_start|>assistant\n"
L3 = "<|start_header_id|>{}<|end_header_id|>\n\n"
SAID = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
WORSE = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}]


def axolotl(folder: Path, model: Path | str, rows: list[dict[str, Any]], kind: Any, rl: str, **top: Any) -> Setup:
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    config = {
        "base_model": str(model), "adapter": "qlora", "load_in_4bit": True, "lora_r": 8, "rl": rl, "sequence_len": 256,
        "micro_batch_size": 1, "datasets": [{"path": "rows.jsonl", "type": kind, "split": "train"}], **top,
    }  # fmt: skip
    (folder / "qlora.yml").write_text(json.dumps(config))
    return read_setup(folder / "qlora.yml")


@pytest.mark.parametrize(
    ("kind", "rl", "row", "formed"),
    [
        ("chatml.intel", "dpo", {"question": "q", "chosen": "a", "rejected": "b"},
         {"prompt": f"{U}q<|im_end|>\n{A}", "chosen": "a<|im_end|>", "rejected": "b<|im_end|>"}),
        ("chatml.icr", "ipo", {"system": "s", "input": "q", "chosen": "a", "rejected": "b"},
         {"prompt": f"<|im_start|>system\ns<|im_end|>\n{U}q<|im_end|>\n{A}", "chosen": "a<|im_end|>",
          "rejected": "b<|im_end|>"}),
        ("chatml.argilla_chat", "dpo", {"chosen": SAID, "rejected": WORSE},
         {"prompt": f"{U}q<|im_end|>\n{A}", "chosen": "a<|im_end|>", "rejected": "b<|im_end|>"}),
        ("chatml.ultra", "dpo", {"prompt": "q", "chosen": SAID, "rejected": WORSE},
         {"prompt": f"{U}q<|im_end|>\n{A}", "chosen": "a<|im_end|>", "rejected": "b<|im_end|>"}),
        ("chatml", "dpo", {"instruction": "q", "chosen_response": "a", "rejected_response": "b"},
         {"prompt": f"{U}q<|im_end|>\n{A}", "chosen": "a<|im_end|>", "rejected": "b<|im_end|>"}),
        ("llama3.prompt_pairs", "dpo", {"prompt": "q", "chosen": "a", "rejected": "b"},
         {"prompt": L3.format("user") + "q<|eot_id|>" + L3.format("assistant"),
          "chosen": "a<|eot_id|>", "rejected": "b<|eot_id|>"}),
        ("chatml.argilla", "kto", {"instruction": "q", "completion": "a", "label": True},
         {"prompt": f"{U}q<|im_end|>\n{A}", "completion": "a<|im_end|>", "label": True}),
        ({"field_prompt": "q", "prompt_format": "[{prompt}]", "chosen_format": "{chosen}</s>"}, "dpo",
         {"q": "q", "chosen": "a", "rejected": "b"}, {"prompt": "[q]", "chosen": "a</s>", "rejected": "b"}),
    ],
)  # fmt: skip
def test_axolotls_types(kind: Any, rl: str, row: dict[str, Any], formed: dict[str, Any], tmp_path: Path) -> None:
    setup = axolotl(tmp_path, "Qwen/Qwen2.5-7B", [row], kind, rl)
    made = form_compared(setup, setup.named_data[0], [row], list(row), None)
    assert made.rows == [formed]


def test_the_tokenizers_template_writes_pairs(tiny_llama: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    row = {"messages": SAID[:1], "chosen": {"role": "assistant", "content": "yes!"}, "rejected": "no."}
    setup = axolotl(tmp_path, tiny_llama, [row], "chat_template.default", "dpo")
    made = form_compared(setup, setup.named_data[0], [row], list(row), AutoTokenizer.from_pretrained(tiny_llama))
    assert made.rows == [{"prompt": f"{U}q<|im_end|>\n{A}", "chosen": "yes!<|im_end|>", "rejected": "no.<|im_end|>"}]


def test_a_column_that_the_type_wants_is_missing(tiny_llama: Path, tmp_path: Path) -> None:
    row = {"prompt": "q", "chosen": "a", "rejected": "b"}
    setup = axolotl(tmp_path, tiny_llama, [row], "chatml.intel", "dpo")
    with pytest.raises(CannotForm, match="'question'; there are prompt, chosen, rejected"):
        form_compared(setup, setup.named_data[0], [row], list(row), None)
    assert "finds no 'question'" in (look_at_data(setup, silent).failure or "")


def test_pairs_of_a_file_are_judged(tiny_llama: Path, tmp_path: Path) -> None:
    rows = [{"question": f"q {n}", "chosen": f"the good answer {n}", "rejected": f"bad {n}"} for n in range(8)]
    rows += [
        {"question": "long", "chosen": "word " * 400, "rejected": "b"},
        {"question": "s", "chosen": "x", "rejected": "x"},
    ]
    facts = look_at_data(axolotl(tmp_path, tiny_llama, rows, "chatml.intel", "dpo"), silent)
    assert facts.failure is None and facts.rows_seen == 10 and facts.identical_pairs == 1
    assert facts.left_out == {"longer than the limit": 1}
    assert facts.longer_chosen_ratio == 0.9


def llamafactory(folder: Path, model: Path, rows: list[dict[str, Any]], stage: str, **entry: Any) -> Setup:
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (folder / "dataset_info.json").write_text(json.dumps({"mine": {"file_name": "rows.jsonl", **entry}}))
    config = {
        "model_name_or_path": str(model), "stage": stage, "do_train": True, "finetuning_type": "lora",
        "template": "qwen", "quantization_bit": 4, "dataset": "mine", "dataset_dir": ".", "output_dir": "out",
        "cutoff_len": 64,
    }  # fmt: skip
    (folder / "lf.yaml").write_text(json.dumps(config))
    return read_setup(folder / "lf.yaml")


def test_llamafactorys_ranking(tiny_llama: Path, tmp_path: Path) -> None:
    columns = {"prompt": "instruction", "chosen": "good", "rejected": "bad"}
    rows: list[dict[str, Any]] = [
        {"instruction": f"q {n}", "good": "a", "bad": "a" if n < 2 else "b"} for n in range(6)
    ]
    rows.append({"instruction": "q", "good": None, "bad": "b"})
    facts = look_at_data(llamafactory(tmp_path, tiny_llama, rows, "dpo", ranking=True, columns=columns), silent)
    assert facts.failure is None and facts.identical_pairs == 2
    assert facts.left_out == {"no text in chosen or rejected": 1} and facts.rows_seen == 7
    without = look_at_data(llamafactory(tmp_path, tiny_llama, rows, "dpo", columns=columns), silent)
    assert "ranking: true" in (without.failure or "")


def test_llamafactorys_judged_answers(tiny_llama: Path, tmp_path: Path) -> None:
    rows = [{"instruction": f"q {n}", "output": "a", "good": n < 3} for n in range(4)]
    columns = {"prompt": "instruction", "response": "output", "kto_tag": "good"}
    facts = look_at_data(llamafactory(tmp_path, tiny_llama, rows, "kto", columns=columns), silent)
    assert facts.failure is None and facts.desirable_ratio == 0.75


def test_a_type_names_the_template_of_its_marks(tmp_path: Path) -> None:
    row = {"question": "q", "chosen": "a", "rejected": "b"}
    setup = axolotl(tmp_path, "meta-llama/Llama-3.1-8B-Instruct", [row], "chatml.intel", "dpo")
    assert template_facts(setup)["template_foreign_marks"]
    assert not template_facts(axolotl(tmp_path, "Qwen/Qwen2.5-7B-Instruct", [row], "chatml.intel", "dpo"))[
        "template_foreign_marks"
    ]


SWIFT = (
    "swift rlhf --rlhf_type {method} --model {model} --tuner_type lora --quant_method bnb --quant_bits 4 "
    "--dataset rows.jsonl --per_device_train_batch_size 1 --learning_rate 1e-5 --max_length 512 {more}\n"
)
TALK = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Here."}]


@pytest.mark.parametrize(
    ("method", "row", "identical", "failure"),
    [
        ("dpo", {"messages": TALK, "rejected_response": "There."}, 0, None),
        ("dpo", {"messages": TALK, "rejected_response": "Here."}, 4, None),
        ("orpo", {"messages": TALK, "rejected_messages": TALK}, 4, None),
        ("dpo", {"messages": TALK}, None, "takes rejected_response"),
        ("kto", {"messages": TALK}, None, "takes a label"),
        ("kto", {"messages": TALK, "label": True}, None, None),
    ],
)
def test_pairs_of_swift(
    method: str, row: dict[str, Any], identical: int | None, failure: str | None, tiny_llama: Path, tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for _ in range(4)))
    (tmp_path / "train.sh").write_text(SWIFT.format(method=method, model=tiny_llama, more=""))
    data = look_at_data(read_setup(tmp_path / "train.sh"), silent)
    assert (data.failure is None) == (failure is None) and (failure is None or failure in str(data.failure))
    assert data.identical_pairs == identical


def test_swift_has_betas_of_its_own(tmp_path: Path) -> None:
    for method, more, beta in (("dpo", "", 0.1), ("grpo", "", 0.04), ("simpo", "", 2.0), ("dpo", "--beta 0.3", 0.3)):
        (tmp_path / "train.sh").write_text(SWIFT.format(method=method, model="a/b", more=more))
        assert read_setup(tmp_path / "train.sh").training.beta == beta


def test_pairs_of_autotrain(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    rows = [{"q": f"{n}?", "good": f"{n}.", "bad": f"{n}." if n < 2 else "No."} for n in range(6)]
    (tmp_path / "mine" / "train.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    columns = {"prompt_text_column": "q", "text_column": "good", "rejected_text_column": "bad"}
    config = {"task": "llm-orpo", "base_model": str(tiny_llama), "project_name": "x",
              "data": {"path": "mine", "train_split": "train", "column_mapping": columns},
              "params": {"peft": True, "quantization": "int4"}}  # fmt: skip
    (tmp_path / "a.yml").write_text(json.dumps(config))
    assert look_at_data(read_setup(tmp_path / "a.yml"), silent).identical_pairs == 2
    config["data"]["column_mapping"] = {**columns, "text_column": "best"}  # type: ignore[index]
    (tmp_path / "a.yml").write_text(json.dumps(config))
    failure = look_at_data(read_setup(tmp_path / "a.yml"), silent).failure
    assert failure is not None and "AutoTrain reads chosen, as 'best'" in failure


@pytest.mark.parametrize(
    ("row", "more", "failure"),
    [
        ({"messages": TALK, "solution": "Here."}, "--reward_funcs accuracy format", None),
        ({"messages": TALK}, "--reward_funcs format", None),
        ({"messages": TALK}, "--reward_funcs accuracy", "handed the column solution"),
        ({"query": "Where?", "solution": "Here."}, "--reward_funcs accuracy", None),
        ({"text": "Where?"}, "--reward_funcs format", "takes messages or a query"),
    ],
)
def test_prompts_of_swift(
    row: dict[str, Any], more: str, failure: str | None, tiny_llama: Path, tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for _ in range(4)))
    (tmp_path / "train.sh").write_text(SWIFT.format(method="grpo", model=tiny_llama, more=more))
    data = look_at_data(read_setup(tmp_path / "train.sh"), silent)
    assert (data.failure is None) == (failure is None) and (failure is None or failure in str(data.failure))
    if failure is None:
        assert data.format == "prompts" and data.duplicate_rows == 3 and data.tokens_max is not None
        assert data.content_columns_unread == [], "a reward may read any column"


def oumi(folder: Path, model: Path, row: dict[str, Any], name: str, trainer: str, **train: Any) -> Setup:
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for _ in range(4)))
    data = {"train": {"datasets": [{"dataset_name": name, "dataset_path": "rows.jsonl"}], **train}}
    config = {
        "model": {"model_name": str(model), "model_max_length": 256}, "data": data,
        "training": {"trainer_type": trainer, "use_peft": True, "output_dir": "out"}, "peft": {"q_lora": True},
    }  # fmt: skip
    (folder / "oumi.yaml").write_text(json.dumps(config))
    return read_setup(folder / "oumi.yaml")


@pytest.mark.parametrize(
    ("trainer", "name", "row", "failure"),
    [
        ("TRL_DPO", "text_dpo_jsonl", {"prompt": "p", "chosen": "a", "rejected": "b"}, None),
        ("TRL_DPO", "text_dpo_jsonl", {"prompt": "p", "chosen": TALK, "rejected": "b"}, "its chosen is list"),
        ("TRL_DPO", "mlabonne/orpo-dpo-mix-40k", {"prompt": "p", "chosen": TALK, "rejected": TALK}, None),
        ("TRL_DPO", "mlabonne/orpo-dpo-mix-40k", {"question": "p", "chosen": TALK, "rejected": TALK}, "takes prompt"),
        ("TRL_DPO", "some/pairs", {"chosen": TALK, "rejected": TALK}, None),
        ("TRL_KTO", "trl-lib/kto-mix-14k", {"prompt": "p", "completion": TALK, "label": True}, None),
        ("TRL_KTO", "trl-lib/kto-mix-14k", {"prompt": "p", "completion": TALK[:1], "label": True}, "no turn of the"),
        ("TRL_GRPO", "trl-lib/tldr", {"prompt": "p", "completion": "c"}, None),
        ("TRL_GRPO", "trl-lib/tldr", {"prompt": TALK, "completion": "c"}, "its prompt is list"),
    ],
)
def test_rows_of_oumi(
    trainer: str, name: str, row: dict[str, Any], failure: str | None, tiny_llama: Path, tmp_path: Path
) -> None:
    """Held against oumi 0.9's own base classes of pairs, of judged answers and of prompts."""
    data = look_at_data(oumi(tmp_path, tiny_llama, row, name, trainer), silent)
    assert (data.failure is None) == (failure is None) and (failure is None or failure in str(data.failure))
    if failure is None:
        same = {"TRL_DPO": 0 if row["chosen"] == "a" else 4}.get(trainer) if "chosen" in row else None
        assert data.identical_pairs == same and data.duplicate_rows == 3


def test_oumi_code_of_its_own_is_told(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFollowedForm, match="openai/gsm8k"):
        look_at_data(oumi(tmp_path, tiny_llama, {"question": "q"}, "openai/gsm8k", "TRL_GRPO"), silent)


@pytest.mark.parametrize(
    ("marks", "trained"),
    [
        ({"response_template": "<|im_start|>assistant\n"}, "last"),
        ({"response_template": "<|im_start|>assistant\n", "end_of_turn_template": "<|im_end|>"}, "all"),
        ({}, None),
    ],
)
def test_marks_that_oumis_collator_is_given(
    marks: dict[str, str], trained: str | None, tiny_llama: Path, tmp_path: Path
) -> None:
    turns = [{"role": role, "content": f"{role} {n}"} for n in range(2) for role in ("user", "assistant")]
    masks = {"collator_name": "text_completions_only_with_padding", "collator_kwargs": marks}
    data = look_at_data(oumi(tmp_path, tiny_llama, {"messages": turns}, "text_sft", "TRL_SFT", **masks), silent)
    if trained is None:
        assert data.failure is not None and "response_template" in data.failure
        return
    assert data.failure is None and data.shown is not None
    text = [part.text for part in data.shown[0].segments if part.kind == "trained"]
    assert any("assistant 1" in each for each in text)
    assert any("assistant 0" in each for each in text) == (trained == "all")
