"""What rows are asked before anything is tokenized: calls of tools, order of roles, pairs, classes, near duplicates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("datasets")

import torch
from transformers import BertConfig, LlamaConfig

from qlora_doctor.pipeline.forms import FormedRow
from qlora_doctor.probes.batch import look_at_batches
from qlora_doctor.probes.data.look import look_at_data
from qlora_doctor.probes.data.overlap import near_duplicates, overlap_facts
from qlora_doctor.probes.data.pairs import pair_facts
from qlora_doctor.probes.data.rows import of_labels, split_batch
from qlora_doctor.probes.data.talk import out_of_order, talk_facts
from qlora_doctor.probes.data.turn_end import turn_end_facts
from qlora_doctor.reading import read_setup
from tests.probes.conftest import silent

TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]


def talk(*messages: dict[str, Any], tools: Any = None) -> FormedRow:
    return FormedRow(0, None, messages=list(messages), tools=tools)


def call(arguments: Any, name: str = "weather") -> dict[str, Any]:
    return {
        "role": "assistant",
        "tool_calls": [{"type": "function", "function": {"name": name, "arguments": arguments}}],
    }


@pytest.mark.parametrize(
    "message",
    [
        call("{'city': 'Rome'}"),
        call("[1, 2]"),
        {"role": "function_call", "content": '{"name": "weather", "arguments": {"city": "Rome",}}'},
        {"role": "assistant", "content": "<tool_call>\n{'name': 'weather'}\n</tool_call>"},
        {"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]},
    ],
)
def test_a_call_that_is_no_json(message: dict[str, Any]) -> None:
    facts = talk_facts([talk({"role": "user", "content": "Rome?"}, message)])
    assert (facts["tool_calls"], facts["tool_calls_broken"]) == (1, 1)


@pytest.mark.parametrize(
    "message",
    [
        call('{"city": "Rome"}'),
        call({"city": "Rome"}),
        call(""),
        {"role": "function_call", "content": '<think>so</think>\n{"name": "weather", "arguments": {}}'},
        {"role": "assistant", "content": 'Let me see. <tool_call>{"name": "weather", "arguments": {}}</tool_call>'},
        {"role": "assistant", "content": "<tool_call>\n<function=weather>\n</function>\n</tool_call>"},
    ],
)
def test_calls_that_are_in_order(message: dict[str, Any]) -> None:
    facts = talk_facts([talk({"role": "user", "content": "Rome?"}, message, tools=json.dumps(TOOLS))])
    assert (facts["tool_calls_broken"], facts["tool_calls_undefined"]) == (0, 0)


def test_a_call_of_a_tool_that_the_row_does_not_define() -> None:
    rows = [talk({"role": "user", "content": "Rome?"}, call({}, "wether"), tools=tools) for tools in (TOOLS, None)]
    facts = talk_facts(rows)
    assert (facts["tool_calls_undefined"], facts["tool_undefined"]) == (1, "wether")


@pytest.mark.parametrize(
    ("roles", "wrong"),
    [
        ("system user assistant", None),
        ("assistant user assistant", None),
        ("user assistant tool assistant", None),
        ("human function_call observation observation gpt", None),
        ("user user assistant", "two messages of user one after another"),
        ("user assistant assistant", "two messages of assistant one after another"),
        ("user system assistant", "a system message at place 2"),
        ("system user", "a question at its end without an answer"),
    ],
)
def test_the_order_of_roles(roles: str, wrong: str | None) -> None:
    assert out_of_order(roles.split()) == wrong


def test_pairs() -> None:
    def said(question: str, answer: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]

    good = [{"chosen": said("q", "a"), "rejected": said("q", "bb")}]
    assert pair_facts(good) == {
        "identical_pairs": 0,
        "longer_chosen_ratio": 0.0,
        "pairs_of_two_prompts": 0,
        "prompts_repeated": 0,
    }
    assert pair_facts([{"chosen": said("q", "a"), "rejected": said("other", "b")}])["pairs_of_two_prompts"] == 1
    assert pair_facts([{"prompt": "q", "chosen": "a", "rejected": "a"}])["identical_pairs"] == 1
    written = "\n\nHuman: {}\n\nAssistant: {}"
    asked = [{"chosen": written.format("q", "a"), "rejected": written.format(other, "b")} for other in ("q", "other")]
    assert pair_facts(asked)["pairs_of_two_prompts"] == 1
    assert pair_facts([{"chosen_ids": [1, 2], "rejected_ids": [3]}])["longer_chosen_ratio"] == 1.0
    assert pair_facts([{"prompt": "q", "completion": "a", "label": True}]) == {"desirable_ratio": 1.0}


def test_classes() -> None:
    ids = torch.tensor([[1, number] for number in range(6)] + [[1, 0]])
    config = LlamaConfig(num_labels=2, pad_token_id=None)
    facts = look_at_batches([{"input_ids": ids, "labels": torch.tensor([*(n % 3 for n in range(6)), 1])}], None, config)
    assert facts.class_labels_out_of_range == 2 and facts.classes_seen == 3
    assert facts.conflicting_class_rows == 2 and facts.classifier_pad == "none"
    scores = look_at_batches([{"input_ids": ids[:1], "labels": torch.tensor([0.5])}], None, config)
    assert scores.classes is None, "a regression has no classes"


@pytest.mark.parametrize(("pad", "left", "told"), [(2, False, "differs"), (2, True, "same"), (0, False, "same")])
def test_padding_that_a_classifier_takes_for_the_text(pad: int, left: bool, told: str) -> None:
    """transformers reads the class from the last token that is not the config's padding token."""
    ids = torch.tensor([[5, 6, 7, 8], [0, 0, 5, 6] if left else [5, 6, 0, 0]])
    batch = {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": torch.tensor([0, 1])}
    assert look_at_batches([batch], None, LlamaConfig(pad_token_id=pad)).classifier_pad == told
    assert look_at_batches([batch], None, BertConfig(pad_token_id=pad)).classifier_pad is None


@pytest.mark.parametrize("left", [False, True])
def test_padding_is_taken_off_ids_and_labels_alike(left: bool) -> None:
    pad, text = [0, 0], [5, 6, 7]
    batch = {
        "input_ids": torch.tensor([pad + text if left else text + pad]),
        "attention_mask": torch.tensor([[0, 0, 1, 1, 1] if left else [1, 1, 1, 0, 0]]),
        "labels": torch.tensor([[-100, -100, -100, 6, 7] if left else [-100, 6, 7, -100, -100]]),
    }
    [row] = split_batch(batch)
    assert row.ids.tolist() == text and row.labels.tolist() == [-100, 6, 7]
    assert (row.positions, row.masked) == (5, 3)
    facts = of_labels([row], 7, 0)
    assert facts["labels_masked_ratio"] == 0.6 and facts["max_token_id"] == 7 and facts["tokens_out_of_range"] == 1


def test_rows_that_are_almost_the_same() -> None:
    def text(number: int, end: str = "") -> str:
        return f"the miller number {number} lived near the old river and fed his cat each morning before he went {end}"

    trained = [text(number) for number in range(50)]
    assert (
        near_duplicates(trained, [text(3, "home"), "a text of which nothing at all stands anywhere in the others"]) == 1
    )
    assert near_duplicates(trained, ["short"]) == 0
    assert overlap_facts(trained, [trained[0], text(1, "out")]) == {
        "evaluation_rows": 2, "evaluation_rows_in_training": 1, "evaluation_near_duplicates": 1,
    }  # fmt: skip


def test_a_template_that_ends_where_generation_does_not(tiny_llama: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    assert turn_end_facts(tokenizer, tiny_llama)["turn_end_stops"] is True
    end = tokenizer.eos_token_id
    tokenizer.eos_token = "<|bos|>"
    facts = turn_end_facts(tokenizer, tmp_path)
    assert facts == {"turn_end": "<|im_end|>", "turn_end_stops": False, "stops_at": "<|bos|>"}
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, end]}))
    assert turn_end_facts(tokenizer, tmp_path)["turn_end_stops"] is True


def setup_of(folder: Path, model: Path, rows: int, long_at: int | None = None) -> Any:
    lines = [
        json.dumps({"text": f"the row {number} " + ("long " * 300 if number == long_at else "")})
        for number in range(rows)
    ]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    config = {
        "model": str(model), "training": {"trainer": "trl", "max_length": 64}, "data": {"train": "rows.jsonl"},
    }  # fmt: skip
    (folder / "native.json").write_text(json.dumps(config))
    return read_setup(folder / "native.json")


def test_the_longest_row_of_a_file_is_looked_at_wherever_it_stands(tiny_llama: Path, tmp_path: Path) -> None:
    facts = look_at_data(setup_of(tmp_path, tiny_llama, 3000, long_at=2900), silent)
    assert facts.failure is None and facts.rows_seen == 256
    assert facts.tokens_max is not None and facts.tokens_max > 300
    assert 0 < (facts.truncated_ratio or 0) < 0.05


def test_numbers_of_a_table_stay_numbers_in_the_sample(tiny_llama: Path, tmp_path: Path) -> None:
    from qlora_doctor.pipeline.samples import sample_rows

    lines = [
        "text,label",
        *(f"row {number} {'long ' * 200 if number == 700 else ''},{number % 3}" for number in range(800)),
    ]
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    config = {"model": str(tiny_llama), "data": {"train": "rows.csv"}}
    (tmp_path / "native.json").write_text(json.dumps(config))
    rows = sample_rows(read_setup(tmp_path / "native.json"), 256).rows
    assert len(rows) == 256 and all(isinstance(row["label"], int) for row in rows)
    assert max(len(row["text"]) for row in rows) > 900


def test_a_set_in_the_hubs_cache_is_looked_at_without_the_network(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache as load_dataset leaves it: a folder of Arrow files below the name of the set."""
    import datasets
    from datasets import Dataset, DatasetInfo
    from datasets.splits import SplitDict, SplitInfo

    folder = tmp_path / "cache" / "some___talks" / "default" / "0.0.0" / "abc"
    folder.mkdir(parents=True)
    data = Dataset.from_list([{"text": f"the row {number}"} for number in range(400)])
    from datasets.arrow_writer import ArrowWriter

    with ArrowWriter(path=str(folder / "talks-train.arrow"), features=data.features) as writer:
        for row in data:
            writer.write(row)
        examples, size = writer.finalize()
    split = SplitInfo("train", num_bytes=size, num_examples=examples, dataset_name="talks")
    info = DatasetInfo(
        features=data.features, builder_name="parquet", dataset_name="talks", config_name="default", version="0.0.0",
        splits=SplitDict({"train": split}, dataset_name="talks"),
    )  # fmt: skip
    info.write_to_directory(str(folder))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    config = {"model": str(tiny_llama), "training": {"trainer": "trl"}, "data": {"train": "some/talks"}}
    (tmp_path / "native.json").write_text(json.dumps(config))
    facts = look_at_data(read_setup(tmp_path / "native.json"), silent)
    assert facts.failure is None and facts.rows_seen == 256


def test_prose_that_speaks_of_the_marks_is_no_call() -> None:
    from qlora_doctor.probes.data.talk import _calls

    prose = "Calls stand between <tool_call> and </tool_call>."
    broken = '<tool_call>{"name": "weather", </tool_call>'
    assert not list(_calls([{"role": "assistant", "content": prose}]))
    assert [name for _, name in _calls([{"role": "assistant", "content": broken}])] == [None]


_ASKED = [{"role": "user", "content": "q"}]


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected", "repeated"),
    [
        ("Say it: yes", "Say it: yes Yes.", "Say it: yes No.", 1),
        ("Say it: yes", "Yes.", "Say it: yes No.", 0),
        (_ASKED, [*_ASKED, {"role": "assistant", "content": "a"}], [*_ASKED, {"role": "assistant", "content": "b"}], 1),
        (
            "q",
            [*_ASKED, {"role": "assistant", "content": "a"}],
            [*_ASKED, {"role": "assistant", "content": "b"}],
            0,
        ),  # TRL takes it out of these
    ],
)
def test_answers_that_begin_with_their_prompt(prompt: Any, chosen: Any, rejected: Any, repeated: int) -> None:
    found = pair_facts([{"prompt": prompt, "chosen": chosen, "rejected": rejected}])
    assert found["prompts_repeated"] == repeated
