"""Known faults, planted in live objects: ``examine`` tells exactly the rule, and leaves everything as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import qlora_doctor
from tests.faults.planting import found, told
from tests.models import VOCABULARY

Made = tuple[Any, torch.optim.Optimizer, dict[str, torch.Tensor]]


@pytest.fixture
def tutorial(model_folder: Callable[..., Path]) -> Callable[..., Any]:
    """The tutorial's own steps: load in 4-bit, prepare, attach; each can be left out or done another way."""

    def build(name: str = "llama", *, prepare: bool = True, checkpointing: bool = False, **lora: Any) -> Any:
        from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

        base = load_base(model_folder(name))
        if prepare:
            base = prepare_model_for_kbit_training(base, use_gradient_checkpointing=checkpointing)
        torch.manual_seed(0)
        settings = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | lora
        return get_peft_model(base, LoraConfig(**settings))

    return build


def load_base(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, device_map={"": "cpu"})


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def adamw(model: nn.Module, rate: float = 2e-4) -> torch.optim.Optimizer:
    return torch.optim.AdamW(trainable(model), lr=rate)


def batch(tokens: int = VOCABULARY) -> dict[str, torch.Tensor]:
    ids = torch.randint(0, tokens, (2, 16), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "labels": ids.clone(), "attention_mask": torch.ones_like(ids)}


def state(model: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
    tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    gradients = {name: p.requires_grad for name, p in model.named_parameters()}
    return tensors, gradients, copy.deepcopy(optimizer.state_dict()), torch.get_rng_state()


def assert_same(before: Any, after: Any) -> None:
    assert before[1] == after[1] and str(before[2]) == str(after[2]) and torch.equal(before[3], after[3])
    assert before[0].keys() == after[0].keys()
    for name, tensor in before[0].items():
        assert torch.equal(tensor, after[0][name]), name


def test_healthy_objects_are_silent_and_left_alone(tutorial: Callable[..., Any]) -> None:
    model = tutorial()
    optimizer = adamw(model)
    before = state(model, optimizer)
    report = qlora_doctor.examine(model, optimizer, batch())
    assert not found(report, "warning"), told(report)
    assert_same(before, state(model, optimizer))
    assert all(p.grad is None for p in model.parameters())


def test_packed_weights_are_counted_as_what_they_are(tutorial: Callable[..., Any]) -> None:
    report = qlora_doctor.examine(tutorial())
    adapter = report.facts.adapter
    assert adapter is not None and adapter.total_parameters and adapter.packed_parameters
    assert adapter.total_parameters > adapter.packed_parameters


def checkpoint_without_input_gradients(model: Any) -> None:
    """What older trainers do; today's transformers turns the inputs' gradients on where it sees an adapter."""
    base = model.get_base_model()
    base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    base.disable_input_require_grads()


def expect(rule: str, level: str, model: Any, optimizer: Any = None, inputs: Any = None, **known: Any) -> None:
    report = qlora_doctor.examine(model, optimizer, inputs, **known)
    assert found(report, level) == {rule}, told(report)


def test_optimizer_made_before_the_adapter(tutorial: Callable[..., Any]) -> None:
    """optimizer-empty-or-stale: it holds the tensors of an older copy."""
    model = tutorial()
    older = copy.deepcopy(model)
    expect("QD415", "error", model, adamw(older), batch())


def test_optimizer_that_holds_nothing(tutorial: Callable[..., Any]) -> None:
    model = tutorial()
    optimizer = adamw(model)
    optimizer.param_groups[0]["params"].clear()
    expect("QD414", "error", model, optimizer, batch())


def test_optimizer_of_the_frozen_base_alone(tutorial: Callable[..., Any]) -> None:
    model = tutorial()
    frozen = [p for p in model.parameters() if not p.requires_grad and p.is_floating_point()]
    expect("QD416", "error", model, torch.optim.AdamW(frozen, lr=2e-4), batch())


def test_optimizer_misses_half_of_the_adapter(tutorial: Callable[..., Any]) -> None:
    model = tutorial()
    half = trainable(model)[::2]
    expect("QD416", "error", model, torch.optim.AdamW(half, lr=2e-4), batch())


def test_optimizer_holds_frozen_tensors(tutorial: Callable[..., Any]) -> None:
    model = tutorial()
    everything = [p for p in model.parameters() if p.is_floating_point()]
    expect("QD417", "warning", model, torch.optim.AdamW(everything, lr=2e-4), batch())


def test_adapter_frozen(tutorial: Callable[..., Any]) -> None:
    """adapter-loaded-frozen, kbit-prep-after-peft-freezes: nothing requires a gradient."""
    model = tutorial()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    report = qlora_doctor.examine(model, None, None)
    assert found(report, "error") & {"QD323", "QD324"} and len(found(report, "error")) == 1, told(report)


def test_kbit_preparation_after_the_adapter(tutorial: Callable[..., Any]) -> None:
    from peft import prepare_model_for_kbit_training

    model = prepare_model_for_kbit_training(tutorial(prepare=False), use_gradient_checkpointing=False)
    report = qlora_doctor.examine(model, None, None)
    assert found(report, "error") == {"QD324"}, told(report)


def test_base_that_was_never_frozen(tutorial: Callable[..., Any]) -> None:
    """kbit-prep-missing in its harmful form: norms and embeddings train beside the adapter."""
    model = tutorial()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.requires_grad_(True)
    expect("QD329", "error", model, adamw(model), batch())


def test_base_that_moves(tutorial: Callable[..., Any]) -> None:
    """Something writes into the base during the step: here a hook; a merge or an average would do the same."""
    model = tutorial()
    norm = model.get_base_model().model.layers[0].input_layernorm

    def nudge(module: nn.Module, inputs: Any) -> None:
        with torch.no_grad():
            module.weight.add_(1e-3)

    handle = norm.register_forward_pre_hook(nudge)
    expect("QD401", "error", model, adamw(model), batch())
    handle.remove()


def test_checkpointing_without_input_gradients_fails(tutorial: Callable[..., Any]) -> None:
    """gc-no-input-grad-error: reentrant checkpointing, no trainable tensor before the first layer."""
    model = tutorial(prepare=False)
    checkpoint_without_input_gradients(model)
    expect("QD402", "error", model, adamw(model), batch())


def test_checkpointing_starves_the_adapter_in_silence(tutorial: Callable[..., Any]) -> None:
    """gc-no-input-grad-silent: the trained head keeps the graph alive, the layers get nothing."""
    model = tutorial(prepare=False, modules_to_save=["lm_head"], r=64)
    checkpoint_without_input_gradients(model)
    expect("QD403", "error", model, adamw(model), batch())


def test_nan_in_the_base_makes_the_loss_nan(tutorial: Callable[..., Any]) -> None:
    model = tutorial()
    with torch.no_grad():
        model.get_base_model().model.norm.weight[0] = float("nan")
    report = qlora_doctor.examine(model, adamw(model), batch())
    assert found(report, "error") <= {"QD230", "QD408"} and found(report, "error"), told(report)


def test_token_ids_beyond_the_vocabulary(tutorial: Callable[..., Any]) -> None:
    model = tutorial()
    expect("QD420", "error", model, adamw(model), batch(tokens=VOCABULARY + 64))


def test_no_token_is_trained(tutorial: Callable[..., Any]) -> None:
    model = tutorial()
    inputs = batch()
    inputs["labels"] = torch.full_like(inputs["labels"], -100)
    expect("QD421", "error", model, adamw(model), inputs)


def test_adapter_disabled(tutorial: Callable[..., Any]) -> None:
    model = tutorial()
    model.base_model.disable_adapter_layers()
    report = qlora_doctor.examine(model, None, None)
    assert found(report, "error") == {"QD325"}, told(report)


def test_quantization_state_lost(tutorial: Callable[..., Any]) -> None:
    model = tutorial()
    layer = model.get_base_model().model.layers[0].mlp.down_proj.base_layer
    layer.quant_state = layer.weight.quant_state = None
    report = qlora_doctor.examine(model, None, None)
    assert found(report, "error") == {"QD235"}, told(report)


def test_cache_under_checkpointing(tutorial: Callable[..., Any]) -> None:
    model = tutorial(checkpointing=True)
    model.config.use_cache = True
    report = qlora_doctor.examine(model, adamw(model), batch())
    assert found(report, "warning") <= {"QD413"}, told(report)


def test_float16_adapter_under_a_scaler(tutorial: Callable[..., Any]) -> None:
    model = tutorial()
    for parameter in trainable(model):
        parameter.data = parameter.data.half()
    report = qlora_doctor.examine(model, None, None, fp16=True)
    assert found(report, "error") == {"QD114"}, told(report)


def test_nested_adapters(tutorial: Callable[..., Any]) -> None:
    """double-peft-wrap."""
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tutorial(), LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    report = qlora_doctor.examine(model, None, None)
    assert "QD328" in found(report, "error"), told(report)


def test_rows_of_which_one_token_is_trained(tutorial: Callable[..., Any]) -> None:
    model = tutorial()
    inputs = {name: torch.cat([tensor] * 2) for name, tensor in batch().items()}
    inputs["input_ids"] = torch.randint(4, VOCABULARY, (4, 16), generator=torch.Generator().manual_seed(2))
    inputs["labels"] = inputs["input_ids"].clone()
    inputs["labels"][:, :-1] = -100
    expect("QD692", "warning", model, adamw(model), inputs)


@pytest.mark.parametrize(("pad", "labels", "rule"), [(3, (0, 2), "QD667"), (None, (0, 1), "QD675"), (3, (0, 1), None)])
def test_classes_and_padding_of_a_classifier(
    pad: int | None, labels: tuple[int, int], rule: str | None, model_folder: Callable[..., Path]
) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    base = AutoModelForSequenceClassification.from_pretrained(model_folder("llama"), num_labels=2)
    base.config.pad_token_id = pad
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", task_type="SEQ_CLS"))
    inputs = {**batch(), "labels": torch.tensor(labels)}
    report = qlora_doctor.examine(model, adamw(model), inputs)
    assert found(report, "error") == ({rule} if rule else set()), told(report)


@pytest.mark.parametrize(("placeholders", "rules"), [(4, set()), (3, {"QD693"}), (0, {"QD693"})])
def test_images_of_other_sizes_than_their_placeholders(placeholders: int, rules: set[str]) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
                              image_size=28, patch_size=14, projection_dim=32)  # fmt: skip
    text = LlamaConfig(vocab_size=VOCABULARY, hidden_size=64, intermediate_size=64, num_hidden_layers=1,
                       num_attention_heads=2)  # fmt: skip
    base = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text, image_token_index=511))
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    inputs = batch(tokens=500)
    inputs["input_ids"][:, :placeholders] = 511
    inputs["labels"][:, :placeholders] = -100
    inputs["pixel_values"] = torch.zeros(2, 3, 28, 28)
    report = qlora_doctor.examine(model, adamw(model), inputs)
    assert found(report, "error") == rules, told(report)
