"""Stage ``structure``: the model on the meta device, converted to 4-bit, with the adapter attached. No weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ...core.errors import StageError
from ...facts import AdapterFacts, ModelFacts, QuantizationFacts
from ...pipeline import Architecture, Base, attach, build_base, load_config, lora_config, prepare
from ...pipeline.failures import first_sentence
from ...pipeline.patterns import PatternWithoutEnd
from ...setup.setup import Setup
from .adapter import adapter_facts
from .attach_failure import needs_float_weights, refused_facts, refused_stored_facts
from .heads import fresh_heads
from .inventory import Inventory
from .model import failed_model_facts, model_facts
from .quantization import float32_experts_bytes, quantization_facts
from .stored_tensors import stored_file_facts, stored_fit

Progress = Callable[[str, int | None, int | None, str | None], None]
"""Told text, done, total and unit while it works."""


@dataclass
class StructureSeen:
    """What the structure stage saw.

    Attributes:
        model, adapter, quantization: facts; None where the stage did not get that far.
        failure: why the model could not be built or prepared; None where it was.
        base: the base on meta, wrapped in place by PEFT where the adapter attached.
        peft_model: what get_peft_model returned; None where it refused.
        notes: what was done otherwise than the setup says; one sentence each.
    """

    model: ModelFacts | None = None
    adapter: AdapterFacts | None = None
    quantization: QuantizationFacts | None = None
    failure: StageError | None = None
    base: Base | None = None
    peft_model: Any = None
    notes: list[str] = field(default_factory=list)


def look_at_structure(setup: Setup, progress: Progress | None = None, *, offline: bool = True) -> StructureSeen:
    """Build base, 4-bit conversion and adapter of a setup without weights, and say what came of it.

    Nothing is raised for a model that cannot be built or an adapter that PEFT refuses: ``failure`` and the facts tell.

    Args:
        progress: is called with what is under way.
        offline: False lets the hub be asked for config.json where the model is not at hand.
    """
    tell = progress or (lambda *_: None)
    seen = StructureSeen()
    _look(setup, seen, tell, offline)
    stored = stored_file_facts(setup, tell)
    if seen.adapter is not None or setup.model.adapter is not None or setup.dialect == "peft-adapter":
        seen.adapter = (seen.adapter or AdapterFacts()).model_copy(update=stored)
    return seen


def _look(setup: Setup, seen: StructureSeen, tell: Progress, offline: bool) -> None:
    architecture: Architecture | None = None
    try:
        tell("reading the architecture", None, None, None)
        architecture = load_config(setup, offline=offline)
        tell(f"building {architecture.name} without weights", None, None, None)
        with _quiet():
            seen.base = build_base(setup, "meta", architecture=architecture)
    except StageError as error:
        seen.failure = error
        seen.model = failed_model_facts(error, setup, architecture)
        return
    base = seen.base
    inventory = Inventory(base.model)
    fresh = fresh_heads(inventory, architecture.raw.get("architectures"))
    seen.model = model_facts(
        base.model,
        architecture=architecture,
        setup=setup,
        dtype=base.dtype if base.dtype_known else None,
        inventory=inventory,
    )
    seen.quantization = quantization_facts(
        base.model, fresh_heads=fresh, dtype_known=base.dtype_known, inventory=inventory
    )
    tell("attaching the adapter", len(inventory.linears), len(inventory.linears), "linear layers")
    _prepare_and_attach(setup, seen, inventory, fresh)
    seen.notes = seen.base.notes


def _prepare_and_attach(setup: Setup, seen: StructureSeen, before: Inventory, fresh: list[str] | None) -> None:
    base = seen.base
    assert base is not None and seen.quantization is not None
    try:
        with _quiet():
            prepare(base, setup)
    except StageError as error:
        seen.failure = error
        assert seen.model is not None
        kind = "no-checkpointing" if seen.model.supports_checkpointing is False else "other"
        seen.model = seen.model.model_copy(update={"prepare_error": error.message, "prepare_error_kind": kind})
        return
    experts = float32_experts_bytes(before)
    seen.quantization = seen.quantization.model_copy(update={"float32_experts_bytes": experts})
    try:
        with _quiet():
            seen.peft_model = _attach(seen, setup)
    except Exception as error:  # whatever PEFT raises is what the user's script would see
        # `before` was taken while the base was bare; PEFT may have wrapped half of it by now.
        if isinstance(error, PatternWithoutEnd):  # which modules it names is what cannot be found out
            seen.adapter = AdapterFacts(
                attached=False, failure="endless-pattern", failure_message=first_sentence(error)
            )
        elif setup.model.adapter is None or isinstance(error, StageError):
            seen.adapter = refused_facts(error, setup, before, _config_or_none(setup), fresh)
        else:
            seen.adapter = refused_stored_facts(first_sentence(error), before)
        if setup.model.adapter is not None and isinstance(error, StageError):
            seen.failure = error
        return
    fit = stored_fit(seen.peft_model, setup, before)
    if fit.refusal is not None:
        seen.adapter, seen.peft_model = refused_stored_facts(fit.refusal, before, fit), None
        return
    targets = setup.lora.target_modules if setup.model.adapter is None else None
    targets = None if setup.lora.targets_beside_linear else targets  # added up, they are PEFT's own list
    facts = adapter_facts(
        seen.peft_model,
        asked_targets=targets,
        asked_to_save=(setup.lora.modules_to_save or []) if setup.model.adapter is None else None,
        fresh_heads=fresh,
    )
    seen.adapter = facts.model_copy(update=fit.facts())


def _attach(seen: StructureSeen, setup: Setup) -> Any:
    """Attach; where an initialisation computes with the weights' values, which meta has not, attach without it."""
    base = seen.base
    assert base is not None
    init = setup.lora.init_lora_weights
    try:
        attached = attach(base, setup)
        packed = seen.quantization is not None and bool(seen.quantization.quantized_parameters)
        if packed and isinstance(init, str) and needs_float_weights(init) and not init.startswith("loftq"):
            # With a float quant storage PEFT takes the packed bytes for the weights (LoraLayer.pissa_init).
            raise TypeError(
                f"init_lora_weights {init} decomposes packed weights, two to a byte, that are stored as floats."
            )
        return attached
    except (NotImplementedError, RuntimeError):
        if not isinstance(init, str) or needs_float_weights(init):
            raise
    seen.base = build_base(setup, "meta", architecture=base.architecture)
    seen.base.notes += [
        *base.notes,
        f"The adapter was attached without its initialisation {init!r}, which needs values.",
    ]
    prepare(seen.base, setup)
    plain = setup.lora.model_copy(update={"init_lora_weights": None})
    return attach(seen.base, setup.model_copy(update={"lora": plain}))


def _config_or_none(setup: Setup) -> Any:
    try:
        return lora_config(setup)
    except StageError:
        return None


class _quiet(warnings.catch_warnings):
    """Keep the libraries' warnings to themselves: the facts tell what they mean."""

    def __init__(self) -> None:
        super().__init__(record=True)

    def __enter__(self) -> Any:
        import logging

        entered = super().__enter__()
        warnings.simplefilter("ignore")
        self._loggers = [logging.getLogger(name) for name in ("transformers", "peft", "accelerate")]
        self._levels = [logger.level for logger in self._loggers]
        for logger in self._loggers:
            logger.setLevel(logging.ERROR)
        return entered

    def __exit__(self, *exc_info: Any) -> None:
        for logger, level in zip(self._loggers, self._levels, strict=True):
            logger.setLevel(level)
        super().__exit__(*exc_info)


__all__ = [
    "Progress",
    "StructureSeen",
    "adapter_facts",
    "fresh_heads",
    "look_at_structure",
    "model_facts",
    "quantization_facts",
]
