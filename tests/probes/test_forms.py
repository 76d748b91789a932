"""Samples of trainers that are not here, and of scripts: formed as they form them, told where they are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("datasets")

from qlora_doctor.pipeline.forms import NotFollowedForm, axolotl, follow, llamafactory, oumi, swift, torchtune
from qlora_doctor.pipeline.forms.files import read_files, slice_of
from qlora_doctor.pipeline.forms.kinds import CannotForm, FormedRow, FormedSet
from qlora_doctor.pipeline.forms.plain import NotPlain, Plain
from qlora_doctor.probes.data.look import DataSeen, see_data
from qlora_doctor.reading import read_setup
from qlora_doctor.setup.setup import NamedData, Setup
from tests.models import make_data
from tests.probes.conftest import silent

RECORDED = json.loads(Path(__file__).with_name("formed_by_trainers.json").read_text("utf-8"))


def tokenizer_of(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def trained_parts(tokenizer: Any, row: FormedRow) -> list[str]:
    """The texts of the runs of tokens whose label counts."""
    parts: list[str] = []
    start = 0
    while start < len(row.ids):
        end = start
        while end < len(row.ids) and (row.labels[end] == -100) == (row.labels[start] == -100):
            end += 1
        if row.labels[start] != -100:
            parts.append(tokenizer.decode(row.ids[start:end]))
        start = end
    return parts


@pytest.mark.parametrize("trainer", ["axolotl", "llamafactory", "ms-swift", "oumi"])
def test_forms_agree_with_the_trainers_own_code(trainer: str, tiny_llama: Path) -> None:
    """What the trainers made of these rows themselves, recorded as text (benchmarks/field/record_forms.py)."""
    module = {"axolotl": axolotl, "llamafactory": llamafactory, "ms-swift": swift, "oumi": oumi}[trainer]
    for case in RECORDED[trainer]:
        named = NamedData(settings={"sequence_len": 4096, **case["settings"]})
        tokenizer = tokenizer_of(tiny_llama)
        if module is not oumi:  # which changes nothing of the tokenizer
            module.prepare_tokenizer(tokenizer, module.settings_of(named))
        told = FormedSet("rows", None, columns=list(case["row"]))
        (row,) = module.form(named, [(0, case["row"])], told, tokenizer)
        if case.get("dropped"):
            assert row.dropped is not None, case
            continue
        assert told.tokens_unseen is None, case
        assert tokenizer.decode(row.ids) == case["text"], case["settings"]
        assert trained_parts(tokenizer, row) == case["trained"], case["settings"]


def setup_of(folder: Path, name: str, content: str | dict[str, Any]) -> Setup:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_setup(path)


def axolotl_setup(folder: Path, model: Path, rows: list[dict[str, Any]], **entry: Any) -> Setup:
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    top = {name: entry.pop(name) for name in ("sequence_len", "test_datasets", "chat_template") if name in entry}
    config = {
        "base_model": str(model), "adapter": "qlora", "load_in_4bit": True, "lora_r": 8, "lora_alpha": 16,
        "lora_target_linear": True, "micro_batch_size": 2, "learning_rate": 2e-4, "sequence_len": 128,
        "datasets": [{"path": "rows.jsonl", "type": "chat_template", **entry}], **top,
    }  # fmt: skip
    return setup_of(folder, "qlora.yml", config)


def chats(count: int = 6, role: str = "assistant") -> list[dict[str, Any]]:
    return [
        {"messages": [{"role": "user", "content": f"Where is {n}?"}, {"role": role, "content": f"It is at {n}."}]}
        for n in range(count)
    ]


def see(setup: Setup) -> DataSeen:
    return see_data(setup, silent)


def test_a_role_that_no_message_has_trains_nothing(tiny_llama: Path, tmp_path: Path) -> None:
    data = see(axolotl_setup(tmp_path, tiny_llama, chats(), roles_to_train=["bot"])).data
    assert data.sets_without_trained_role == ["rows.jsonl"] and data.roles_missing == ["bot"]
    assert data.labels_masked_ratio == 1.0 and data.rows_left_out == 6
    healthy = see(axolotl_setup(tmp_path, tiny_llama, chats(), roles_to_train=["assistant"])).data
    assert healthy.sets_without_trained_role == [] and healthy.rows_left_out == 0
    assert healthy.trained_ratio is not None and 0.2 < healthy.trained_ratio < 0.8
    mapped = axolotl_setup(tmp_path, tiny_llama, chats(role="bot"), roles={"assistant": ["bot"], "user": ["user"]})
    assert see(mapped).data.sets_without_trained_role == [] and see(mapped).data.roles_unknown == []


def test_roles_are_told_without_a_tokenizer(tmp_path: Path) -> None:
    setup = axolotl_setup(tmp_path, Path("Qwen/Qwen2.5-1.5B-Instruct"), chats(), roles_to_train=["bot"])
    seen = see(setup)
    assert seen.data.roles_missing == ["bot"] and seen.data.tokens_mean is None and seen.batch is None


def test_long_rows_are_left_out_or_cut(tiny_llama: Path, tmp_path: Path) -> None:
    rows = chats()
    rows[0]["messages"][1]["content"] = "layer " * 100
    data = see(axolotl_setup(tmp_path, tiny_llama, rows, sequence_len=100)).data
    assert data.left_out == {"longer than the limit": 1} and data.tokens_max is not None and data.tokens_max > 100
    assert data.shown is not None and any(row.dropped for row in data.shown)
    setup = setup_of(
        tmp_path, "cut.yml", (tmp_path / "qlora.yml").read_text()[:-1] + ', "excess_length_strategy": "truncate"}'
    )
    assert see(setup).data.rows_left_out == 0 and see(setup).data.truncated_ratio == pytest.approx(1 / 6)


def test_several_sets_and_what_is_not_here(tiny_llama: Path, tmp_path: Path) -> None:
    setup = axolotl_setup(tmp_path, tiny_llama, chats())
    text = json.loads((tmp_path / "qlora.yml").read_text())
    text["datasets"] += [
        {"path": "gone.jsonl", "type": "alpaca"},
        {"path": "rows.jsonl", "type": "chat_template", "split": "train[:50%]"},
    ]
    setup = setup_of(tmp_path, "three.yml", text)
    data = see(setup).data
    assert data.sets is not None and [each.rows for each in data.sets] == [6, None, 3]
    assert data.sets_not_followed == 1 and "gone.jsonl" in str(data.sets[1].not_followed) and data.rows is None
    assert data.duplicate_rows == 3, "the third set is a part of the first"


def test_none_of_the_sets_is_here(tiny_llama: Path, tmp_path: Path) -> None:
    setup = axolotl_setup(tmp_path, tiny_llama, chats())
    (tmp_path / "rows.jsonl").unlink()
    with pytest.raises(NotFollowedForm, match="not on this machine"):
        follow(setup, None, 8)


def test_evaluation_rows_that_are_trained_on(tiny_llama: Path, tmp_path: Path) -> None:
    rows = chats()
    (tmp_path / "eval.jsonl").write_text("\n".join(json.dumps({"id": n, **row}) for n, row in enumerate(rows[:2])))
    held_out = [{"path": "eval.jsonl", "type": "chat_template", "split": "train"}]
    data = see(axolotl_setup(tmp_path, tiny_llama, rows, test_datasets=held_out)).data
    assert (data.evaluation_rows, data.evaluation_rows_in_training) == (2, 2)
    (tmp_path / "eval.jsonl").write_text(json.dumps(chats(9)[8]))
    apart = see(axolotl_setup(tmp_path, tiny_llama, rows, test_datasets=held_out)).data
    assert (apart.evaluation_rows, apart.evaluation_rows_in_training) == (1, 0)


def llamafactory_setup(
    folder: Path, model: Path, rows: list[dict[str, Any]], entry: dict[str, Any], **top: Any
) -> Setup:
    (folder / "data").mkdir(exist_ok=True)
    (folder / "data" / "rows.json").write_text(json.dumps(rows))
    (folder / "data" / "dataset_info.json").write_text(json.dumps({"mine": {"file_name": "rows.json", **entry}}))
    config = {
        "model_name_or_path": str(model), "stage": "sft", "do_train": True, "finetuning_type": "lora",
        "lora_target": "all", "quantization_bit": 4, "dataset": "mine", "template": "qwen", "cutoff_len": 128,
        "learning_rate": 1e-4, **top,
    }  # fmt: skip
    return setup_of(folder, "train.yaml", config)


def test_llamafactory_alpaca_and_what_it_does_not_read(tiny_llama: Path, tmp_path: Path) -> None:
    rows = [{"instruction": f"Say {n}", "input": "", "output": f"{n}!", "system": "Be brief."} for n in range(4)]
    data = see(llamafactory_setup(tmp_path, tiny_llama, rows, {})).data
    assert data.failure is None and data.rows == 4 and data.content_columns_unread == ["system"]
    assert data.rendered_by is not None and "LLaMA-Factory's alpaca" in data.rendered_by
    columns = {"prompt": "instruction", "query": "input", "response": "output", "system": "system"}
    assert see(llamafactory_setup(tmp_path, tiny_llama, rows, {"columns": columns})).data.content_columns_unread == []
    wrong = see(llamafactory_setup(tmp_path, tiny_llama, rows, {"columns": {**columns, "response": "answer"}})).data
    assert wrong.failure is not None and "'answer'" in wrong.failure


def test_llamafactory_leaves_out_rows_with_other_tags(tiny_llama: Path, tmp_path: Path) -> None:
    rows = [{"conversations": [{"from": "user", "value": "a"}, {"from": "assistant", "value": "b"}]}] * 3
    data = see(llamafactory_setup(tmp_path, tiny_llama, rows, {"formatting": "sharegpt"})).data
    assert data.left_out == {"a role out of turn": 3} and data.roles_unknown == ["user", "assistant"]


def test_a_response_is_masked_alike_in_the_batch(tiny_llama: Path, tmp_path: Path) -> None:
    rows = [{"instruction": f"Say {n}", "input": "", "output": f"{n}!"} for n in range(4)]
    batch = see(llamafactory_setup(tmp_path, tiny_llama, rows, {})).batch
    assert batch is not None and batch.rows == 4 and batch.labels_shifted is False and batch.labels_on_padding == 0


def test_swift_trains_the_answers(tiny_llama: Path, tmp_path: Path) -> None:
    make_data(tmp_path / "rows.jsonl", "messages", rows=5)
    config = {
        "model": str(tiny_llama),
        "template": "chatml",
        "train_type": "lora",
        "quant_bits": 4,
        "quant_method": "bnb",
        "dataset": ["rows.jsonl#3"],
    }
    data = see(setup_of(tmp_path, "swift.yaml", config)).data
    assert data.failure is None and data.trained_ratio is not None and 0.3 < data.trained_ratio < 0.7
    assert data.eos_supervised_ratio == 1.0


def test_swift_says_what_it_does_not_render(tiny_llama: Path) -> None:
    """A template rendered by code of its own, a model that has no one template, images, an unknown loss scale."""
    talk = chats(1)[0]
    cases: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        ({"template": "qwen3_5"}, talk, "code of its own"),
        ({}, talk, "Which of ms-swift's templates"),
        ({"template": "qwen2_5"}, talk | {"images": ["a.png"]}, "images"),
        ({"template": "qwen2_5", "loss_scale": "mine"}, talk, "loss_scale mine"),
        ({"template": "qwen2_5", "agent_template": "glm4"}, talk | {"tools": '[{"name": "f"}]'}, "glm4"),
    ]
    for settings, row, why in cases:
        told = FormedSet("rows", None, columns=list(row))
        (formed,) = swift.form(NamedData(settings=settings), [(0, row)], told, tokenizer_of(tiny_llama))
        assert told.tokens_unseen is not None and why in told.tokens_unseen, settings
        assert not formed.ids and formed.teaches and formed.answer == "It is at 0."


def test_swift_splits_and_cuts_from_the_left(tiny_llama: Path) -> None:
    """Held against ms-swift 4.6's own code: the first label of what is left never counts."""
    row = {"query": "where is the house", "response": "the house is at the end of the road"}
    tokenizer = tokenizer_of(tiny_llama)

    def made(**settings: Any) -> list[FormedRow]:
        named = NamedData(settings={"template": "chatml", **settings})
        return swift.form(named, [(0, row)], FormedSet("rows", None, columns=list(row)), tokenizer)

    (whole,) = made()
    (left,) = made(max_length=8, truncation_strategy="left")
    assert left.ids == whole.ids[-8:] and left.labels[0] == -100 and left.length == len(whole.ids)
    pieces = made(max_length=8, truncation_strategy="split")
    assert [token for piece in pieces for token in piece.ids] == whole.ids and len(pieces) > 1
    assert all(piece.labels[0] == -100 for piece in pieces)


def test_the_template_of_a_model_that_names_none(tmp_path: Path) -> None:
    from qlora_doctor.tables.swift_templates import template_of

    assert template_of("Qwen/Qwen2.5-7B-Instruct", None) == "qwen2_5" and template_of("Qwen/Qwen3-8B", None) == "qwen3"
    assert template_of("meta-llama/Llama-3.2-1B-Instruct", None) == "llama3_2"
    assert template_of("/hub/models--google--gemma-3-1b-it/snapshots/ab/", None) == "gemma3_text"
    assert template_of("mine/of-nobody", None) is None and template_of("x", "gemma2") == "gemma"
    for architecture, template in (("OlmoeForCausalLM", None), ("MineForCausalLM", "dummy"), ("Phi3ForCausalLM", None)):
        (tmp_path / "config.json").write_text(json.dumps({"architectures": [architecture]}))
        assert template_of(str(tmp_path), None) == template, architecture


TURNS = {"h": "human", "g": "gpt", "s": "system", "u": "user"}


@pytest.mark.parametrize(
    ("turns", "stops"),
    [
        ("hghg", None),
        ("shg", None),
        ("hh", "messages 1 and 2 are both of the user"),
        ("h", "two messages at least"),
        ("gh", "message 1 is an answer to no question"),
        ("hsg", "message 2 is of the system"),
        ("ug", "there is no 'user' in it"),
    ],
)
def test_torchtune_stops_at_the_rows_at_which_it_stops(turns: str, stops: str | None) -> None:
    """Held against torchtune 0.6.1's own ShareGPTToMessages and validate_messages."""
    row = {"talk": [{"from": TURNS[each], "value": f"{n} {each}"} for n, each in enumerate(turns)]}
    settings = {"_component_": "torchtune.datasets.chat_dataset", "conversation_column": "talk",
                "conversation_style": "sharegpt"}  # fmt: skip
    told = FormedSet("rows", None, columns=["talk"])
    if stops is not None:
        with pytest.raises(CannotForm, match=stops):
            torchtune.form(NamedData(settings=settings), [(0, row)], told, None)
        return
    (formed,) = torchtune.form(NamedData(settings=settings), [(0, row)], told, None)
    assert formed.teaches and formed.answer and told.roles_trained == ["assistant"] and told.read == {"talk"}


def autotrain_setup(folder: Path, model: Path, rows: list[dict[str, Any]], **data: Any) -> Setup:
    (folder / "mine").mkdir(exist_ok=True)
    (folder / "mine" / "train.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    column = data.pop("column", "text")
    config = {
        "task": data.pop("task", "llm-sft"), "base_model": str(model), "project_name": "x",
        "data": {"path": "mine", "train_split": "train", "column_mapping": {"text_column": column}, **data},
        "params": {"peft": True, "quantization": "int4", "block_size": 64, "batch_size": 2, "lr": 2e-4},
    }  # fmt: skip
    return setup_of(folder, "autotrain.yml", config)


def test_autotrain_reads_one_column(tiny_llama: Path, tmp_path: Path) -> None:
    text = see(autotrain_setup(tmp_path, tiny_llama, [{"text": f"row {n}"} for n in range(6)])).data
    assert text.failure is None and text.trained_ratio == 1.0 and text.eos_supervised_ratio == 1.0
    through = see(autotrain_setup(tmp_path, tiny_llama, chats(), column="messages", chat_template="tokenizer")).data
    assert through.failure is None and through.rows == 6 and through.trained_ratio == 1.0
    plain = see(autotrain_setup(tmp_path, tiny_llama, chats(), column="messages", chat_template=None)).data
    assert plain.failure is not None and "chat_template is none" in plain.failure
    other = see(autotrain_setup(tmp_path, tiny_llama, chats())).data
    assert other.failure is not None and "reads the column 'text'; there are messages" in other.failure


# -- scripts

SCRIPT = """\
import torch
from datasets import load_dataset
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import (AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, DataCollatorForLanguageModeling,
                          DataCollatorForSeq2Seq, Trainer, TrainingArguments, default_data_collator)

base = "MODEL"
tok = AutoTokenizer.from_pretrained(base)
model = AutoModelForCausalLM.from_pretrained(base, quantization_config=BitsAndBytesConfig(load_in_4bit=True,
    bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16))
model = get_peft_model(prepare_model_for_kbit_training(model), LoraConfig(r=8, lora_alpha=16,
    target_modules="all-linear", task_type="CAUSAL_LM"))
LONGEST = 200

def encode(row):
    prompt = tok(f"### Question: {row['q']} ### Answer: ")["input_ids"]
    answer = tok(row["a"] + tok.eos_token, add_special_tokens=False)["input_ids"]
    ids = (prompt + answer)[:LONGEST]
    labels = ([-100] * len(prompt) + answer)[:LONGEST]
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels}

data = load_dataset("json", data_files="qa.jsonl", split="train").map(encode, remove_columns=["q", "a"])
trainer = Trainer(model=model, train_dataset=data, data_collator=COLLATOR,
                  args=TrainingArguments(output_dir="out", per_device_train_batch_size=2, learning_rate=2e-4))
trainer.train()
"""


def script_setup(folder: Path, model: Path | str, collator: str, **replaced: str) -> Setup:
    (folder / "qa.jsonl").write_text("\n".join(json.dumps({"q": f"number {n}", "a": f"It is {n}."}) for n in range(8)))
    text = SCRIPT.replace("MODEL", str(model)).replace("COLLATOR", collator)
    for old, new in replaced.items():
        places = {
            "labels": '"labels": labels}',
            "body": "ids = (prompt",
            "tokenizer": "AutoTokenizer.from_pretrained(base)",
        }
        text = text.replace(places[old], new)
    return setup_of(folder, "train.py", text)


def test_a_collator_that_makes_the_labels_anew(tiny_llama: Path, tmp_path: Path) -> None:
    seen = see(script_setup(tmp_path, tiny_llama, "DataCollatorForLanguageModeling(tok, mlm=False)"))
    assert seen.batch is not None and seen.batch.mask_discarded is True and seen.batch.trained_ratio == 1.0
    healthy = see(script_setup(tmp_path, tiny_llama, "DataCollatorForSeq2Seq(tok)"))
    assert healthy.batch is not None and healthy.batch.mask_discarded is False
    assert healthy.data.trained_ratio is not None and healthy.data.trained_ratio < 0.5


def test_the_same_without_the_models_tokenizer(tmp_path: Path) -> None:
    seen = see(script_setup(tmp_path, "meta-llama/Llama-3.1-8B", "DataCollatorForLanguageModeling(tok, mlm=False)"))
    assert seen.batch is not None and seen.batch.mask_discarded is True
    assert seen.batch.trained_tokens is None, "bytes are no tokens"
    assert seen.data.tokens_unseen, "and it is said that none was looked at"
    healthy = see(script_setup(tmp_path, "meta-llama/Llama-3.1-8B", "DataCollatorForSeq2Seq(tok)"))
    assert healthy.batch is not None and healthy.batch.mask_discarded is False


@pytest.mark.parametrize(
    ("pad", "collator", "masked"),
    [
        ("tok.pad_token = tok.eos_token", "DataCollatorForLanguageModeling(tok, mlm=False)", True),
        ("tok.pad_token = tok.unk_token", "DataCollatorForLanguageModeling(tok, mlm=False)", False),
        ("tok.pad_token = tok.eos_token", "DataCollatorForSeq2Seq(tok)", None),  # it takes rows with labels alone
    ],
)
def test_a_collator_that_masks_the_end_without_the_models_tokenizer(
    tmp_path: Path, pad: str, collator: str, masked: bool | None
) -> None:
    """The rows hold no end token, and the tokenizer that might add one is not here: the collator is asked."""
    setup = script_setup(
        tmp_path, "meta-llama/Llama-3.1-8B", collator,
        tokenizer=f"AutoTokenizer.from_pretrained(base)\n{pad}", body="answer = answer[:-1]\n    ids = (prompt",
    )  # fmt: skip
    seen = see(setup)
    assert seen.batch is not None and seen.batch.collator_masks_ends is masked


def test_labels_that_are_moved_already(tiny_llama: Path, tmp_path: Path) -> None:
    moved = script_setup(tmp_path, tiny_llama, "DataCollatorForSeq2Seq(tok)", labels='"labels": ids[1:] + [-100]}')
    seen = see(moved)
    assert seen.batch is not None and seen.batch.labels_shifted is True
    plain = see(script_setup(tmp_path, tiny_llama, "DataCollatorForSeq2Seq(tok)", labels='"labels": ids[:]}'))
    assert plain.batch is not None and plain.batch.labels_shifted is False


def test_code_that_is_not_plain_is_told_and_not_run(tiny_llama: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    setup = script_setup(
        tmp_path, tiny_llama, "DataCollatorForSeq2Seq(tok)", body=f"open({str(mark)!r}, 'w'); ids = (prompt"
    )
    with pytest.raises(NotFollowedForm, match="open"):
        see(setup)
    assert not mark.exists()


@pytest.mark.parametrize(
    "source",
    [
        "def f(row):\n    return row.__class__",
        "def f(row):\n    return '{0.__class__}'.format(row)",
        "def f(row):\n    return __import__('os')",
        "def f(row):\n    import os\n    return os",
        "def f(row):\n    return ''.join.__self__",
        "def f(row):\n    return 'x' * 10 ** 12",
        "def f(row):\n    return 'x' * 1000000000",
        "def f(row):\n    return list(range(10000000000))",
        "def f(row):\n    x = ['a']\n    for i in range(60):\n        x = x + x\n    return x",
        "def f(row):\n    return f(row)",
        "def f(row):\n    return 'a' .replace('a', 'b' * 4000000).replace('b', 'c' * 4000000)",
        "def f(row):\n    return eval('1')",
        "def f(row):\n    return '{:>999999999}'.format('x')",
    ],
)
def test_plain_functions_reach_nothing_and_end(source: str) -> None:
    with pytest.raises(NotPlain):
        Plain({"f": source}, {}, [], None).call("f", {"text": "x"})


def test_plain_functions_do_what_python_does() -> None:
    source = """
def f(rows):
    out = []
    for i, (a, b) in enumerate(zip(rows["a"], rows["b"])):
        if not a.strip():
            continue
        parts = [w.capitalize() for w in a.split() if len(w) > 1]
        text = f"{i}: {' '.join(parts)} -> {b or 'none'}"
        out.append(text if i % 2 == 0 else text.replace("->", "=>"))
    return {"text": out, "n": sum(len(t) for t in out), "best": max(out, key=lambda t: len(t)), **{"k": rows["b"][-1:]}}
"""
    rows = {"a": ["big dog", "", "a cat here"], "b": ["x", "y", ""]}
    scope: dict[str, Any] = {}
    exec(source, scope)
    assert Plain({"f": source}, {}, [], None).call("f", rows) == scope["f"](rows)


# -- files


def test_a_large_file_is_sampled_with_its_longest_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qlora_doctor.pipeline.forms.files.WHOLE", 1000)
    monkeypatch.setattr("qlora_doctor.pipeline.forms.files.WINDOW", 2000)
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"text": "x" * (10 if n else 300)}) for n in range(20_000)))
    first, second = read_files([path], 50), read_files([path], 50)
    assert first.total is None and len(first.rows) == 50 and first.rows == second.rows
    assert max(len(row["text"]) for _, row in first.rows) == 300


@pytest.mark.parametrize(
    ("split", "rows"),
    [
        ("train", (0, 10)),
        ("train[:80%]", (0, 8)),
        ("train[80%:]", (8, 10)),
        ("train[2:5]", (2, 5)),
        ("train[-3:]", (7, 10)),
    ],
)
def test_slices(split: str, rows: tuple[int, int]) -> None:
    assert slice_of(split, 10) == rows


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.parquet"])
def test_kinds_of_files(tmp_path: Path, name: str) -> None:
    from datasets import Dataset

    rows = Dataset.from_list([{"a": f"text {n}", "b": n} for n in range(30)])
    path = str(tmp_path / name)
    if name == "rows.json":
        Path(path).write_text(json.dumps(rows.to_list(), indent=1))
    else:
        {"jsonl": rows.to_json, "csv": rows.to_csv, "parquet": rows.to_parquet}[name.split(".")[1]](path)
    read = read_files([Path(path)], 10)
    assert read.total == 30 and len(read.rows) == 10 and read.columns == ["a", "b"]
    assert all(row["a"] == f"text {number}" for number, row in read.rows)


@pytest.mark.parametrize("offline", [True, False])
def test_data_of_the_hub_is_streamed_where_the_network_may_be_used(
    offline: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an endless set no more rows are taken than are looked at."""
    import datasets

    asked: dict[str, Any] = {}
    taken = 0

    def endless() -> Any:
        nonlocal taken
        while True:
            taken += 1
            yield chats(1)[0]

    def load(*names: Any, **options: Any) -> Any:
        asked.update(options)
        if not options["streaming"]:
            raise ConnectionError("not in the cache")
        return endless()

    monkeypatch.setattr(datasets, "load_dataset", load)
    config = {"base_model": "a/b", "adapter": "qlora", "load_in_4bit": True, "lora_r": 8, "micro_batch_size": 1,
              "datasets": [{"path": "someone/chats", "type": "chat_template"}]}  # fmt: skip
    setup = setup_of(tmp_path, "qlora.yml", config)
    if offline:
        with pytest.raises(NotFollowedForm, match="is not in the hub's cache"):
            follow(setup, None, 64, offline=True)
        return
    followed = follow(setup, None, 64, offline=False)
    assert followed is not None and len(followed.rows) == 64 == taken and asked["streaming"] is True
