"""A setup goes through the whole pipeline on the CPU and trains."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("bitsandbytes")

from qlora_doctor import pipeline  # noqa: E402
from qlora_doctor.core.errors import StageError  # noqa: E402
from qlora_doctor.pipeline import trainer as trainer_module  # noqa: E402
from qlora_doctor.setup.setup import Data, Lora, Model, Quantization, Setup, Training  # noqa: E402
from tests.models import HEALTHY, make_data  # noqa: E402


def setup_for(folder: Path, *, data: Data | None = None, **training: object) -> Setup:
    values = {"per_device_train_batch_size": 2, "max_length": 32, "bf16": True, "learning_rate": 1e-3}
    return Setup(
        model=Model(name_or_path=str(folder)),
        quantization=Quantization(
            bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype="bfloat16"
        ),
        lora=Lora(r=4, target_modules="all-linear", task_type="CAUSAL_LM"),
        training=Training.model_validate(values | training),
        data=data or Data(),
    )


def train(setup: Setup) -> tuple[pipeline.Base, pipeline.Batches, object, list[str]]:
    base = pipeline.build_base(setup, "cpu")
    pipeline.prepare(base, setup)
    model = pipeline.attach(base, setup)
    batches = pipeline.make_batches(setup, model, pipeline.load_tokenizer(setup, base.architecture))
    notes: list[str] = []
    trainer = pipeline.make_trainer(setup, model, batches, "cpu", notes=notes)
    pipeline.refuse_to_train_on_nothing(trainer, batches, setup)
    trainer.train()
    return base, batches, trainer, notes


def losses(trainer: object) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_setup_takes_two_steps(model_folder: Callable[..., Path], name: str) -> None:
    base, batches, trainer, notes = train(setup_for(model_folder(name)))
    assert len(losses(trainer)) == 2
    assert all(4 < loss < 8 for loss in losses(trainer)), "near ln(512) = 6.2 for random weights"
    assert base.model.is_loaded_in_4bit
    assert base.loading_info is not None and not base.loading_info["missing_keys"]
    assert batches.source == "synthetic" and batches.sequence == 32
    assert notes == []


@pytest.mark.parametrize("trainer_name", ["transformers", "trl"])
@pytest.mark.parametrize("kind", ["messages", "prompt-completion", "text"])
def test_own_data_in_each_format(tiny_llama: Path, tmp_path: Path, kind: str, trainer_name: str) -> None:
    if trainer_name == "trl":
        pytest.importorskip("trl")
    data = Data(train=str(make_data(tmp_path / "train.jsonl", kind)))
    _, batches, trainer, _ = train(setup_for(tiny_llama, data=data, trainer=trainer_name))
    assert batches.source == "file" and batches.samples is not None and batches.samples.format == kind
    assert type(trainer).__name__ == ("SFTTrainer" if trainer_name == "trl" else "Trainer")
    assert len(losses(trainer)) == 2


def test_a_trainer_that_keeps_no_sample_says_so(tiny_llama: Path, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    data = Data(train=str(make_data(tmp_path / "train.jsonl", "prompt-completion")))
    with pytest.raises(StageError, match=r"keeps none of the \d+ samples"):
        train(setup_for(tiny_llama, data=data, trainer="trl", max_length=2))


def test_trl_takes_synthetic_tokens(tiny_llama: Path) -> None:
    pytest.importorskip("trl")
    _, batches, trainer, _ = train(setup_for(tiny_llama, trainer="trl"))
    assert batches.source == "synthetic"
    assert len(losses(trainer)) == 2


def test_what_a_cpu_cannot_do_is_left_out_and_told(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_module, "_runs_on_cpu", lambda name, settings: name == "adamw_torch")
    setup = setup_for(tiny_llama, bf16=False, fp16=True, optim="paged_adamw_32bit", torch_compile=True)
    _, _, trainer, notes = train(setup)
    assert trainer.args.optim == "adamw_torch" and trainer.optimizer_stands_in  # type: ignore[attr-defined]
    assert [note.split(" ")[0] for note in notes] == ["training.torch_compile", "training.fp16", "training.optim"]


@pytest.mark.parametrize("optim", ["lion_8bit", "paged_ademamix_8bit"])
def test_the_setups_own_optimizer_steps_where_it_can(tiny_llama: Path, optim: str) -> None:
    _, _, trainer, notes = train(setup_for(tiny_llama, optim=optim))
    chosen = trainer.args.optim  # type: ignore[attr-defined]
    assert bool(notes) == (chosen != optim)
    assert trainer.optimizer_stands_in == (chosen == "adamw_torch")  # type: ignore[attr-defined]
    if trainer_module._runs_on_cpu("lion_8bit", {}) and trainer_module._runs_on_cpu("ademamix_8bit", {}):
        assert chosen == {"lion_8bit": "lion_8bit", "paged_ademamix_8bit": "ademamix_8bit"}[optim]


def test_trainer_saves_and_reports_nothing(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(p.name for p in tiny_llama.iterdir())
    _, _, trainer, _ = train(setup_for(tiny_llama, output_dir="out", save_strategy="steps", report_to="tensorboard"))
    assert list(tmp_path.iterdir()) == []
    assert sorted(p.name for p in tiny_llama.iterdir()) == before
    assert list(Path(trainer.args.output_dir).iterdir()) == []  # type: ignore[attr-defined]


def test_steps_run_at_the_rate_that_the_setup_names(tiny_llama: Path) -> None:
    _, _, trainer, _ = train(setup_for(tiny_llama, learning_rate=3e-4, warmup_steps=100, lr_scheduler_type="cosine"))
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "loss" in entry]  # type: ignore[attr-defined]
    assert rates == [3e-4, 3e-4]


def test_arguments_under_extra_reach_the_trainer(tiny_llama: Path) -> None:
    setup = setup_for(tiny_llama, extra={"adam_beta2": 0.9, "no_such_argument": 1})
    _, _, trainer, notes = train(setup)
    assert trainer.args.adam_beta2 == 0.9  # type: ignore[attr-defined]
    assert len(notes) == 1 and "no_such_argument" in notes[0]
