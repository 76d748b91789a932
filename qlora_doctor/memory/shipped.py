"""The traces that come with the package: does it fit, answered at once for the models and setups that most people take.

Each file holds the folded tapes (:mod:`.folded`) of one base with one trainer, with adapters on all linear layers or on
q, k, v and o, with or without checkpointing; all else is as ``qlora-doctor init`` writes it, in any rank. They are
those of the versions that the index names, so they answer where these or none are installed. ``make traces`` writes
them, and holds each against the live prediction.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Literal, cast

from ..tables.architectures import find_architecture
from ..tables.traces import index, read
from .folded_tapes import FoldedTapes, folded_of, takes
from .kept import Outline

if TYPE_CHECKING:
    from ..setup.setup import Setup
    from ..tables.architectures import Architecture
    from .folded import Folded
    from .machine import Machine
    from .tape import Tape

MODELS = (
    "meta-llama/Llama-3.2-1B",
    "meta-llama/Llama-3.2-3B",
    "meta-llama/Llama-3.1-8B",
    "meta-llama/Llama-3.1-70B",
    "meta-llama/Meta-Llama-3-8B",
    "meta-llama/Llama-2-7b-hf",
    "meta-llama/Llama-2-13b-hf",
    "mistralai/Mistral-7B-Instruct-v0.2",
    "mistralai/Mistral-7B-v0.3",
    "Qwen/Qwen2.5-0.5B",
    "Qwen/Qwen2.5-1.5B",
    "Qwen/Qwen2.5-3B",
    "Qwen/Qwen2.5-7B",
    "Qwen/Qwen2.5-14B",
    "Qwen/Qwen2.5-32B",
    "Qwen/Qwen3-4B",
    "Qwen/Qwen3-8B",
    "Qwen/Qwen3-14B",
    "Qwen/Qwen3-1.7B",
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
)
"""Bases that many adapters on the hub were trained on; instruct versions and mirrors come with them."""
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
"""The attention projections by their common names: fewer targets than every linear layer."""

Trainer = Literal["transformers", "trl"]
Targets = Literal["all-linear", "qkvo"]


@dataclass(frozen=True)
class Variant:
    """What a file holds."""

    model: str
    trainer: Trainer
    targets: Targets
    checkpointing: bool

    @property
    def file(self) -> str:
        """Its name."""
        base = self.model.rpartition("/")[2].lower()
        return f"{base}.{self.trainer}.{self.targets}.{'checkpointed' if self.checkpointing else 'whole'}.traces"


def variants() -> Iterator[Variant]:
    """All that come with the package."""
    for model in MODELS:
        for trainer in ("transformers", "trl"):
            for targets in ("all-linear", "qkvo"):
                for checkpointing in (True, False):
                    yield Variant(model, trainer, targets, checkpointing)


@cache
def _pieces(file: str, key: str) -> list[Folded]:
    """The tapes of a kind of machine, those of shorter lengths first."""
    document = read(file)
    return [] if document is None else [folded_of(each) for each in document["tapes"].get(key, ())]


def shipped_for(setup: Setup) -> FoldedTapes | None:
    """The tapes of this setup; None where it is none of those that were traced, or other versions are installed."""
    variant = variant_of(setup)
    if variant is None or not fits_versions():
        return None
    document = read(variant.file)
    if document is None:
        return None
    training = setup.training
    optim = str(training.optim)
    said = document["outline"]
    found = find_architecture(str(setup.model.name_or_path))
    said |= {"limit": found.context_length if found is not None else said["limit"]}
    said |= {
        "optim": optim,
        "assumptions": tuple(said["assumptions"]),
        "kinds": tuple(said.get("kinds", ())),
        "versions": index()["versions"],
    }
    return FoldedTapes(
        Outline(**said),
        partial(_pieces, variant.file),
        int(cast(int, setup.lora.r)),
        optim,
        "bf16" if training.bf16 else "fp16",
        cast(int, training.gradient_accumulation_steps),
        shipped=True,
    )


def shipped_tape(setup: Setup, machine: Machine) -> tuple[Outline, Tape] | None:
    """The tape of a setup as it stands, and its outline; None where it does not come with the package.

    Evaluations do not come with it: ask for setups without.
    """
    shipped = shipped_for(setup)
    batch, sequence = setup.training.per_device_train_batch_size, setup.training.max_length
    if shipped is None or not batch or not sequence:
        return None
    tape = shipped.tape(machine, batch, sequence)
    return None if tape is None else (replace(shipped.outline, batch=batch, sequence=sequence), tape)


@cache
def fits_versions() -> bool:
    """Whether what is installed of the packages that decide a step's memory is what was traced, but for a patch."""
    from ..core.versions import installed_versions

    traced = index()["versions"]
    return all(version.split(".")[:2] == traced[name].split(".")[:2] for name, version in installed_versions().items())


def variant_of(setup: Setup) -> Variant | None:
    """The variant that a setup is, whatever its rank, batch, length and card; None where it is another setup."""
    model = _base_of(setup)
    training, targets = setup.training, setup.lora.target_modules
    if model is None or training.trainer is None or training.gradient_checkpointing is None:
        return None
    if targets == "all-linear":
        named: Targets = "all-linear"
    elif isinstance(targets, list) and set(targets) == set(ATTENTION):
        named = "qkvo"
    else:
        return None
    if not takes(setup.lora.r, training.optim):
        return None
    variant = Variant(model, training.trainer, named, training.gradient_checkpointing)
    return variant if signature(setup) == index()["said"].get(said_key(variant, bool(training.bf16))) else None


_FREE: dict[str, tuple[str, ...]] = {
    "model": ("name_or_path", "revision"),
    "lora": ("r", "lora_alpha", "target_modules"),
    "training": (
        "per_device_train_batch_size",
        "per_device_eval_batch_size",
        "max_length",
        "optim",
        "learning_rate",
        "lr_scheduler_type",
        "warmup_steps",
        "warmup_ratio",
        "num_train_epochs",
        "max_steps",
        "seed",
        "data_seed",
        "logging_steps",
        "logging_strategy",
        "save_steps",
        "save_strategy",
        "output_dir",
        "report_to",
        "weight_decay",
    ),
    "hardware": ("gpu", "memory", "expandable_segments"),
}
"""What a tape does not depend on, or is asked for apart."""


def said_key(variant: Variant, bf16: bool) -> str:
    """Where the index has the signature of a variant's setup."""
    return f"{variant.trainer} {'checkpointed' if variant.checkpointing else 'whole'} {'bf16' if bf16 else 'fp16'}"


def signature(setup: Setup) -> dict[str, Any]:
    """What a setup says of all that a tape depends on, beside base, targets and rank."""
    sections = setup.model_dump(mode="json", exclude_none=True, include={"model", "quantization", "lora", "training",
                                                                         "hardware"})  # fmt: skip
    said: dict[str, Any] = {
        section: {name: value for name, value in values.items() if name not in _FREE.get(section, ()) and value != {}}
        for section, values in sections.items()
    }
    training = said["training"]
    if not training.get("gradient_checkpointing"):
        training.pop("gradient_checkpointing_kwargs", None)
    training["gradient_accumulation_steps"] = training.get("gradient_accumulation_steps", 1) > 1
    training["max_grad_norm"] = training.get("max_grad_norm", 1.0) > 0
    training["method"] = training.get("method") if training.get("method") != "sft" else None
    said["lora"]["lora_dropout"] = said["lora"].get("lora_dropout", 0.0) > 0
    said["changes"] = [change.model_dump(mode="json") for change in setup.changes]
    said["native"] = setup.dialect == "native"
    said["unknown"] = sorted(path for path, origin in setup.origins.items() if origin.source == "unknown")
    return said


def _base_of(setup: Setup) -> str | None:
    """The base among :data:`MODELS` whose architecture the setup's hub id has; None of a folder."""
    from ..setup.paths import resolve

    name = setup.model.name_or_path
    if not name or resolve(setup, name) is not None:
        return None
    found = find_architecture(name)
    if found is None or found.base_id not in MODELS or found.prequantized:
        return None
    base = find_architecture(found.base_id)
    assert base is not None
    return base.id if _built(base) == _built(found) else None


_WITHOUT_SIZE = ("max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id")


def _built(architecture: Architecture) -> dict[str, Any]:
    """What of a config decides a tape: its limit counts apart, and ids of tokens take no memory."""
    return {name: value for name, value in architecture.config.items() if name not in _WITHOUT_SIZE}
