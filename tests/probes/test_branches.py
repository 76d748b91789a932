"""Trainable tensors without a gradient, a fault or by design: a small LLaVA whose vision tower is adapted.

Of its three vision layers the last is never read (``vision_feature_layer: -2``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("bitsandbytes")

from torch import nn  # noqa: E402

import qlora_doctor  # noqa: E402

IMAGE = 511


@pytest.fixture
def llava() -> Callable[..., Any]:
    def build(**lora: Any) -> Any:
        from peft import LoraConfig, get_peft_model
        from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

        vision = CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=28,
            patch_size=14,
            projection_dim=32,
        )
        text = LlamaConfig(
            vocab_size=512, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
        )
        torch.manual_seed(0)
        config = LlavaConfig(
            vision_config=vision,
            text_config=text,
            image_token_index=IMAGE,
            vision_feature_layer=-2,
            image_seq_length=4,
        )
        model = LlavaForConditionalGeneration(config)
        settings = {"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"} | lora
        return get_peft_model(model, LoraConfig(**settings))

    return build


def batch(images: bool = True) -> dict[str, Any]:
    random = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 500, (2, 24), generator=random)
    labels = ids.clone()
    given = {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)}
    if images:
        ids[:, 2:6], labels[:, 2:6] = IMAGE, -100
        given["pixel_values"] = torch.randn(2, 3, 28, 28, generator=random)
    return given


def examine(model: Any, given: dict[str, Any]) -> tuple[dict[str, str], Any]:
    """Rules that speak of gradients, and the facts of the step."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    report = qlora_doctor.examine(model, optimizer, given)
    assert not any(m._forward_pre_hooks for m in model.modules())
    return {f.rule: f.message for f in report.findings if f.rule.startswith("QD4")}, report.facts.step


def branches(step: Any) -> list[tuple[str, int, bool]]:
    return [(branch.name, len(branch.tensors), branch.by_design) for branch in step.branches_without_gradient]


def test_layers_after_the_one_that_is_read(llava: Callable[..., Any]) -> None:
    found, step = examine(llava(), batch())
    assert branches(step) == [("model.vision_tower.encoder.layers.2", 4, True)] and step.parameters_cut_off == []
    assert found.keys() == {"QD433"} and "vision_feature_layer = -2" in found["QD433"]
    assert step.gradients_sound and step.loss_moved


def test_a_batch_without_images(llava: Callable[..., Any]) -> None:
    found, step = examine(llava(), batch(images=False))
    assert branches(step) == [("model.vision_tower", 12, True)]
    assert found.keys() == {"QD433"} and "the batch has no pixel_values" in found["QD433"]


def test_a_vision_tower_under_no_grad_is_a_fault(llava: Callable[..., Any]) -> None:
    model = llava()
    tower = model.get_base_model().model.vision_tower
    forward = tower.forward
    tower.forward = lambda *args, **kwargs: torch.no_grad()(forward)(*args, **kwargs)
    found, step = examine(model, batch())
    assert branches(step) == [("model.vision_tower", 12, False)] and len(step.parameters_cut_off) == 12
    assert (
        found.keys() == {"QD405"} and "model.vision_tower, the forward calls it, and the graph is cut" in found["QD405"]
    )


def test_early_layers_behind_a_cut_are_a_fault(llava: Callable[..., Any]) -> None:
    model = llava()
    layers = model.get_base_model().model.vision_tower.encoder.layers
    handle = layers[1].register_forward_pre_hook(lambda module, args: (args[0].detach(), *args[1:]))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    report = qlora_doctor.examine(model, optimizer, batch())
    handle.remove()
    step = report.facts.step
    assert ("model.vision_tower.encoder.layers.0", 4, False) in branches(step)
    assert ("model.vision_tower.encoder.layers.2", 4, True) in branches(step)
    assert {f.rule for f in report.findings if f.severity == "error"} == {"QD405"}


def test_the_last_layer_of_the_language_model_has_to_reach_the_loss(llava: Callable[..., Any]) -> None:
    model = llava()
    last = model.get_base_model().model.language_model.layers[1]
    last.forward = lambda hidden, *args, **kwargs: nn.Identity()(hidden)
    found, step = examine(model, batch())
    assert ("model.language_model.layers.1", 4, False) in branches(step)
    assert found.keys() == {"QD405"} and "the forward never calls it" in found["QD405"]
