"""Silence is resolved in one table: a default that is changed there is followed by everybody behind the readers."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest

from qlora_doctor.facts.environment import EnvironmentFacts, Packages
from qlora_doctor.memory.subject import _step_options
from qlora_doctor.pipeline.base import wants_4bit
from qlora_doctor.pipeline.batches import rows_of_a_step, sequence_length
from qlora_doctor.probes.config.conclude import conclude
from qlora_doctor.reading.native import setup_from_mapping
from qlora_doctor.setup import resolved
from qlora_doctor.setup.defaults import Libraries
from qlora_doctor.setup.resolved import DEFAULTS, Resolved, Taken
from qlora_doctor.setup.setup import Origin, Setup, Training
from qlora_doctor.writing.convert import convert

C, P, M, W = "conclude", "pipeline", "memory", "convert"
FOLLOW: dict[str, tuple[Any, set[str]]] = {
    "model.trust_remote_code": (True, {C}),
    "model.dtype": ("float16", {C, W}),
    "model.use_cache": (True, {C}),
    "quantization.backend": ("hqq", {C, P, W}),
    "quantization.load_in_4bit": (False, {C, P, W}),
    "quantization.load_in_8bit": (True, {C, P, W}),
    "quantization.bnb_4bit_quant_type": ("nf4", {C, W}),
    "quantization.bnb_4bit_compute_dtype": ("float16", {C, W}),
    "quantization.bnb_4bit_use_double_quant": (True, {C, W}),
    "quantization.bnb_4bit_quant_storage": ("float16", {C, W}),
    "lora.r": (9, {C, W}),
    "lora.lora_alpha": (9.0, {C, W}),
    "lora.lora_dropout": (0.5, {C, W}),
    "lora.bias": ("all", {C}),
    "lora.use_rslora": (True, {C}),
    "lora.use_dora": (True, {C}),
    "lora.init_lora_weights": (False, {C}),
    "training.trainer": ("trl", {C, P, M, W}),
    "training.method": ("dpo", {C}),
    "training.prepare_for_kbit_training": (False, {C, W}),
    "training.learning_rate": (0.5, {C, W}),
    "training.optim": ("adafactor", {C, M, W}),
    "training.bf16": (True, {C, M, W}),
    "training.fp16": (True, {C, M, W}),
    "training.gradient_checkpointing": (False, {C, W}),
    "training.max_length": (77, {C, P, M, W}),
    "training.eval_strategy": ("steps", {C}),
    "training.per_device_train_batch_size": (9, {C, P, M, W}),
    "training.per_device_eval_batch_size": (9, {C, W}),
    "training.gradient_accumulation_steps": (2, {C, P, M, W}),
    "training.weight_decay": (0.5, {W}),
    "training.max_grad_norm": (2.0, {C, M, W}),
    "training.num_train_epochs": (4.0, {C, W}),
    "training.lr_scheduler_type": ("cosine", {W}),
    "training.packing": (True, {C, M, W}),
    "training.padding_free": (True, {C}),
    "training.use_liger_kernel": (True, {C}),
    "hardware.count": (2, {C, M}),
}
"""Path → another default, and who sees it: everybody to whom it makes a difference."""
SEEN_BY_NOBODY = {"training.group_by_length", "training.seed"}
"""Defaults that are shown, and that nothing here depends on."""


def silent() -> Setup:
    return setup_from_mapping({"model": "my/model"})


def views() -> dict[str, Any]:
    """What each consumer makes of a config that says nothing."""
    setup = silent()
    model = SimpleNamespace(config=SimpleNamespace())
    return {
        C: conclude(setup, None).model_dump(),
        P: (rows_of_a_step(setup), sequence_length(setup), wants_4bit(setup), Taken(setup).trainer),
        M: repr(_step_options(setup, model)),
        W: [convert(setup, to).text for to in ("axolotl", "llamafactory", "trl")],
    }


@cache
def healthy_views() -> dict[str, Any]:
    return views()


def test_every_default_is_in_the_list() -> None:
    assert FOLLOW.keys() | SEEN_BY_NOBODY == DEFAULTS.keys()


@pytest.mark.parametrize("path", FOLLOW)
def test_a_default_is_changed_in_one_place(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = healthy_views()
    other, followers = FOLLOW[path]
    monkeypatch.setitem(DEFAULTS, path, other)
    after = views()
    assert {name for name in after if after[name] != before[name]} == followers


def test_what_depends_on_a_version_is_decided_by_the_installed_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """SFTConfig's own bf16 and checkpointing came with trl 0.19 and 0.22; memory takes what conclude tells."""
    setup = setup_from_mapping({"model": "my/model", "training": {"trainer": "trl"}})
    model = SimpleNamespace(config=SimpleNamespace())
    for version, precision, checkpoints in (
        ("0.18.0", "no", False),
        ("0.20.0", "bf16", False),
        ("1.16.0", "bf16", True),
    ):
        packages = Packages(torch="2.13.0", transformers="5.23.0", trl=version, peft="0.21.2")
        environment = EnvironmentFacts(tool_version="0", python="3.11", platform="Linux", packages=packages)
        monkeypatch.setattr(resolved.Libraries, "installed", lambda packages=packages: Libraries.of(packages))
        step, _ = _step_options(setup, model)
        told = conclude(setup, environment)
        assert (step.precision, step.checkpointing) == (precision, checkpoints)
        assert told.bf16 is (precision == "bf16")


def test_what_is_taken_here_is_known() -> None:
    """A value that cannot be known is None to who tells it, and the default to who has to go on."""
    path = "training.per_device_train_batch_size"
    setup = Setup(dialect="python", training=Training(), origins={path: Origin(source="unknown")})
    assert Resolved(setup)[path] is None
    assert Taken(setup)[path] == 8
    assert Libraries.installed().torch is not None
