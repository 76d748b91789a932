"""Two steps of the user's trainer: silent on healthy setups, exact on planted faults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("bitsandbytes")

from qlora_doctor.facts import StepFacts  # noqa: E402
from qlora_doctor.probes.load.look import look_at_load  # noqa: E402
from qlora_doctor.probes.step import look as module  # noqa: E402
from qlora_doctor.probes.step.look import StepSeen, look_at_step  # noqa: E402
from qlora_doctor.setup.setup import Setup  # noqa: E402
from tests.models import HEALTHY  # noqa: E402
from tests.probes.conftest import make_setup, silent  # noqa: E402


def look(setup: Setup, change: Callable[[Any], None] | None = None, **options: Any) -> StepSeen:
    """Load and step; ``change`` is given the loaded base before the adapter is attached."""
    loaded = look_at_load(setup, "cpu", silent)
    assert loaded.error is None and loaded.base is not None
    if change is not None:
        change(loaded.base)
    return look_at_step(setup, loaded.base, loaded.timeline, silent, **options)


def assert_healthy(facts: StepFacts) -> None:
    assert facts.failure is not None and facts.failure.kind == "none"
    assert facts.steps == 2 and facts.seconds is not None and len(facts.seconds) == 2
    assert facts.changed_base_tensors == [] and facts.skipped_steps == 0
    assert facts.parameters_without_gradient == [] and facts.parameters_zero_gradient == []
    assert facts.parameters_nonfinite_gradient == [] and facts.parameters_not_updated == []
    assert facts.loss_finite and facts.loss_moved and facts.logits_finite
    assert facts.adapter_identity and facts.adapter_identity_difference == 0.0 and facts.adapter_effective
    assert facts.inputs_require_grad and not facts.use_cache
    assert facts.tokens_out_of_range == 0
    optimizer = facts.optimizer
    assert optimizer is not None and optimizer.parameters == facts.trainable_tensors
    assert (optimizer.frozen_parameters, optimizer.missing_parameters, optimizer.stale_parameters) == ([], [], 0)
    assert optimizer.state_bytes and optimizer.learning_rates == [1e-3]


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_architectures(model_folder: Callable[..., Path], name: str) -> None:
    facts = look(make_setup(model_folder(name))).facts
    assert_healthy(facts)
    assert facts.trainer == "transformers" and facts.data == "synthetic"
    assert (facts.batch, facts.sequence, facts.trained_tokens) == (2, 32, 2 * 2 * 31)
    assert facts.autocast_dtype == "bfloat16" and facts.forward_dtypes
    assert facts.gradients and all(len(c.layers) == 2 and None not in c.norms for c in facts.gradients)
    # bitsandbytes casts a layer's float32 bias to bfloat16 in its first forward.
    with_bias = name in ("gpt2", "gpt_neox", "opt")
    assert facts.cast_base_tensors is not None and bool(facts.cast_base_tensors) == with_bias
    assert all(c.name.endswith("bias") and c.after == "bfloat16" for c in facts.cast_base_tensors)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_healthy_under_trl(model_folder: Callable[..., Path], name: str) -> None:
    pytest.importorskip("trl")
    facts = look(make_setup(model_folder(name), trainer="trl")).facts
    assert_healthy(facts)
    assert facts.trainer == "trl" and facts.trainable_dtypes == ["bfloat16"]
    assert facts.lost_update_ratio is not None and facts.lost_update_ratio > 0, "bfloat16 rounds small updates away"


@pytest.mark.parametrize(
    "changes",
    [
        {"gradient_accumulation_steps": 2},
        {"gradient_checkpointing": False},
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
        {"bf16": False},
        {"prepare_for_kbit_training": False, "gradient_checkpointing": False},
        {"max_grad_norm": 0.0},
        {"warmup_steps": 100, "lr_scheduler_type": "cosine"},
        {"lora": {"lora_dropout": 0.1}},
        {"lora": {"use_rslora": True, "r": 64}},
        {"lora": {"modules_to_save": ["lm_head"]}},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_healthy_variants(tiny_llama: Path, changes: dict[str, Any]) -> None:
    seen = look(make_setup(tiny_llama, **changes))
    facts = seen.facts
    if changes.get("gradient_checkpointing") is False:
        assert facts.inputs_require_grad is False, "without checkpointing nobody asks for it, and nobody needs it"
        facts = facts.model_copy(update={"inputs_require_grad": True})
    assert_healthy(facts)


def test_nothing_is_said_of_updates_by_another_optimizer(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qlora_doctor.pipeline.trainer._runs_on_cpu", lambda name, settings: False)
    facts = look(make_setup(tiny_llama, optim="lion_8bit")).facts
    assert facts.optimizer is not None and facts.optimizer.name is None and facts.optimizer.missing_parameters == []
    assert facts.lost_update_ratio is facts.parameters_not_updated is facts.parameters_out_of_reach is None


def test_dora_starts_as_identity_but_for_rounding(tiny_llama: Path) -> None:
    facts = look(make_setup(tiny_llama, lora={"use_dora": True})).facts
    assert facts.adapter_identity and facts.adapter_effective and facts.changed_base_tensors == []


def test_an_adapter_that_does_not_start_at_zero_need_not_be_identity(tiny_llama: Path) -> None:
    facts = look(make_setup(tiny_llama, lora={"init_lora_weights": False})).facts
    assert facts.adapter_identity is None and facts.adapter_identity_difference


def test_biases_that_are_asked_for_may_move(model_folder: Callable[..., Path]) -> None:
    facts = look(make_setup(model_folder("opt"), lora={"bias": "all"})).facts
    assert facts.changed_base_tensors == [] and facts.optimizer is not None


def test_base_that_moves(tiny_llama: Path) -> None:
    """A hook writes into a frozen norm in every forward."""
    name = "model.layers.1.post_attention_layernorm.weight"

    def plant(base: Any) -> None:
        norm = base.model.get_submodule(name.removesuffix(".weight"))
        norm.register_forward_pre_hook(lambda m, _: (m.weight.data.mul_(1.01), None)[1])

    facts = look(make_setup(tiny_llama, gradient_checkpointing=False), plant).facts
    assert facts.changed_base_tensors == [name]


def test_a_moved_byte_of_packed_weights(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def plant(base: Any) -> None:
        layer = base.model.get_submodule("model.layers.0.mlp.down_proj")
        layer.register_forward_pre_hook(lambda m, _: (m.weight.data[5].bitwise_xor_(1), None)[1])

    def odd_number_of_forwards(facts: StepFacts) -> bool:
        return facts.changed_base_tensors == ["model.layers.0.mlp.down_proj.weight"]

    setup = make_setup(tiny_llama, gradient_checkpointing=False)
    more = look(setup, plant).facts
    monkeypatch.setattr(module, "STEPS", 1)
    facts = look(setup, plant).facts
    assert odd_number_of_forwards(facts) != odd_number_of_forwards(more), "each forward flips the bit back or forth"


def test_unfrozen_base(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Base parameters are unfrozen after the adapter was attached: the optimizer trains them."""
    attach = module.attach

    def unfreezing(base: Any, setup: Setup) -> Any:
        model = attach(base, setup)
        base.model.get_submodule("model.layers.0.input_layernorm").weight.requires_grad_(True)
        return model

    monkeypatch.setattr(module, "attach", unfreezing)
    facts = look(make_setup(tiny_llama)).facts
    assert facts.changed_base_tensors == ["model.layers.0.input_layernorm.weight"]


def test_nan_in_a_weight_that_is_used(tiny_llama: Path) -> None:
    def plant(base: Any) -> None:
        base.model.get_submodule("model.layers.1.input_layernorm").weight.data[3] = float("nan")

    facts = look(make_setup(tiny_llama), plant).facts
    assert facts.loss_finite is False and facts.logits_finite is False
    assert facts.parameters_nonfinite_gradient and facts.adapter_identity is None


def test_token_ids_without_a_row(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_batches = module.make_batches

    def wrong(*args: Any, **kwargs: Any) -> Any:
        batches = make_batches(*args, **kwargs)
        for row in batches.dataset:
            row["input_ids"] = row["input_ids"].clone()
            row["input_ids"][5] = 600
        return batches

    monkeypatch.setattr(module, "make_batches", wrong)
    seen = look(make_setup(tiny_llama))
    assert seen.facts.failure is not None and seen.facts.failure.kind == "token-out-of-range"
    assert (seen.facts.max_token_id, seen.facts.tokens_out_of_range, seen.facts.vocab_rows) == (600, 2, 512)
    assert seen.error is not None and "the largest is 600" in seen.error.message


def test_labels_that_are_all_masked(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_batches = module.make_batches

    def wrong(*args: Any, **kwargs: Any) -> Any:
        batches = make_batches(*args, **kwargs)
        for row in batches.dataset:
            row["labels"] = torch.full_like(row["labels"], -100)
        return batches

    monkeypatch.setattr(module, "make_batches", wrong)
    assert look(make_setup(tiny_llama)).facts.trained_tokens == 0


def test_a_failure_keeps_what_was_seen_before(tiny_llama: Path) -> None:
    def plant(base: Any) -> None:
        def fail(*_: object) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

        base.model.get_submodule("model.layers.1").register_full_backward_pre_hook(fail)

    seen = look(make_setup(tiny_llama, gradient_checkpointing=False), plant)
    assert seen.error is not None and seen.error.kind == "out-of-memory"
    assert seen.facts.failure is not None and seen.facts.failure.phase == "backward"
    assert seen.facts.loss_before is not None and seen.facts.optimizer is not None
    assert seen.facts.changed_base_tensors is None, "unknown, not none"


def test_adapter_that_peft_refuses(tiny_llama: Path) -> None:
    seen = look(make_setup(tiny_llama, lora={"target_modules": ["no_such_layer"]}))
    assert seen.error is not None
    assert seen.facts.failure is not None and seen.facts.failure.phase == "attach"


def test_facts_are_told_while_it_runs(tiny_llama: Path) -> None:
    told: list[StepFacts] = []
    look(make_setup(tiny_llama), learn=told.append)
    assert [facts.steps for facts in told] == [0, 1, 2]
    assert told[0].optimizer is not None and told[0].fingerprinted_tensors


def test_hooks_are_gone_afterwards(tiny_llama: Path) -> None:
    kept: list[Any] = []
    look(make_setup(tiny_llama), lambda base: kept.append(base))
    for module_ in kept[0].model.modules():
        own = [*module_._forward_hooks.values(), *module_._forward_pre_hooks.values()]
        assert not any("qlora_doctor" in getattr(h, "__module__", "") for h in own)
    assert not any(p._post_accumulate_grad_hooks for p in kept[0].model.parameters())


def test_the_trainer_sees_the_losses_it_would_see_without_us(tiny_llama: Path) -> None:
    """Same seed, same data: watched or not, training goes the same way, bit for bit."""
    from qlora_doctor import pipeline

    setup = make_setup(tiny_llama, lora={"lora_dropout": 0.1}, seed=7)

    def train(watched: bool) -> tuple[list[float], dict[str, Any]]:
        torch.manual_seed(3)
        base = pipeline.build_base(setup, "cpu")
        pipeline.prepare(base, setup)
        model = pipeline.attach(base, setup)
        batches = pipeline.make_batches(setup, model)
        callbacks = []
        if watched:
            observer = module.Observer(model, module.Timeline(base.device))
            callbacks = [module.Callback(observer, silent)]
        trainer = pipeline.make_trainer(setup, model, batches, "cpu", callbacks=callbacks)
        for callback in callbacks:
            callback.trainer = trainer
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        return losses, {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}

    plain, watched = train(False), train(True)
    assert plain[0] == watched[0]
    assert all(torch.equal(value, watched[1][name]) for name, value in plain[1].items())
