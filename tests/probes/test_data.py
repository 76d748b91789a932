"""Samples as the trainer and its collator hand them to the model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("datasets")

from qlora_doctor.facts import DataFacts
from qlora_doctor.probes.data.look import look_at_data, see_data
from qlora_doctor.setup.setup import Data, Setup
from tests.models import make_data, make_tokenizer
from tests.probes.conftest import make_setup, silent

TRAINERS = [None, "trl"]


def look(
    folder: Path, file: Path | str, trainer: str | None = None, data: dict[str, Any] | None = None, **training: Any
) -> DataFacts:
    if trainer == "trl":
        pytest.importorskip("trl")
    setup: Setup = make_setup(folder, trainer=trainer, **{"max_length": 200, **training})
    setup = setup.model_copy(update={"data": Data(train=str(file), **(data or {}))})
    return look_at_data(setup, silent)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("kind", ["text", "prompt-completion", "messages"])
def test_formats(tiny_llama: Path, tmp_path: Path, kind: str, trainer: str | None) -> None:
    facts = look(tiny_llama, make_data(tmp_path / "d.jsonl", kind, rows=20), trainer)
    assert facts.failure is None and facts.format == kind
    assert (facts.rows, facts.rows_seen) == (20, 20)
    assert (
        facts.columns
        == {"text": ["text"], "prompt-completion": ["prompt", "completion"], "messages": ["messages"]}[kind]
    )
    assert facts.truncated_ratio == 0 and facts.rows_fully_masked == 0
    assert facts.tokens_max is not None and facts.tokens_mean is not None and 5 < facts.tokens_mean <= facts.tokens_max
    assert facts.vocab_rows == 512 and facts.tokens_out_of_range == 0 and facts.double_bos_rows == 0
    assert facts.chat_template is True
    assert facts.labels_masked_ratio is not None
    if kind == "prompt-completion":
        assert facts.labels_masked_ratio > 0.3, "no loss on the prompt"


@pytest.mark.parametrize("trainer", TRAINERS)
def test_samples_that_are_cut(tiny_llama: Path, tmp_path: Path, trainer: str | None) -> None:
    rows = [{"text": "layer " * n} for n in (2, 2, 2, 150)]
    facts = look(tiny_llama, write(tmp_path / "d.jsonl", rows), trainer, max_length=64)
    assert facts.truncated_ratio == 0.25 and facts.tokens_max is not None and facts.tokens_max > 64


@pytest.mark.parametrize("trainer", TRAINERS)
def test_end_of_text_that_is_trained_on(tiny_llama: Path, tmp_path: Path, trainer: str | None) -> None:
    rows = [{"prompt": "Say: base", "completion": " base<|im_end|>"}] * 3 + [{"prompt": "Say: x", "completion": " x"}]
    facts = look(tiny_llama, write(tmp_path / "d.jsonl", rows), trainer)
    assert facts.eos_supervised_ratio == (0.75 if trainer is None else 1.0), "trl ends every completion itself"


def test_rows_without_a_loss(tiny_llama: Path, tmp_path: Path) -> None:
    """Prompts that fill the whole length leave nothing to learn."""
    rows = [{"prompt": "gradient " * 100, "completion": " step"}, {"prompt": "a", "completion": " b c d"}]
    facts = look(tiny_llama, write(tmp_path / "d.jsonl", rows), max_length=32)
    assert facts.rows_fully_masked == 1


def test_two_beginnings(tiny_llama: Path, tmp_path: Path) -> None:
    rows = [{"text": "<|bos|><|bos|>The rank."}, {"text": "<|bos|>The rank."}]
    assert look(tiny_llama, write(tmp_path / "d.jsonl", rows)).double_bos_rows == 1


def test_tokens_without_a_row(model_folder: Any, tmp_path: Path) -> None:
    """The tokenizer has more tokens than the embedding has rows."""
    facts = look(model_folder("llama", vocab_size=256), make_data(tmp_path / "d.jsonl", "text"))
    assert facts.vocab_rows == 256 and facts.tokens_out_of_range and facts.max_token_id and facts.max_token_id >= 256


def test_packing_is_looked_at_in_full_as_well(tiny_llama: Path, tmp_path: Path) -> None:
    facts = look(tiny_llama, make_data(tmp_path / "d.jsonl", "text", rows=20), "trl", packing=True, max_length=64)
    assert facts.failure is None and facts.tokens_max is not None and facts.tokens_max < 64
    assert facts.truncated_ratio == 0


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(None, "There is no file"), ("", ""), ("{not json", ""), ('{"other": "x"}', "has no column 'text'")],
)
@pytest.mark.parametrize("trainer", TRAINERS)
def test_data_that_cannot_be_used(
    tiny_llama: Path, tmp_path: Path, content: str | None, sentence: str, trainer: str | None
) -> None:
    file = tmp_path / "d.jsonl"
    if content is not None:
        file.write_text(content)
    facts = look(tiny_llama, file, trainer)
    assert facts.failure is not None and sentence in facts.failure and "\n" not in facts.failure
    assert facts.rows_seen is None


def test_messages_without_a_template(tiny_llama: Path, tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(tiny_llama, tmp_path / "model"))
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    facts = look(folder, make_data(tmp_path / "d.jsonl", "messages"))
    assert facts.failure is not None and "chat template" in facts.failure and facts.chat_template is False


def test_no_tokenizer(tiny_llama: Path, tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(tiny_llama, tmp_path / "model"))
    for file in folder.glob("*token*"):
        file.unlink()
    facts = look(folder, make_data(tmp_path / "d.jsonl", "text"))
    assert facts.failure is not None and "tokenizer" in facts.failure


def test_data_that_only_the_hub_has(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not reached is not unreadable; what the hub itself answers is."""
    import datasets

    from qlora_doctor.pipeline.forms import NotFollowedForm

    def answers(error: Exception) -> None:
        def load_dataset(*_: Any, **__: Any) -> None:
            raise error

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)

    monkeypatch.setattr("qlora_doctor.pipeline.samples._is_offline", lambda: False)
    answers(ConnectionError("Couldn't reach 'my/data' on the Hub"))
    with pytest.raises(NotFollowedForm, match="the hub was not reached"):
        look(tiny_llama, "my/data")
    answers(FileNotFoundError("Dataset 'my/data' doesn't exist on the Hub"))
    assert "doesn't exist" in (look(tiny_llama, "my/data").failure or "")


@pytest.mark.parametrize("trainer", TRAINERS)
def test_rows_of_tokens(tiny_llama: Path, tmp_path: Path, trainer: str | None) -> None:
    """Rows that are tokenized already keep their ids and their labels."""
    rows = [{"input_ids": [5, 6, 7, 8, 2][: 5 - n % 2], "labels": [-100, 6, 7, 8, 2][: 5 - n % 2]} for n in range(8)]
    facts = look(tiny_llama, write(tmp_path / "rows.jsonl", rows), trainer)
    assert facts.failure is None and facts.format == "tokens" and facts.tokens_max == 5 and facts.duplicate_rows == 6
    assert facts.trained_ratio is not None and 0.7 < facts.trained_ratio < 0.9


@pytest.mark.parametrize("ending", ["gz", "bz2", "xz"])
def test_compressed_files(tiny_llama: Path, tmp_path: Path, ending: str) -> None:
    import importlib

    module = importlib.import_module({"gz": "gzip", "xz": "lzma"}.get(ending, ending))
    file = make_data(tmp_path / "rows.jsonl", "messages", rows=8)
    packed = tmp_path / f"packed.jsonl.{ending}"
    packed.write_bytes(module.compress(file.read_bytes()))
    assert look(tiny_llama, packed, "trl") == look(tiny_llama, file, "trl").model_copy(update={"source": str(packed)})
    packed.write_bytes(b"no such file")
    failure = look(tiny_llama, packed, "trl").failure
    assert failure is not None and "cannot be read" in failure


def test_a_folder_with_splits(tiny_llama: Path, tmp_path: Path) -> None:
    """load_dataset tells the splits of a folder by the names of its files, else by those of the folders in it."""
    from qlora_doctor.core.errors import StageError
    from qlora_doctor.pipeline.forms.files import files_below

    def below(*names: str, split: str | None = "train") -> list[str]:
        folder = tmp_path / "-".join(names).replace("/", "_")
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write(folder / name, [{"text": "one two"}] * 4)
        return [file.relative_to(folder).as_posix() for file in files_below(folder, split)]

    assert below("train.jsonl", "test.jsonl") == ["train.jsonl"]
    assert below("my-train-00.jsonl", "dev.jsonl", split="validation") == ["dev.jsonl"]
    assert below("train/a.jsonl", "test/a.jsonl", split="test[:50%]") == ["test/a.jsonl"]
    assert below("a.jsonl", "training_set.txt", "b.gz") == ["training_set.txt"]
    assert below("trainer.jsonl", "latest.jsonl") == ["latest.jsonl", "trainer.jsonl"]
    assert below("test.jsonl", "x.jsonl", split=None) == ["test.jsonl", "x.jsonl"]
    with pytest.raises(StageError, match="no split train"):
        below("test.jsonl", "eval-1.jsonl")
    assert look(tiny_llama, tmp_path / "train.jsonl-test.jsonl").rows == 4


def test_completion_only_loss_over_rows_without_completions(tiny_llama: Path, tmp_path: Path) -> None:
    file = make_data(tmp_path / "rows.jsonl", "text", rows=8)
    whole = look(tiny_llama, file, "trl", completion_only_loss=True)
    assert whole.completion_mask_lost is True and whole.trained_ratio == 1.0
    pairs = make_data(tmp_path / "pairs.jsonl", "prompt-completion", rows=8)
    assert look(tiny_llama, pairs, "trl", completion_only_loss=True).completion_mask_lost is False
    assert look(tiny_llama, file, "trl").completion_mask_lost is None


@pytest.mark.parametrize(
    ("trainer", "rows", "pads", "told"),
    [(None, 2, False, False), (None, 2, True, True), (None, 1, False, None), ("trl", 2, False, None)],
)
def test_rows_that_nothing_can_pad(
    tiny_llama: Path, tmp_path: Path, trainer: str | None, rows: int, pads: bool, told: bool | None
) -> None:
    """transformers' collators stop without a padding token, and TRL takes the end token; one row may need none."""
    if trainer == "trl":
        pytest.importorskip("trl")
    folder = tmp_path / "model"
    shutil.copytree(tiny_llama, folder)
    if not pads:
        tokenizer = make_tokenizer()
        tokenizer.pad_token = None
        tokenizer.save_pretrained(folder)
    setup = make_setup(folder, trainer=trainer, per_device_train_batch_size=rows)
    data = Data(train=str(make_data(tmp_path / "d.jsonl", "text", rows=8)))
    seen = see_data(setup.model_copy(update={"data": data}), silent)
    assert seen.data.failure is None
    assert (seen.batch.padding_token if seen.batch is not None else None) is told
