"""Which runs the prediction is for: what changes the peak and is not modelled leaves no figure, only the reason.

A figure without its method's reference model, its kernels or its sharding is not rough, it is wrong: measured steps of
preference training lie 10 to 40% above one of plain fine-tuning, fused losses up to 75% below it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ..setup.distribution import deepspeed_settings, zero_settings
from ..setup.resolved import Taken
from ..setup.setup import SUPERVISED
from .engine_options import ZeroOptions
from .generated_evaluation import unmodelled_generation
from .kept_outputs import kept_outputs_of
from .kernel_switches import LIGER_SWITCHES, LORA_SWITCHES, LigerKernels, LoraKernels, Unsloth

if TYPE_CHECKING:
    from ..facts import Facts
    from ..setup.setup import Setup

METHODS = frozenset({*SUPERVISED, "dpo", "ipo", "kto", "reward", "orpo", "cpo", "simpo", "grpo", "rloo"})
"""Methods whose step is traced."""
_MORE = {
    "context_parallel_size": "context parallelism",
    "sequence_parallel_size": "sequence parallelism",
    "sequence_parallel_degree": "sequence parallelism",
    "tensor_parallel_size": "tensor parallelism",
    "dp_shard_size": "sharding over dp_shard_size ranks",
    "dp_replicate_size": "replication over dp_replicate_size groups",
    "parallelism_config": "what parallelism_config spreads over devices",
    "auto_find_batch_size": "a batch that the trainer searches for (auto_find_batch_size)",
    "use_unsloth": "Unsloth's kernels",
}


_SFT_LOSSES = (None, "nll", "chunked_nll")
_RANKS = "What a rank holds depends on how many there are, which the config does not say; --gpu 2xrtx-4090 says two."


def unmodelled(setup: Setup, facts: Facts) -> str | None:
    """Why a run's peak is not predicted, one sentence; None where all that is known of it is modelled."""
    packed = facts.quantization.packed_factors if facts.quantization is not None else None
    if packed:
        return f"There is no step to predict: the model multiplies by the packed weight of {packed[0]} and stops."
    left_out = list(dict.fromkeys(_left_out(setup, facts)))
    if left_out:
        listed = left_out[0] if len(left_out) == 1 else f"{', '.join(left_out[:-1])} and {left_out[-1]}"
        return f"The prediction does not cover {listed}, which the peak depends on."
    config = facts.config
    if config is not None and config.launch == "alone" and (config.visible_cards or 1) > 1:
        return _of_one_process(config.visible_cards, config.batch)
    if (setup.training.fsdp or setup.training.deepspeed) and Taken(setup)["hardware.count"] < 2:
        return _RANKS
    return _unknown(setup)


def _of_one_process(cards: int | None, batch: int | None) -> str:
    """Why there is no figure for a process that sees several cards."""
    asked = "" if batch is None or cards is None else f", {cards} × {batch} samples"
    return (
        f"One process sees {cards} cards, and its first card takes the batches of all{asked}: check the run as it is "
        "with one card shown (CUDA_VISIBLE_DEVICES=0), or started by a launcher."
    )


def unmodelled_model(model: Any, setup: Setup) -> str | None:
    """Why a built model's step is not predicted, one sentence; None where its batches are made here.

    Args:
        model: the (PEFT) model.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    name = type(base).__name__
    for end, what in _HEADS.items():
        if name.endswith(end):
            return f"The prediction does not cover {what}."
    whole = setup.quantization.bnb_4bit_quant_storage in (None, "uint8")
    if setup.training.fsdp and whole and not getattr(base.config.get_text_config(), "tie_word_embeddings", False):
        return (
            "The prediction does not cover FSDP 2 with 4-bit weights stored as integers beside a head that is not "
            "tied: what is reserved was 11% too high."
        )
    left_out = unmodelled_generation(model, setup) or _unfit(model, setup)
    if left_out is not None:
        return f"The prediction does not cover {left_out}, which the peak depends on."
    if LigerKernels.of(setup, False) is not None and base.config.model_type not in LIGER_FAMILIES:
        return f"The prediction does not cover the Liger kernels in a model of type {base.config.model_type}."
    towers = [word for field, word in _TOWERS.items() if getattr(base.config, field, None) is not None]
    if getattr(base, "main_input_name", None) in ("input_features", "input_values"):
        towers.append("audio")
    if towers == ["images"] and setup.data.format is None:
        return _images(model, setup)
    if towers and setup.data.format is None:
        listed = " and ".join(dict.fromkeys(towers))
        return f"The prediction does not cover {listed} in the batches, which the peak of {name} depends on."
    return None


LIGER_FAMILIES = frozenset({"llama", "ministral", "mistral", "qwen2", "qwen3", "smollm3"})
"""Model types whose decoder layers take the plain form of each of Liger's kernels (:mod:`.liger`)."""


def _unfit(model: Any, setup: Setup) -> str | None:
    """What keeps axolotl's LoRA kernels or Unsloth's, where a run has some, from being restated for a model."""
    kernels = LoraKernels.of(setup)
    if Unsloth.of(setup) is not None:
        from . import unsloth

        return unsloth.unfit(model)
    if kernels is None:
        return None
    from .lora_kernels import unfit

    return unfit(model, kernels)


def _images(model: Any, setup: Setup) -> str | None:
    """Why batches with images are not made; None where they are."""
    from .images import NoPictures, pictures_of

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if setup.training.method not in SUPERVISED:
        of, method = type(base).__name__, setup.training.method
        return f"The prediction does not cover images in the batches of {method}, which the peak of {of} depends on."
    try:
        pictures_of(model, setup)
    except NoPictures as error:
        return f"The prediction does not cover {error}, which the peak depends on."
    return None


_HEADS = {
    "ForQuestionAnswering": "batches that mark an answer's first and last token",
    "ForMultipleChoice": "batches of several choices a sample",
}
_TOWERS = {"vision_config": "images", "audio_config": "audio", "speech_config": "audio"}
"""Parts of a model's config that stand for a tower beside the text model."""


def _left_out(setup: Setup, facts: Facts) -> Iterator[str]:
    """What changes the peak and is not modelled, as the subject of a sentence."""
    training, config = setup.training, facts.config
    if setup.traits.own_loop is not None:
        yield f"{setup.traits.own_loop}'s own training loop"
    known = {*LORA_SWITCHES, *LIGER_SWITCHES, "unsloth", "unsloth-offloading"}
    for kernels in training.kernels or ():
        if kernels not in known:
            yield f"the code that {kernels} switches on"
    if Unsloth.of(setup) is not None:
        yield from _unsloth(setup)
    if LoraKernels.of(setup) is not None:
        if training.method not in SUPERVISED:
            yield f"axolotl's LoRA kernels in the method {training.method}"
        elif training.fsdp or training.deepspeed:
            yield "axolotl's LoRA kernels in a sharded model"
    if training.method not in METHODS:
        yield f"the method {training.method}"
    elif training.method is None and training.num_generations is not None and setup.is_unknown("training.method"):
        yield "a method that generates, of which the file does not say which it is"
    if training.method in SUPERVISED and training.loss_type not in _SFT_LOSSES:
        yield f"the loss {training.loss_type} of supervised fine-tuning"
    if training.compute_metrics and config is not None and config.evaluates is not False:
        yield from _kept(setup)
    if setup.quantization.backend not in (None, "bitsandbytes"):
        yield f"a base quantized by {setup.quantization.backend}"
    elif setup.quantization.load_in_8bit:
        yield "bitsandbytes' 8-bit layers"
    liger = LigerKernels.of(setup, fuses_head=False)
    if liger is not None:
        yield from _liger(setup, liger)
    if training.torch_compile:
        yield "torch.compile"
    distributed = config.distributed if config is not None else None
    if training.fsdp and not shards_plainly(setup, facts):
        yield _SHARDED.get(distributed or "", "FSDP")
    if training.deepspeed:
        yield from _zero(setup, facts)
    if training.method in ("grpo", "rloo"):
        yield from _generating(setup, facts)
    if training.padding_free and Taken(setup).trainer == "trl" and not training.packing:
        yield "padding_free batches"
    yield from _spread(setup, facts)
    told = training.extra
    if told.get("activation_offloading") and not offloads_plainly(setup):
        yield "activations that are moved to host memory (activation_offloading)"
    for name, what in _MORE.items():
        if _on(told.get(name)):
            yield what


def _unsloth(setup: Setup) -> Iterator[str]:
    """What of Unsloth's code is not restated; which models it is restated for is seen when one is built."""
    training, taken = setup.training, Taken(setup)
    if setup.dialect != "python":
        yield f"Unsloth's kernels as {setup.dialect} uses them"
    elif taken.trainer != "trl" or training.method not in (None, "sft"):
        yield "Unsloth's kernels but by trl's SFTTrainer"
    elif training.packing or training.padding_free is False:
        yield "Unsloth's kernels with packed or padded batches"
    elif (
        setup.lora.lora_dropout or setup.lora.use_dora or taken.precision == "no" or not setup.quantization.load_in_4bit
    ):
        yield "Unsloth's kernels but for 4-bit models in 16 bits without dropout and DoRA"
    elif training.fsdp or training.deepspeed or training.torch_compile:
        yield "Unsloth's kernels in a sharded or compiled model"


def _kept(setup: Setup) -> Iterator[str]:
    """What evaluations with compute_metrics keep, as far as it is not modelled."""
    training = setup.training
    if training.extra.get("predict_with_generate"):
        return  # the answers are what is kept, a few whole numbers
    sharded = training.fsdp or training.deepspeed
    if training.method not in SUPERVISED or training.use_liger_kernel or sharded:
        yield "evaluations that keep all outputs for compute_metrics, of such a kind"
        return
    kept = kept_outputs_of(setup)
    if kept is None or (kept.rows is None and kept.accumulated is None):
        yield "evaluations that keep all logits for compute_metrics, of rows that are not counted here"


def _generating(setup: Setup, facts: Facts) -> Iterator[str]:
    """What of a method whose answers the model writes itself is not modelled."""
    training = setup.training
    if training.use_vllm:
        yield "vLLM beside the training"
    if _on(training.extra.get("use_transformers_paged")) or training.extra.get("use_transformers_continuous_batching"):
        yield "continuous batching"
    if facts.config is not None and facts.config.evaluates:
        yield "an evaluation that generates"


def _liger(setup: Setup, kernels: LigerKernels) -> Iterator[str]:
    """What of Liger's kernels is not restated; which models they are restated for is seen when one is built."""
    training = setup.training
    told = training.extra.get("liger_kernel_config")
    if not (setup.traits.switches_of_transformers or setup.traits.liger_by_plugin):
        yield f"the Liger kernels as {setup.dialect} applies them"
    elif training.method not in SUPERVISED:
        yield f"the Liger kernels in the method {training.method}"
    elif told is not None and not isinstance(told, dict):
        yield "the Liger kernels that liger_kernel_config chooses"
    elif kernels.cross_entropy:
        yield "Liger's cross entropy"
    elif training.fsdp or training.deepspeed:
        yield "the Liger kernels in a sharded model"


def shards_plainly(setup: Setup, facts: Facts) -> bool:
    """Whether a run is sharded by FSDP over its ranks as it is modelled: by transformers' Trainer or trl's for
    supervised fine-tuning (FSDP 2: and DPO), with non-reentrant checkpointing, without offloading; FSDP 1 with packed
    weights stored as floats, which it needs, and without prefetching in the forward pass.

    Where FSDP 2 leaves packed weights whole (uint8) beside embeddings and a head of their own, see
    :func:`unmodelled_model`.
    """
    config, settings, training = facts.config, setup.training.fsdp_config, setup.training
    if config is None or not isinstance(settings, dict):
        return False
    options = {name.removeprefix("fsdp_"): value for name, value in settings.items()}
    if config.distributed == "fsdp1":
        alike = (
            training.method in SUPERVISED
            and setup.quantization.bnb_4bit_quant_storage in ("bfloat16", "float16", "float32")
            and not _on(options.get("forward_prefetch"))
            and not _on(options.get("min_num_params"))
            and "full_shard" in str(training.fsdp)
        )
    else:
        alike = config.distributed == "fsdp2" and training.method in (*SUPERVISED, "dpo")
    return (
        alike
        and bool(config.gradient_checkpointing)
        and config.use_reentrant is False
        and not options.get("offload_params")
        and not options.get("cpu_offload")
        and "offload" not in str(training.fsdp)
        and options.get("reshard_after_forward", True) in (True, "FULL_SHARD", "full_shard")
    )


_SHARDED = {
    "fsdp1": "FSDP 1 but for supervised fine-tuning with full_shard, non-reentrant checkpointing and 4-bit weights "
    "stored as floats, without offloading",
    "fsdp2": "FSDP 2 but for supervised fine-tuning and DPO with non-reentrant checkpointing, without offloading",
}
"""What is not modelled where :func:`shards_plainly` says no."""


def _zero(setup: Setup, facts: Facts) -> Iterator[str]:
    """What of DeepSpeed is not modelled: all but ZeRO-2 by transformers' Trainer or trl's, within bounds."""
    config, settings = facts.config, zero_settings(setup)
    whole, options = deepspeed_settings(setup), ZeroOptions.of(settings)
    stage = config.distributed if config is not None else None
    if config is None or whole is None or stage != "zero2":
        yield "DeepSpeed ZeRO-3" if stage == "zero3" else "DeepSpeed"
    elif not (
        setup.training.method in (*SUPERVISED, "dpo")
        and bool(Taken(setup)["training.bf16"])
        and bool(config.gradient_checkpointing)
        and settings.get("contiguous_gradients", True) is True
        and not any(str(name).startswith("offload") and value for name, value in settings.items())
        and "optimizer" not in whole
        and options is not None
    ):
        yield (
            "DeepSpeed ZeRO-2 but for supervised fine-tuning and DPO in bfloat16 with checkpointing, without "
            "offloading and an optimizer of DeepSpeed's own"
        )
    elif not options.is_small and Taken(setup)["training.gradient_accumulation_steps"] > 1:
        yield "DeepSpeed ZeRO-2 with accumulated batches and a large bucket (reduce_bucket_size; auto is covered)"


def offloads_plainly(setup: Setup) -> bool:
    """Whether activations go to the host as trl's own trainers move them, in a model that is not sharded."""
    training = setup.training
    return (
        Taken(setup).trainer == "trl"
        and setup.traits.switches_of_transformers
        and training.method in (None, "sft", "dpo", "kto", "reward")
        and not training.fsdp
        and not training.deepspeed
    )


def seen_cards(setup: Setup, facts: Facts) -> int | None:
    """Cards of this machine that one process would see, where the run is meant for them and nothing says how many."""
    environment, hardware = facts.environment, setup.hardware
    origin = setup.origins.get("hardware.count")
    counted = hardware.count is not None and (origin is None or origin.source != "dialect_default")
    if environment is None or counted or hardware.gpu is not None or hardware.memory is not None:
        return None
    return len(environment.gpus or ())


def _spread(setup: Setup, facts: Facts) -> Iterator[str]:
    """A model that is spread over several devices by its device map."""
    device_map = setup.model.device_map
    devices = {str(place) for place in device_map.values()} if isinstance(device_map, dict) else set()
    if len(devices) > 1:
        yield "a device_map over several devices"
    elif (
        isinstance(device_map, str)
        and device_map in ("auto", "balanced", "balanced_low_0", "sequential")
        and max(Taken(setup)["hardware.count"], seen_cards(setup, facts) or 1) > 1
    ):
        yield f"device_map {device_map!r} over several cards"


def _on(value: Any) -> bool:
    """Whether a switch or a number of devices says more than the usual."""
    return value > 1 if isinstance(value, int) and not isinstance(value, bool) else bool(value)


_DECISIVE: dict[str, Callable[[Setup], Any]] = {
    "training.per_device_train_batch_size": lambda setup: setup.training.per_device_train_batch_size,
    "training.gradient_checkpointing": lambda setup: setup.training.gradient_checkpointing,
    "quantization.load_in_4bit": lambda setup: setup.quantization.load_in_4bit,
    "lora.r": lambda setup: setup.lora.r,
}
"""Values that a peak follows from in its first digit."""


def _unknown(setup: Setup) -> str | None:
    """What decides the peak and is known to be set somewhere that was not read."""
    for path, value in _DECISIVE.items():
        if path == "lora.r" and setup.model.adapter is not None:
            continue  # the stored adapter is what is built
        if setup.is_unknown(path) and value(setup) is None:
            why = setup.origins[path].note or "It cannot be known from this file."
            return f"The peak depends on {path.partition('.')[2]}, which is not known here: {why}"
    return None
