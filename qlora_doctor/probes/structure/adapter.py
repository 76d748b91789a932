"""Facts about the adapter: what it is attached to."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ...facts.adapter import AdapterFacts, ProjectionCoverage
from ..tensors import own_class
from .adapter_state import state_facts
from .adapter_targets import target_facts
from .bypass import bypassed_modules, kernel_fed_adapters
from .inventory import Inventory, Linear, Part, is_conv1d
from .naming import split_layer
from .training_parameters import parameter_facts


def adapter_facts(
    model: Any,
    *,
    asked_targets: list[str] | str | None = None,
    asked_to_save: list[str] | None = None,
    fresh_heads: list[str] | None = None,
) -> AdapterFacts:
    """Facts of a model with LoRA on any device: a PeftModel, or a transformers model after ``add_adapter``.

    A model without adapters gives ``attached: false`` and what trains; one whose adapter is no LoRA, what trains.

    Args:
        asked_targets: target_modules as the user wrote them; without them those of PEFT's config, which PEFT may have
            rewritten by now.
        asked_to_save: modules_to_save as the user wrote them.
        fresh_heads: names of task heads that no checkpoint holds; None where that is unknown.
    """
    seen = Inventory(model)
    config = active_config(seen)
    if config is not None and config.peft_type != "LORA":  # what it adapts, and with how many numbers, is its own
        return AdapterFacts(attached=True, failure="none", **parameter_facts(seen, config), **state_facts(seen, config))
    adapted = [part for part in seen.parts if part.lora]
    return AdapterFacts(
        attached=bool(adapted),
        failure="none" if adapted else None,
        matched_modules=[part.name for part in adapted if _whole(part)],
        matched_parameters=_adapted_parameters(adapted),
        **target_facts(seen, config, asked_targets, asked_to_save),
        **parameter_facts(seen, config),
        **coverage(seen),
        **_experts(seen),
        **ends_facts(seen, config, fresh_heads),
        **state_facts(seen, config),
        conv1d_modules=[linear.name for linear in seen.linears if linear.adapted and is_conv1d(linear)],
        adapted_classes=_classes(adapted),
        bypassed_modules=bypassed_modules(seen),
        kernel_fed_modules=kernel_fed_adapters(seen),
    )


def active_config(seen: Inventory) -> Any | None:
    """PEFT's config of the active adapter (of the only one where none is active); None without adapters."""
    configs = getattr(seen.model, "peft_config", None)
    if not isinstance(configs, dict) or not configs:
        return None
    active = getattr(seen.model, "active_adapters", None)
    active = active() if callable(active) else active
    names = active if isinstance(active, list) else []
    return next((configs[name] for name in names if name in configs), next(iter(configs.values())))


def _whole(part: Part) -> bool:
    return any(type(layer).__name__ != "ParamWrapper" for layer in part.lora)


def _adapted_parameters(adapted: list[Part]) -> list[str]:
    return [
        f"{part.name}.{layer.parameter_name}"
        for part in adapted
        for layer in reversed(part.lora)
        if type(layer).__name__ == "ParamWrapper"
    ]


def _classes(adapted: list[Part]) -> list[str]:
    counts = Counter(own_class(part.module) for part in adapted)
    return [f"{name} × {count}" for name, count in counts.most_common()]


def coverage(seen: Inventory) -> dict[str, Any]:
    """Coverage by layers, by weights, and as a matrix of layer × projection."""
    columns: dict[str, dict[str, set[int]]] = {}
    for name, adapted, four_bit in _cells(seen):
        place = split_layer(name, seen.stack)
        if place is None:
            continue
        layer, projection = place
        column = columns.setdefault(projection, {"layers": set(), "adapted": set(), "four_bit": set()})
        column["layers"].add(layer)
        if adapted:
            column["adapted"].add(layer)
        if four_bit:
            column["four_bit"].add(layer)
    adapted_layers = set().union(*(column["adapted"] for column in columns.values())) if columns else set()
    inside = [linear for linear in seen.layer_linears if split_layer(linear.name, seen.stack)]
    covered = sum(linear.parameters for linear in inside if linear.adapted)
    total = sum(linear.parameters for linear in inside)
    return {
        "adapted_layers": len(adapted_layers),
        "total_layers": seen.total_layers,
        "layer_coverage_ratio": len(adapted_layers) / seen.total_layers if seen.total_layers else None,
        "adapted_linear_parameters": covered,
        "linear_coverage_ratio": covered / total if total else None,
        "projections": [
            ProjectionCoverage(projection=name, **{key: sorted(layers) for key, layers in column.items()})
            for name, column in columns.items()
        ],
    }


def _cells(seen: Inventory) -> list[tuple[str, bool, bool]]:
    """Name, adapted and 4-bit of each linear layer and each stacked expert weight."""
    cells = [(linear.name, linear.adapted, linear.four_bit) for linear in seen.layer_linears]
    return cells + [(weight.name, weight.adapted, False) for weight in seen.experts]


def _experts(seen: Inventory) -> dict[str, Any]:
    """Coverage of the routed experts; a model without experts has none to cover."""
    weights = [(weight.parameter.numel(), weight.adapted) for weight in seen.experts]
    weights += [(linear.parameters, linear.adapted) for linear in seen.expert_linears]
    total = sum(count for count, _ in weights)
    covered = sum(count for count, adapted in weights if adapted)
    routers = [part.name for part in seen.routers if part.lora]
    return {
        "expert_parameters_adapted": covered,
        "expert_coverage_ratio": covered / total if total else None,
        "shared_experts_only": bool(total) and not covered and any(_is_dense(seen, linear) for linear in seen.linears),
        "router_modules": routers,
    }


def _is_dense(seen: Inventory, linear: Linear) -> bool:
    """Whether this is an adapted layer of a shared expert, or of a dense MLP between the mixtures."""
    if not linear.adapted or linear.part in seen.routers:
        return False
    path = linear.name.lower()
    return "shared" in path or any(f".{mlp}." in path for mlp in ("mlp", "feed_forward", "ffn", "block_sparse_moe"))


def ends_facts(seen: Inventory, config: Any, fresh_heads: list[str] | None) -> dict[str, Any]:
    """Embeddings and heads: adapted, saved, tied, or new and left untrained."""
    head, embedding = seen.head, seen.input_embedding
    touched = [part.name for part in (embedding, head) if part is not None and (part.lora or part.saved is not None)]
    kept_tied = bool(getattr(config, "ensure_weight_tying", False))
    full = {id(part.module): part for part in (*seen.embeddings, *([head] if head is not None else []))}
    return {
        "head_adapted": None if head is None else bool(head.lora),
        "embeddings_adapted": any(part.lora for part in seen.embeddings),
        "tied_weights_trained": touched if seen.tied and not kept_tied else [],
        "saved_modules": _saved(seen),
        "random_heads": _random_heads(seen, fresh_heads),
        "fully_trained_embedding_parameters": sum(_fully_trained(part) for part in full.values()),
    }


def _saved(seen: Inventory) -> list[str]:
    """The modules that modules_to_save wrapped, not those below them."""
    names = [part.name for part in seen.parts if part.saved is not None]
    return [name for name in names if name.rpartition(".")[0] not in names]


def _random_heads(seen: Inventory, fresh: list[str] | None) -> list[str] | None:
    if fresh is None:
        return None
    return [
        part.name
        for part in seen.heads
        if part.name in fresh
        and part.saved is None
        and not any(parameter.requires_grad for parameter in part.module.parameters(recurse=False))
    ]


def _fully_trained(part: Part) -> int:
    """Elements of an embedding or output head that train in full."""
    weight = part.saved.weight if part.saved is not None else part.module.weight
    return weight.numel() if weight.requires_grad else 0
