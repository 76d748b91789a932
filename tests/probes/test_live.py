"""Live objects: looked at, exercised, and left as they were; faults that a training script plants are told."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("bitsandbytes")

import qlora_doctor  # noqa: E402
from qlora_doctor.probes.live import restoring  # noqa: E402
from qlora_doctor.probes.live.objects import examine_objects  # noqa: E402
from qlora_doctor.probes.tensors import base_tensors  # noqa: E402

Build = Callable[..., Any]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("AdaLoraConfig", {"total_step": 9, "tinit": 1, "tfinal": 2, "target_modules": ["q_proj"]}),
        ("VeraConfig", {"r": 4, "target_modules": ["q_proj"]}),
        ("LoHaConfig", {"target_modules": ["q_proj"]}),
        ("LNTuningConfig", {}),
        ("PromptTuningConfig", {"num_virtual_tokens": 2}),
    ],
)
def test_adapters_that_are_no_lora_are_looked_at(name: str, options: dict[str, Any], tiny_llama: Path) -> None:
    """They have neither LoRA's rank and scale nor, some of them, modules that they adapt."""
    import peft
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    report = qlora_doctor.examine(peft.get_peft_model(model, getattr(peft, name)(task_type="CAUSAL_LM", **options)))
    assert {finding.rule for finding in report.findings} <= {"QD244"}
    assert report.facts.adapter is not None and report.facts.adapter.trainable_parameters
    assert report.facts.config is None or report.facts.config.scaling is None


def trainable(model: Any) -> list[Any]:
    return [p for p in model.parameters() if p.requires_grad]


def adamw(model: Any, lr: float = 1e-3) -> Any:
    return torch.optim.AdamW(trainable(model), lr=lr)


@pytest.fixture
def batch() -> dict[str, Any]:
    ids = torch.randint(0, 512, (2, 24), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 20:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def state_of(model: Any, optimizer: Any | None) -> dict[str, Any]:
    """Everything that an examination could leave changed, by value and by identity."""
    state: dict[str, Any] = {
        "rng": torch.get_rng_state().clone(),
        "python": random.getstate(),
        "modes": [m.training for m in model.modules()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
        "flags": [p.requires_grad for p in model.parameters()],
        "compute": [getattr(m, "compute_dtype", None) for m in model.modules()],
        "pointers": [p.data_ptr() for p in model.parameters()],
        "gradients": [id(p.grad) for p in model.parameters()],
    }
    for name, parameter in model.named_parameters():
        state[f"p:{name}"] = parameter.detach().clone()
        state[f"g:{name}"] = None if parameter.grad is None else parameter.grad.clone()
    for name, found in base_tensors(model).items():
        state[f"b:{name}"] = found.tensor.detach().clone()
    if optimizer is not None:
        state["groups"] = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
        state["keys"] = [id(key) for key in optimizer.state]
        for number, entries in enumerate(optimizer.state.values()):
            for key, value in entries.items():
                state[f"o:{number}:{key}"] = value.clone() if isinstance(value, torch.Tensor) else value
    return state


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert before.keys() == after.keys()
    for key, value in before.items():
        if isinstance(value, torch.Tensor):
            assert value.dtype == after[key].dtype and torch.equal(value, after[key]), key
        else:
            assert value == after[key], key


@pytest.mark.parametrize("stepped", [False, True], ids=["fresh", "in the middle of training"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_leaves_everything_as_found(qlora: Build, batch: dict[str, Any], stepped: bool, training: bool) -> None:
    model = qlora(lora={"lora_dropout": 0.1})
    optimizer = adamw(model)
    if stepped:
        model(**batch, labels=batch["input_ids"]).loss.backward()
        optimizer.step()
    model.train(training)
    before = state_of(model, optimizer)
    facts = examine_objects(model, optimizer, batch)
    assert_same(before, state_of(model, optimizer))
    step = facts.step
    assert step is not None and step.failure is not None and step.failure.kind == "none"
    assert step.steps == 2 and step.data == "given" and step.changed_base_tensors == []
    assert step.parameters_not_updated == [] and step.gradients_sound and step.loss_moved and step.adapter_effective
    assert step.adapter_identity is (None if stepped else True)
    assert "labels" not in batch, "the batch is the caller's"


def test_cast_biases_are_put_back(model_folder: Callable[..., Any], batch: dict[str, Any]) -> None:
    from qlora_doctor.pipeline import attach, build_base, prepare
    from tests.probes.conftest import make_setup

    setup = make_setup(model_folder("opt"))
    base = build_base(setup, "cpu")
    prepare(base, setup)
    model = attach(base, setup)
    before = state_of(model, None)
    step = examine_objects(model, None, batch, autocast="bfloat16").step
    assert step is not None and step.cast_base_tensors and step.changed_base_tensors == []
    assert step.autocast_dtype == "bfloat16"
    assert_same(before, state_of(model, None))


def test_static_look_runs_nothing(qlora: Build, batch: dict[str, Any]) -> None:
    model = qlora()
    model.register_forward_pre_hook(lambda *_: pytest.fail("a forward ran"))
    for given, step in ((None, True), (batch, False)):
        facts = examine_objects(model, adamw(model), given, step=step)
        assert facts.step is not None and facts.step.steps is None
        assert facts.step.optimizer is not None and facts.step.optimizer.missing_parameters == []
        assert facts.adapter is not None and facts.adapter.attached
        assert facts.quantization is not None and facts.quantization.coverage_ratio == 1.0
        assert facts.load is not None and facts.load.missing_quant_state == []
    assert examine_objects(model).step is None


def test_without_an_optimizer_updates_are_unknown(qlora: Build, batch: dict[str, Any]) -> None:
    step = examine_objects(qlora(), None, batch).step
    assert step is not None and step.gradients_sound
    assert step.parameters_not_updated is None and step.loss_moved is None and step.optimizer is None


def test_a_rate_of_zero_says_nothing_of_updates(qlora: Build, batch: dict[str, Any]) -> None:
    """A warm-up starts there."""
    model = qlora()
    step = examine_objects(model, adamw(model, lr=0.0), batch).step
    assert step is not None and step.loss_moved is None and step.parameters_not_updated is None


# -- planted faults


def test_optimizer_that_holds_frozen_tensors(qlora: Build, batch: dict[str, Any]) -> None:
    model = qlora()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.is_floating_point()], lr=1e-3)
    step = examine_objects(model, optimizer, batch).step
    assert step is not None and step.optimizer is not None
    frozen = step.optimizer.frozen_parameters
    assert frozen is not None and "model.norm.weight" in frozen and not any("lora" in name for name in frozen)
    assert step.optimizer.missing_parameters == [] and step.changed_base_tensors == []


def test_optimizer_that_lacks_trainable_tensors(qlora: Build, batch: dict[str, Any]) -> None:
    model = qlora()
    half = [p for n, p in model.named_parameters() if p.requires_grad and ".0." in n]
    step = examine_objects(model, torch.optim.AdamW(half, lr=1e-3), batch).step
    assert step is not None and step.optimizer is not None and step.optimizer.missing_parameters
    assert all(".1." in name for name in step.optimizer.missing_parameters)
    # lora_A has nothing to learn from a lora_B that stays zero: that is told of lora_B alone.
    assert step.parameters_not_updated == [n for n in step.optimizer.missing_parameters if ".lora_B." in n]


def test_optimizer_of_another_model(qlora: Build, batch: dict[str, Any]) -> None:
    stale, model = qlora(), qlora()
    optimizer = adamw(stale)
    step = examine_objects(model, optimizer, batch).step
    assert step is not None and step.optimizer is not None
    assert step.optimizer.stale_parameters == len(trainable(stale))
    assert len(step.optimizer.missing_parameters or []) == len(trainable(model))
    assert step.loss_moved is False


def test_weight_decay_that_moves_the_base(qlora: Build, batch: dict[str, Any]) -> None:
    """An unfrozen norm in the optimizer moves, and is put back."""
    model = qlora()
    norm = model.get_submodule("base_model.model.model.norm").weight
    norm.requires_grad_(True)
    before = norm.detach().clone()
    step = examine_objects(model, adamw(model), batch).step
    assert step is not None and step.changed_base_tensors == ["model.norm.weight"]
    assert torch.equal(norm, before) and norm.requires_grad


def test_base_that_a_hook_moves_is_put_back(qlora: Build, batch: dict[str, Any]) -> None:
    model = qlora()
    layer = model.get_submodule("base_model.model.model.layers.0.mlp.up_proj.base_layer")
    layer.register_forward_pre_hook(lambda m, _: (m.weight.data[0].add_(1), None)[1])
    before = layer.weight.data.clone()
    step = examine_objects(model, adamw(model), batch).step
    assert step is not None and step.changed_base_tensors == ["model.layers.0.mlp.up_proj.weight"]
    assert torch.equal(layer.weight.data, before)


def test_no_room_for_a_copy_of_the_base_is_said(
    qlora: Build, batch: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restoring, "host_memory", lambda: 1)
    model = qlora()
    head = model.get_submodule("base_model.model.model.embed_tokens")
    head.weight.data = torch.cat([head.weight.data] * 3)  # over the size that is always copied
    head.register_forward_pre_hook(lambda m, _: (m.weight.data.mul_(1.01), None)[1])
    step = examine_objects(model, adamw(model), batch).step
    assert step is not None and step.warnings is not None
    assert any("could not be put back" in text for text in step.warnings)


def test_disabled_adapter_gets_no_gradient(qlora: Build, batch: dict[str, Any]) -> None:
    model = qlora()
    optimizer = adamw(model)
    model.base_model.disable_adapter_layers()
    for parameter in optimizer.param_groups[0]["params"]:
        parameter.requires_grad_(True)
    step = examine_objects(model, optimizer, batch).step
    assert step is not None and step.parameters_without_gradient is not None
    assert len(step.parameters_without_gradient) == len(optimizer.param_groups[0]["params"]) or (
        step.failure is not None and step.failure.kind == "no-gradient"
    )


def checkpoint_without_input_gradients(model: Any) -> None:
    """Reentrant checkpointing, with what the libraries do to help taken back."""
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    base = model.get_base_model()
    for name in ("_require_grads_hook", "_require_grads_hooks"):
        hooks = getattr(base, name, None)
        for hook in hooks if isinstance(hooks, list) else [hooks]:
            if hook is not None:
                hook.remove()


def test_checkpointing_without_input_gradients_loud(qlora: Build, batch: dict[str, Any]) -> None:
    model = qlora(prepare_for_kbit_training=False)
    checkpoint_without_input_gradients(model)
    step = examine_objects(model, adamw(model), batch).step
    assert step is not None and step.failure is not None
    assert (step.failure.kind, step.failure.phase) == ("no-gradient", "backward")
    assert step.inputs_require_grad is False and step.checkpointing_blocks_gradient


def test_checkpointing_without_input_gradients_silent(qlora: Build, batch: dict[str, Any]) -> None:
    """A trained head keeps the graph alive: nothing raises, and no layer's adapter trains."""
    model = qlora(prepare_for_kbit_training=False, lora={"modules_to_save": ["lm_head"]})
    checkpoint_without_input_gradients(model)
    step = examine_objects(model, adamw(model), batch).step
    assert step is not None and step.failure is not None and step.failure.kind == "none"
    assert step.parameters_without_gradient and all(".layers." in n for n in step.parameters_without_gradient)
    assert step.inputs_require_grad is False and step.checkpointing_blocks_gradient
    assert any("requires_grad=True" in text for text in step.warnings or [])


def test_batch_without_rows_for_its_tokens(qlora: Build) -> None:
    step = examine_objects(qlora(), None, torch.full((1, 8), 999)).step
    assert step is not None and step.failure is not None and step.failure.kind == "token-out-of-range"


def test_a_batch_of_another_kind_is_refused(qlora: Build) -> None:
    with pytest.raises(TypeError, match="a batch is a mapping"):
        examine_objects(qlora(), None, [1, 2, 3])


def test_a_model_without_adapter(tiny_llama: Any) -> None:
    """A plain float model can be looked at, too."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_llama, torch_dtype="float32")
    step = examine_objects(model, None, torch.randint(0, 512, (1, 8))).step
    assert step is not None and step.failure is not None and step.failure.kind == "none"
    assert step.adapter_identity is None and step.gradients_sound


def test_a_base_that_is_not_in_4bit_is_said(tiny_llama: Any, batch: dict[str, Any]) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    import qlora_doctor

    base = AutoModelForCausalLM.from_pretrained(tiny_llama, torch_dtype="bfloat16")
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    for optimizer, given in ((None, None), (adamw(model), batch)):
        report = qlora_doctor.examine(model, optimizer, given)
        assert [(f.rule, f.severity) for f in report.findings] == [("QD244", "warning")]
        assert "held in bfloat16" in report.findings[0].message


def test_a_base_that_is_half_in_4bit_is_told(qlora: Any) -> None:
    """Layers converted by hand, half of them, and no config that asks for 4-bit."""
    import qlora_doctor

    model = qlora()
    assert qlora_doctor.examine(model).findings == []
    for name, module in list(model.named_modules()):
        if ".layers.1." in name and type(module).__name__ == "Linear4bit" and not hasattr(module, "base_layer"):
            parent = model.get_submodule(name.rpartition(".")[0])
            setattr(
                parent, name.rpartition(".")[2], torch.nn.Linear(module.in_features, module.out_features, bias=False)
            )
    del model.config.quantization_config
    told = {f.rule: f.message for f in qlora_doctor.examine(model).findings}
    assert told["QD203"].startswith("Only 50% of the linear weights")


def test_the_first_forward_of_an_8bit_base_changes_nothing(tiny_llama: Any, batch: dict[str, Any]) -> None:
    """It hands each weight's scales on to the layer's own state."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    import qlora_doctor

    config = BitsAndBytesConfig(load_in_8bit=True)
    base = AutoModelForCausalLM.from_pretrained(tiny_llama, quantization_config=config, device_map={"": "cpu"})
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    report = qlora_doctor.examine(model, adamw(model), batch)
    assert report.facts.step.changed_base_tensors == [] and "QD401" not in {f.rule for f in report.findings}


@pytest.mark.parametrize("kind", ["8-bit", "another package"])
def test_a_base_of_another_quantization_is_no_unquantized_one(tiny_llama: Any, kind: str) -> None:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    import qlora_doctor

    if kind == "8-bit":
        config = BitsAndBytesConfig(load_in_8bit=True)
        model = AutoModelForCausalLM.from_pretrained(tiny_llama, quantization_config=config, device_map={"": "cpu"})
    else:
        model = AutoModelForCausalLM.from_pretrained(tiny_llama, torch_dtype="bfloat16")
        model.config.quantization_config = {"quant_method": "hqq", "nbits": 4}
    assert "QD244" not in {finding.rule for finding in qlora_doctor.examine(model).findings}
