"""Values that are right alone and not together: what transformers and PEFT refuse, whatever the dialect.

A refusal of the dialect's own trainer is reported by its reader; these are those of the libraries below it, read from
utils/quantization_config.py, training_args.py and trainer.py of transformers and tuners/lora/config.py of PEFT.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...core.closest import closest
from ...facts.config import ConfigFacts, Remark
from ...setup.defaults import Libraries, Version
from ...setup.setup import Setup
from ...tables.trainer_names import OPTIMIZERS, SCHEDULERS, STRATEGIES

_QUANT_TYPES = ("fp4", "nf4")


def refused_by_libraries(setup: Setup) -> list[Remark]:
    """Combinations at which transformers or PEFT stop, each with the canonical path to change."""
    return [] if setup.traits.own_options else list(_refusals(setup))


def _refusals(setup: Setup) -> Iterator[Remark]:
    quantization, lora, training = setup.quantization, setup.lora, setup.training
    if quantization.load_in_4bit and quantization.load_in_8bit:
        note = "transformers stops: load_in_4bit and load_in_8bit exclude each other."
        yield Remark(kind="both-widths", about="quantization", key="quantization.load_in_8bit", note=note)
    kind = quantization.bnb_4bit_quant_type
    if quantization.load_in_4bit and kind is not None and kind not in _QUANT_TYPES:
        note = f"bitsandbytes stops: bnb_4bit_quant_type is nf4 or fp4, found {kind}."
        yield Remark(kind="quant-type-unknown", about="quantization", key="quantization.bnb_4bit_quant_type", note=note)
    if training.bf16 and training.fp16:
        note = "transformers stops: bf16 and fp16 exclude each other."
        yield Remark(kind="both-precisions", about="trainer", key="training.fp16", note=note)
    accumulation, batch = training.gradient_accumulation_steps, training.per_device_train_batch_size
    if accumulation is not None and accumulation < 1:
        note = f"transformers stops: gradient_accumulation_steps is {accumulation}, and it has to be 1 or more."
        yield Remark(kind="no-accumulation", about="trainer", key="training.gradient_accumulation_steps", note=note)
    if batch is not None and batch < 1:
        note = f"transformers stops: per_device_train_batch_size is {batch}, and it has to be 1 or more."
        yield Remark(kind="no-batch", about="trainer", key="training.per_device_train_batch_size", note=note)
    data, strategy = setup.data, training.eval_strategy
    if setup.dialect == "native" and data.train and data.eval is None and strategy in ("steps", "epoch"):
        note = f"transformers stops: eval_strategy is {strategy} and the trainer is given no eval_dataset."
        yield Remark(kind="evaluation-without-data", about="trainer", key="training.eval_strategy", note=note)
    yield from _unknown_names(setup)
    yield from _parts_of_steps(setup)
    if training.fsdp and training.deepspeed:
        note = "transformers stops: fsdp and deepspeed exclude each other."
        yield Remark(kind="fsdp-and-deepspeed", about="distribution", key="training.deepspeed", note=note)
    as_written = setup.traits.as_written  # others replace all-linear by names
    if as_written and lora.layers_to_transform is not None and isinstance(lora.target_modules, str):
        note = "PEFT stops: layers_to_transform needs target_modules as a list of names, not as one text."
        yield Remark(kind="layers-of-a-pattern", about="freezing", key="lora.layers_to_transform", note=note)
    if lora.layers_pattern and lora.layers_to_transform is None and not setup.is_unknown("lora.layers_to_transform"):
        note = "PEFT stops: layers_pattern needs layers_to_transform."
        yield Remark(kind="layers-pattern-alone", about="freezing", key="lora.layers_pattern", note=note)


def _unknown_names(setup: Setup) -> Iterator[Remark]:
    """An optimizer or a schedule that TrainingArguments do not know by that name."""
    own = setup.traits.more_optimizers
    if not setup.traits.checks_names:
        return
    kinds = [("optim", OPTIMIZERS | own, "optimizer")]
    if not own:  # it has schedules of its own
        kinds.append(("lr_scheduler_type", SCHEDULERS, "schedule"))
    for field, names, what in kinds:
        written = getattr(setup.training, field)
        if isinstance(written, str) and written not in names:
            near = closest(written, sorted(names))
            meant = f"; the nearest is {near[0]}" if near else ""
            reader = setup.dialect.removeprefix("shell-") if own else "transformers"
            note = f"{reader} stops: {field} is {written}, and it knows no {what} of that name{meant}."
            yield Remark(kind=f"{what}-unknown", about="trainer", key=f"training.{field}", note=note)
    for field in ("eval_strategy", "save_strategy", "logging_strategy"):
        written, names = getattr(setup.training, field), STRATEGIES | ({"best"} if field == "save_strategy" else set())
        if isinstance(written, str) and written not in names:
            note = f"transformers stops: {field} is {written}, and it is one of {', '.join(sorted(names))}."
            yield Remark(kind="strategy-unknown", about="trainer", key=f"training.{field}", note=note)


def _parts_of_steps(setup: Setup) -> Iterator[Remark]:
    """An interval is a whole number of steps, or a part of the run below 1 (TrainingArguments.__post_init__)."""
    training = setup.training
    for field, strategy, silent in (
        ("logging_steps", training.logging_strategy, "steps"),
        ("save_steps", training.save_strategy, "steps"),
        ("eval_steps", training.eval_strategy, "no"),
    ):
        written = getattr(training, field)
        if written is None or (strategy or silent) != "steps" or setup.is_unknown(f"training.{field[:-6]}_strategy"):
            continue
        if written > 1 and written != int(written):
            note = f"transformers stops: {field} is {written:g}, and above 1 it has to be a whole number."
            yield Remark(kind="interval-with-a-fraction", about="trainer", key=f"training.{field}", note=note)


# -- several processes

_MATCHED = (
    ("train_micro_batch_size_per_gpu", "training.per_device_train_batch_size"),
    ("gradient_accumulation_steps", "training.gradient_accumulation_steps"),
    ("gradient_clipping", "training.max_grad_norm"),
    ("optimizer.params.lr", "training.learning_rate"),
    ("optimizer.params.weight_decay", "training.weight_decay"),
    ("scheduler.params.warmup_max_lr", "training.learning_rate"),
    ("fp16.enabled", "training.fp16"),
    ("bf16.enabled", "training.bf16"),
)
"""Values of a DeepSpeed file that have to be "auto" or what TrainingArguments say (integrations/deepspeed.py)."""


def deepspeed_mismatches(setup: Setup, settings: Mapping[str, Any] | None, get: Any) -> Iterator[Remark]:
    """Where a DeepSpeed file and the trainer's arguments say different things, at which transformers stops.

    Args:
        settings: the file's content; None where it is not here.
        get: canonical path → value, with the trainer's default where the config is silent; None where it is unknown.
    """
    if settings is None or setup.traits.own_options:
        return
    different = []
    for name, path in _MATCHED:
        written: Any = settings
        for part in name.split("."):
            written = written.get(part) if isinstance(written, Mapping) else None
        taken = get(path)
        text = f'the text "{written}"' if isinstance(written, str) else written
        if isinstance(written, bool | int | float | str) and taken is not None and written not in ("auto", taken):
            different.append(f"{name} is {text}, and {path.partition('.')[2]} {taken}")
    if different:
        note = f"transformers stops: the DeepSpeed settings differ from the trainer's: {'; '.join(different)}."
        yield Remark(kind="deepspeed-differs", about="distribution", key="training.deepspeed", note=note)


def distribution_facts(setup: Setup, facts: ConfigFacts) -> dict[str, Any]:
    """What the way of distribution makes of the other settings.

    Args:
        facts: those of the config that are known already.
    """
    return {
        "several_processes": _several_processes(setup, facts.distributed),
        "find_unused_parameters": _finds_unused(setup),
        "flattened_dtypes": _flattened_dtypes(facts),
    }


def _several_processes(setup: Setup, distributed: str | None) -> bool | None:
    """True where the config itself asks for a distributed run, not only for several cards."""
    training = setup.training
    if distributed not in (None, "none", "ddp") or any(name.startswith("ddp_") for name in training.extra):
        return True
    written = training.ddp_find_unused_parameters
    # False alone stands in many files of single cards; beside several cards it is meant.
    if written or (distributed == "ddp" and _is_explicit(setup, "training.ddp_find_unused_parameters")):
        return True
    return None if distributed is None or setup.is_unknown("training.ddp_find_unused_parameters") else False


def _is_explicit(setup: Setup, path: str) -> bool:
    origin = setup.origins.get(path)
    return origin is not None and origin.source == "explicit"


def _finds_unused(setup: Setup) -> bool | None:
    """``find_unused_parameters`` of DistributedDataParallel, with the Trainer's own answer where the file is silent.

    Trainer turns it off for a PreTrainedModel that checkpoints; a PeftModel is none, and for all else it is on.
    """
    if setup.is_unknown("training.ddp_find_unused_parameters"):
        return None
    written = setup.training.ddp_find_unused_parameters
    if written is not None or setup.traits.own_options:
        return written
    return setup.traits.searches_unused


def _flattened_dtypes(facts: ConfigFacts) -> list[str] | None:
    """Dtypes that meet in one decoder layer of a 4-bit base, which FSDP 1 lays into one flat tensor."""
    if facts.distributed != "fsdp1" or facts.four_bit is False:
        return [] if facts.distributed is not None else None
    norms = "float32" if facts.prepare_for_kbit_training else facts.model_dtype
    stored = facts.storage_dtype
    if facts.four_bit is None or facts.prepare_for_kbit_training is None or norms in (None, "auto"):
        return None
    if stored is None or not str(stored).startswith(("float", "bfloat")):
        return [] if stored is not None else None
    return sorted({stored, norms})


_OPTIONS_OF = {"loftq_config": "loftq", "eva_config": "eva", "corda_config": "corda", "lora_ga_config": "lora_ga"}
"""Options of LoraConfig that belong to one initialisation each."""


def idle_initialisation_options(setup: Setup) -> list[str]:
    """Options of an initialisation that is not the one asked for; PEFT warns and leaves them out."""
    asked = str(setup.lora.init_lora_weights).lower()
    if not setup.traits.as_written or setup.is_unknown("lora.init_lora_weights"):
        return []
    return [name for name, init in _OPTIONS_OF.items() if setup.lora.extra.get(name) and not asked.startswith(init)]


# -- one trainer's options against each other


def training_facts(setup: Setup, facts: ConfigFacts, libraries: Libraries) -> dict[str, Any]:
    """What options of the trainer bring about together.

    Args:
        facts: those of the config that are known already.
        libraries: the installed versions.
    """
    targeted, loss = _head_targeted(facts.target_modules), _head_loss(setup, facts, libraries)
    return {
        "samples_mix": _samples_mix(setup, facts, libraries),
        "loss_mask_lost": _loss_mask_lost(setup, facts, libraries),
        "head_targeted": targeted,
        "head_loss": loss,
        "idle_initialisation_options": idle_initialisation_options(setup),
        "head_refused": None if targeted is None or loss is None else targeted and loss == "trl",
    }


_VARLEN = ("flash_attention", "flex_attention", "xformers", "sage", "kernels-community/")
"""Attention that takes the borders of samples as they are."""
_ONE_ATTENTION = "attention"


def _samples_mix(setup: Setup, facts: ConfigFacts, libraries: Libraries) -> str | None:
    """How samples that lie in one row come to see each other: ``none`` where they do not; None where it is unknown.

    From trl 0.24 on the collator hands over position ids and no mask, from which transformers 4.53 and later separate
    the samples in every attention of their own (masking_utils.py, find_packed_sequence_indices).
    """
    packs, flat = facts.packing, facts.padding_free
    if packs is False and not flat:
        return "none" if flat is False else None
    attention = facts.attn_implementation
    varlen = str(attention).startswith(_VARLEN)
    if setup.traits.packs_apart == "attention":
        return "none" if varlen or attention in ("sdpa", "eager") else _ONE_ATTENTION
    if setup.traits.packs_apart == "trainer":
        joined = setup.says("packing-joins-samples")
        return "trainer" if joined else "none"
    if facts.trainer != "trl" or not setup.traits.as_written:
        return "none" if facts.trainer == "transformers" and setup.dialect == "native" else None
    if packs is None or flat is None or libraries.trl is None or libraries.transformers is None:
        return "wrapped" if packs and setup.training.extra.get("packing_strategy") == "wrapped" else None
    if packs and _strategy(setup, libraries.trl) == "wrapped":
        return "wrapped"
    if libraries.trl >= (0, 24) and libraries.transformers >= (4, 53):
        return "none" if varlen or attention in (None, "sdpa", "eager") else None
    if setup.is_unknown("model.attn_implementation"):
        return None
    return "none" if str(attention).startswith("flash_attention") else _ONE_ATTENTION


def _strategy(setup: Setup, trl: Version) -> str:
    """``packing_strategy``, with trl's default: up to 0.18 there was one way only."""
    return str(setup.training.extra.get("packing_strategy") or ("wrapped" if trl < (0, 19) else "bfd"))


def _loss_mask_lost(setup: Setup, facts: ConfigFacts, libraries: Libraries) -> str | None:
    """Why ``completion_only_loss`` does not keep the loss to completions: ``format``, ``packing``, ``liger``, ``none``.

    trl 0.17 to 0.19 kept ``input_ids`` alone when packing or with Liger (sft_trainer.py, _prepare_dataset). Every
    version masks by the columns prompt and completion, and says nothing where there are none.
    """
    asked, format_ = setup.training.completion_only_loss, setup.data.format
    if any(setup.is_unknown(path) for path in ("training.completion_only_loss", "data.format")):
        return None
    if facts.trainer != "trl" or asked is False or not (asked or format_ == "prompt-completion"):
        return "none" if facts.trainer is not None else None
    if format_ in ("text", "messages"):
        return "format"
    if libraries.trl is None:
        return None
    if (0, 17) <= libraries.trl < (0, 20):
        return "packing" if facts.packing else "liger" if facts.liger else "none"
    return "none"


_HEADS = ("lm_head", "embed_out", "output_layer")
_DOTTED = tuple(f".{name}" for name in _HEADS)


def _head_targeted(targets: list[str] | None) -> bool | None:
    """True where target_modules names the output head, or a pattern matches it."""
    return None if targets is None else any(name in _HEADS or name.endswith(_DOTTED) for name in targets)


def _head_loss(setup: Setup, facts: ConfigFacts, libraries: Libraries) -> str | None:
    """Which loss reads the head's weight past its adapter: ``liger``, ``trl`` (it refuses by itself), or ``logits``.

    trl from 1.8 on computes the loss in chunks from the weight unless ``loss_type: nll`` or Liger is set, and refuses
    an adapter there; from 1.15 on there is no other way. Liger's fused loss does the same and says nothing.
    """
    liger, fused = facts.liger, setup.training.extra.get("liger_kernel_config")
    if isinstance(fused, dict) and fused.get("fused_linear_cross_entropy") is False:
        liger = False
    if facts.trainer != "trl":
        return None if liger is None or facts.trainer is None else "liger" if liger else "logits"
    if libraries.trl is None or setup.is_unknown("training.loss_type"):  # Unsloth has a loss of its own
        return None
    if libraries.trl >= (1, 15):
        return "trl"
    if liger is None or (not liger and (1, 4) < libraries.trl < (1, 8)):
        return None
    chunks = libraries.trl >= (1, 8) and setup.training.loss_type in (None, "chunked_nll")
    return "liger" if liger else "trl" if chunks else "logits"
