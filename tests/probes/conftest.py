"""Setups of tiny models, and their base loaded on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qlora_doctor.setup.setup import Data, Lora, Model, Quantization, Setup, Training
from qlora_doctor.worker.events import Event, Progress
from qlora_doctor.worker.watch import Watch


def make_setup(folder: Path | str, *, lora: dict[str, Any] | None = None, **training: Any) -> Setup:
    """A healthy QLoRA setup of a model in a folder."""
    values = {"per_device_train_batch_size": 2, "max_length": 32, "bf16": True, "learning_rate": 1e-3}
    return Setup(
        model=Model(name_or_path=str(folder)),
        quantization=Quantization(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype="bfloat16",
        ),
        lora=Lora(**{"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **(lora or {})}),
        training=Training.model_validate(values | training),
        data=Data(),
    )


@pytest.fixture
def time_is_up(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """``time_is_up(text)``: the time of a job is over as soon as its child says this: no test waits for a clock."""

    def at(text: str) -> None:
        see = Watch.see

        def seeing(self: Watch, event: Event) -> None:
            see(self, event)
            if isinstance(event, Progress) and event.text == text:
                self._deadline = 0.0

        monkeypatch.setattr(Watch, "see", seeing)

    return at


def silent(*_: object) -> None:
    """Progress that nobody reads."""


@pytest.fixture
def llama_setup(tiny_llama: Path) -> Setup:
    """A healthy setup of a tiny Llama."""
    return make_setup(tiny_llama)


@pytest.fixture
def qlora(llama_setup: Setup) -> Callable[..., Any]:
    """``qlora(lora=…)``: a PeftModel on a freshly loaded 4-bit base, prepared."""

    def build(**changes: Any) -> Any:
        from qlora_doctor.pipeline import attach, build_base, prepare

        setup = make_setup(llama_setup.model.name_or_path or "", **changes)
        base = build_base(setup, "cpu")
        prepare(base, setup)
        return attach(base, setup)

    return build
