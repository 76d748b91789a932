"""A stored adapter against its training: tokenizer, template, stop tokens, base, by each thing that tells of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from qlora_doctor.run.session import CheckOptions
from qlora_doctor.run.stored import judge_stored
from tests.models import make_model, make_tokenizer
from tests.stored.planting import adapt, load_base, trained

CHATML = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
OTHER = "{% for m in messages %}### {{ m.role }}: {{ m.content }}\n{% endfor %}"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base that ends its texts with another token than the training does."""
    folder = make_model(tmp_path_factory.mktemp("training") / "base", "llama", dtype="float32")
    tokenizer = make_tokenizer()
    tokenizer.chat_template, tokenizer.eos_token = OTHER, "<|bos|>"
    tokenizer.save_pretrained(folder)
    number = tokenizer.convert_tokens_to_ids("<|bos|>")
    for name in ("config.json", "generation_config.json"):
        path = folder / name
        document = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps(document | {"eos_token_id": number}))
    return folder


@pytest.fixture(scope="module")
def run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of transformers' Trainer with ChatML: a checkpoint with its tokenizer, and the adapter beside it."""
    from transformers import Trainer, TrainingArguments

    out = tmp_path_factory.mktemp("run") / "out"
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHATML
    ids = list(range(10, 26))
    arguments = TrainingArguments(
        output_dir=str(out),
        max_steps=2,
        save_steps=2,
        report_to=[],
        use_cpu=True,
        learning_rate=1e-2,
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=adapt(load_base(base)), args=arguments, train_dataset=[{"input_ids": ids, "labels": ids}] * 16,
        processing_class=tokenizer,
    )  # fmt: skip
    trainer.train()
    trainer.model.save_pretrained(out / "adapter")
    tokenizer.save_pretrained(out / "adapter")
    return out


def rules(folder: Path, **options: Any) -> list[str]:
    return sorted(finding.rule for finding in judge_stored(folder, CheckOptions(), **options).findings)


def with_tokenizer(run: Path, place: Path, **changes: Any) -> Path:
    """A copy of the run whose adapter has another tokenizer beside it."""
    shutil.copytree(run, place)
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHATML
    for name, value in changes.items():
        setattr(tokenizer, name, value)
    (place / "adapter" / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer.save_pretrained(place / "adapter")
    return place / "adapter"


def test_the_trainings_own_tokenizer_is_right(run: Path) -> None:
    """It ends otherwise than the base, and the base's generation config does not know that."""
    report = judge_stored(run / "adapter", CheckOptions())
    assert report.facts.stored is not None
    assert report.facts.stored.training_source == "checkpoint-2 of the run"
    assert report.facts.stored.training_differences == []
    assert [finding.rule for finding in report.findings] == ["QD767"]


def test_stop_tokens_that_the_base_knows(run: Path, base: Path, tmp_path: Path) -> None:
    other = shutil.copytree(base, tmp_path / "base")
    path = other / "generation_config.json"
    stops = make_tokenizer().convert_tokens_to_ids(["<|bos|>", "<|im_end|>"])
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": stops}))
    assert rules(run / "adapter", base=other) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"chat_template": OTHER}, ["another chat template here"]),
        ({"chat_template": None}, ["no chat template here"]),
        ({"eos_token": "<|pad|>"}, ["eos_token is '<|pad|>' here and was '<|im_end|>' in the training"]),
        ({"pad_token": "<|bos|>"}, ["pad_token is '<|bos|>' here and was '<|pad|>' in the training"]),
        ({"pad_token": None}, []),
        ({"chat_template": CHATML + "\n"}, []),
    ],
)
def test_another_tokenizer_than_the_checkpoints(
    changes: dict[str, Any], told: list[str], run: Path, tmp_path: Path
) -> None:
    report = judge_stored(with_tokenizer(run, tmp_path / "run", **changes), CheckOptions())
    assert report.facts.stored is not None and report.facts.stored.training_differences == told
    assert ("QD766" in {finding.rule for finding in report.findings}) == bool(told)


def test_no_tokenizer_where_the_bases_is_another(run: Path, tmp_path: Path) -> None:
    place = shutil.copytree(run, tmp_path / "run")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (place / "adapter" / name).unlink(missing_ok=True)
    report = judge_stored(place / "adapter", CheckOptions())
    assert [f.rule for f in report.findings] == ["QD766", "QD767"]
    assert "another chat template in the base, and none is stored here" in report.findings[0].message


def test_the_checkpoint_of_another_run_tells_nothing(run: Path, tmp_path: Path) -> None:
    folder = with_tokenizer(run, tmp_path / "run", chat_template=OTHER)
    path = tmp_path / "run" / "checkpoint-2" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"r": 64}))
    assert "QD766" not in rules(folder)


def test_a_merged_model_against_its_adapter(run: Path, base: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    merged = PeftModel.from_pretrained(load_base(base), run / "adapter").merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(base / name, tmp_path / "merged" / name)
    assert rules(tmp_path / "merged", adapter=run / "adapter") == ["QD766", "QD767"]
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(run / "adapter" / name, tmp_path / "merged" / name)
    path = tmp_path / "merged" / "generation_config.json"
    stops = make_tokenizer().convert_tokens_to_ids(["<|im_end|>"])
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": stops}))
    assert rules(tmp_path / "merged", adapter=run / "adapter") == []


def test_by_the_report_of_the_run(base: Path, tmp_path: Path) -> None:
    """What a watched training had is held against what was stored afterwards."""
    import qlora_doctor
    from tests.watching.loops import adamw, batches

    model = adapt(load_base(base))
    optimizer = adamw(model, 2e-2)
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHATML
    report = tmp_path / "report.json"
    with qlora_doctor.watch(model, optimizer, f"json={report}", tokenizer=tokenizer, quiet=True):
        for batch in batches(3):
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    model.save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    told = judge_stored(tmp_path / "adapter", CheckOptions(), run_report=report).facts.stored
    assert told is not None and told.training_source == "the report of the run"
    assert (told.training_differences, told.stops_missing) == ([], [])
    (tmp_path / "adapter" / "chat_template.jinja").write_text(OTHER)
    assert rules(tmp_path / "adapter", run_report=report) == ["QD766"]


def config_of(place: Path, base: Path, **more: Any) -> Path:
    path = place / "config.json"
    path.write_text(json.dumps({"model": str(base), "quantization": {"load_in_4bit": True}, "lora": {"r": 8}, **more}))
    return path


def test_by_the_config(run: Path, base: Path, tmp_path: Path) -> None:
    folder = with_tokenizer(run, tmp_path / "run", chat_template=OTHER)
    shutil.rmtree(tmp_path / "run" / "checkpoint-2")
    assert "QD766" not in rules(folder)
    given = config_of(tmp_path, base, data={"chat_template": CHATML, "train": "rows.jsonl"})
    report = judge_stored(folder, CheckOptions(), config=given)
    assert "QD766" in [finding.rule for finding in report.findings]
    other = make_model(tmp_path / "other", "llama", dtype="float32", hidden_size=128)
    found = judge_stored(run / "adapter", CheckOptions(), config=config_of(tmp_path, other)).findings
    assert "QD768" in [finding.rule for finding in found]


def in_cache(base: Path, place: Path, commit: str) -> Path:
    """The base as huggingface_hub keeps it."""
    repository = place / "models--someone--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(base, repository / "snapshots" / commit)
    return repository / "snapshots" / commit


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("revision", "differs"), [(COMMIT, False), ("f" * 40, True), ("main", False), ("v1", None), (None, None)]
)
def test_the_revision_of_the_base(
    revision: str | None, differs: bool | None, run: Path, base: Path, tmp_path: Path
) -> None:
    snapshot = in_cache(base, tmp_path, COMMIT)
    folder = shutil.copytree(run, tmp_path / "run") / "adapter"
    path = folder / "adapter_config.json"
    named = {"base_model_name_or_path": "someone/tiny", "revision": revision}
    path.write_text(json.dumps(json.loads(path.read_text()) | named))
    found = judge_stored(folder, CheckOptions(), base=snapshot)
    assert found.facts.stored is not None and found.facts.stored.base_commit == COMMIT
    assert found.facts.stored.base_differences == (None if differs is None else found.facts.stored.base_differences)
    assert ("QD768" in [finding.rule for finding in found.findings]) == bool(differs)


def test_a_base_in_the_hubs_cache_is_found(
    run: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_cache(base, tmp_path, COMMIT)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    folder = shutil.copytree(run, tmp_path / "run") / "adapter"
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "someone/tiny"}))
    found = judge_stored(folder, CheckOptions()).facts.stored
    assert found is not None and found.base_commit == COMMIT and found.modules_not_in_base == []


def test_a_local_copy_of_the_hub_tells_its_commit(run: Path, base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(base, tmp_path / "base")
    record = folder / ".cache" / "huggingface" / "download" / "config.json.metadata"
    record.parent.mkdir(parents=True)
    record.write_text(f"{COMMIT}\nabc\n1700000000.0\n")
    found = judge_stored(run / "adapter", CheckOptions(), base=folder).facts.stored
    assert found is not None and found.base_commit == COMMIT


def test_eight_bit_floats_are_read_and_named(base: Path, tmp_path: Path) -> None:
    import torch

    from tests.stored.planting import store, tensors

    model = trained(adapt(load_base(base)))
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        folder = tmp_path / str(dtype)
        model.save_pretrained(folder)
        state = {name: tensor.to(dtype) for name, tensor in tensors(folder).items()}
        store(folder, state)
        found = judge_stored(folder, CheckOptions())
        stored = found.facts.stored
        assert stored is not None and [finding.rule for finding in found.findings] == ["QD765"]
        assert len(stored.eight_bit_tensors or []) == len(state) and stored.learned
        zero = sum(int((tensor.float() == 0).sum()) for tensor in state.values())
        assert stored.eight_bit_zero_ratio == pytest.approx(zero / sum(t.numel() for t in state.values()))
        for each in stored.learned:
            halves = [state[f"base_model.model.{each.module}.lora_{part}.weight"].double() for part in "BA"]
            assert each.norm == pytest.approx(float((halves[0] @ halves[1]).norm()) * each.scaling, rel=1e-4)


def test_every_eight_bit_float_is_the_number_that_torch_reads() -> None:
    import numpy as np
    import torch

    from qlora_doctor.probes.stored.arrays import eight_bit_values

    for name, dtype in (("F8_E4M3", torch.float8_e4m3fn), ("F8_E5M2", torch.float8_e5m2)):
        theirs = torch.arange(256, dtype=torch.uint8).view(dtype).float().numpy()
        assert np.array_equal(eight_bit_values(name), theirs, equal_nan=True)
