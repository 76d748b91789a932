"""XTuner (before its second version): mmengine configs in Python, followed and never imported.

``model = dict(type=SupervisedFinetune, llm=dict(type=AutoModelForCausalLM.from_pretrained, …), lora=dict(…))``. What it
does with them was read in xtuner/model/sft.py, llava.py and internvl.py and xtuner/dataset/huggingface.py at b934f46
(August 2026); its older ``*_hf.py`` configs hand ``training_args`` to transformers' Trainer.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ...core.errors import ConfigError
from ...setup.setup import Setup
from ...setup.traits import Traits
from ..document import Document
from .values import Unreadable, dtype, switch, text

if TYPE_CHECKING:
    from ..python.setup_builder import SetupBuilder
    from ..python.values import Mapping, Value

name = "xtuner"
TRAITS = Traits(own_loop="XTuner", lists_linear=True)
_VERSION = "XTuner 0.2"
_OWN = re.compile(r"^[ \t]*(?:from|import)[ \t]+(?:xtuner|mmengine)\b", re.MULTILINE)
_PARTS = re.compile(r"^(?:model|llm|lora)[ \t]*=[ \t]*dict\(|\bread_base\b|^_base_[ \t]*=", re.MULTILINE)
_LAUNCH = "It is given when the run is launched."
_OPTIMIZERS = {
    "AdamW": "adamw_torch",
    "PagedAdamW32bit": "paged_adamw_32bit",
    "PagedAdamW8bit": "paged_adamw_8bit",
    "PagedAdamW": "paged_adamw_32bit",
    "AdamW8bit": "adamw_bnb_8bit",
}
_INTERNVL = "InternVL_V1_5"
_METHODS = {
    "SupervisedFinetune": "sft",
    "LLaVAModel": "sft",
    _INTERNVL: "sft",
    "DPO": "dpo",
    "RewardModel": "reward",
    "ORPO": "orpo",
}
_LLM: dict[str, Any] = {
    "pretrained_model_name_or_path": ("model.name_or_path", text),
    "trust_remote_code": ("model.trust_remote_code", None),
    "revision": ("model.revision", text),
    "attn_implementation": ("model.attn_implementation", None),
    "device_map": ("model.device_map", None),
}


def recognise(document: Document) -> float:
    """Imports of xtuner or mmengine beside ``model = dict(…)``."""
    if document.format != "text" or (document.path is not None and document.path.suffix.lower() not in (".py", "")):
        return 0.0
    if _OWN.search(document.text) is None or _PARTS.search(document.text) is None:
        return 0.0
    return 0.99 if "from_pretrained" in document.text or "read_base" in document.text else 0.5


def read(document: Document) -> Setup:
    """An XTuner config → Setup.

    Raises:
        ConfigError: it is no Python, or nested too deeply.
    """
    from ..python.hf_calls import Library
    from ..python.setup_builder import SetupBuilder
    from ..python.source import read_source

    if document.format != "text":
        raise ConfigError(f"{document.path or 'The config'} is no Python file, as an XTuner config is.")
    try:
        source = read_source(document)
        machine = Library(source.tree, source.where)
        seen = machine.run()
    except RecursionError:
        raise ConfigError(f"{document.path or 'The config'} is nested too deeply to be followed.") from None
    builder = SetupBuilder(source, name, TRAITS)
    whole = not seen.exhausted and _PARTS.search(document.text) is not None and not _has_base(document.text)
    _read(machine.module.names, builder, "" if whole else "A config that this one is built upon decides.")
    return builder.setup(_VERSION)


def _has_base(text: str) -> bool:
    return re.search(r"\bread_base\b|^_base_[ \t]*=", text, re.MULTILINE) is not None


def _read(names: dict[str, Value], builder: SetupBuilder, base: str) -> None:
    """Read the module's names; ``base`` says who decides what is absent, where it is not XTuner's default."""
    from ..python.values import Mapping

    model = names.get("model")
    if not isinstance(model, Mapping):
        why = base or "`model` is no dict that is known."
        builder.leave_rest("model", "quantization", "lora", "training", "data", why=why)
        return
    inner = model.items.get("llm")
    llm = inner if isinstance(inner, Mapping) else model
    base = base or ("" if model.exact and llm.exact else "The dict is not fully known.")
    if _class_of(model) == _INTERNVL:
        _read_internvl(model, builder, base)
    else:
        _read_llm(llm, builder, base)
    builder.leave("training.deepspeed", "training.fsdp", "hardware.count", why=_LAUNCH)
    given = model.items.get("lora", model.items.get("llm_lora", names.get("lora") if llm is model else None))
    _read_lora(given, model, builder, base)
    arguments = names.get("training_args")
    if llm is model and isinstance(arguments, Mapping):
        _read_arguments(arguments, builder)
    else:
        _read_runner(names, model, builder, base)
    why = f"{_VERSION} formats the samples by templates of its own."
    builder.leave("data.train", "data.eval", why=why)


def _read_llm(llm: Mapping, builder: SetupBuilder, base: str) -> None:
    from ..python.parts import doubt_missing_folder, read_options
    from ..python.values import Known
    from ..python.values import Mapping as Dict

    builder.head("model", llm.node)
    for key, (path, convert) in _LLM.items():
        builder.take(path, llm.items.get(key), None, convert)
    doubt_missing_folder(builder)
    by_card = f"{_VERSION} loads in bf16, or fp16 on an older GPU, where flash-attn is installed."
    written = llm.items.get("torch_dtype")
    builder.unknown("model.dtype", by_card, written.node if written is not None else None)
    builder.leave("model.attn_implementation", why="It is flash_attention_2 where flash-attn is installed.")
    options = llm.items.get("quantization_config")
    if isinstance(options, Dict):
        read_options(options, builder)
    elif base or not (options is None or (isinstance(options, Known) and options.data is None)):
        why = base or getattr(options, "why", "It is no dict that is known.")
        builder.leave_rest("quantization", why=why)
    else:
        builder.default("quantization.load_in_4bit", False, "The model is given no quantization_config.")
    if base:
        builder.leave_rest("model", why=base)
    else:
        builder.put("model.use_cache", False, None, f"{_VERSION} sets it", "dialect_default")


def _read_internvl(model: Mapping, builder: SetupBuilder, base: str) -> None:
    """``model_path``, and switches for the quantization, whose options the class has within (internvl.py)."""
    from ..python.parts import doubt_missing_folder

    own = f"{_INTERNVL} has it within"
    builder.head("model", model.node)
    builder.take("model.name_or_path", model.items.get("model_path"), None, text)
    doubt_missing_folder(builder)
    builder.put_default("model.trust_remote_code", True, own)
    builder.put_default("model.dtype", "bfloat16", own)
    builder.put_default("model.attn_implementation", "flash_attention_2", own)
    builder.put_default("model.use_cache", False, own)
    builder.put_default("training.gradient_checkpointing", True, own)
    _read_internvl_bits(model, builder, base, own)
    if base:
        builder.leave_rest("model", why=base)


def _read_internvl_bits(model: Mapping, builder: SetupBuilder, base: str, own: str) -> None:
    written = model.items.get("quantization_llm")
    llm, vision = (_switched(value, base) for value in (written, model.items.get("quantization_vit")))
    if llm is False and vision is False:
        builder.default("quantization.load_in_4bit", False, "Nothing asks the model to be quantized.")
    elif llm and vision is not None:
        builder.take("quantization.load_in_4bit", written, None, switch)
        builder.put_default("quantization.bnb_4bit_quant_type", "nf4", own)
        builder.put_default("quantization.bnb_4bit_use_double_quant", True, own)
        builder.put_default("quantization.bnb_4bit_compute_dtype", "float16", own)
        skipped = ["mlp1"] if vision else ["mlp1", "vision_model"]
        builder.put_default("quantization.llm_int8_skip_modules", skipped, own)
    else:
        only_vision = "Only the vision encoder is quantized." if llm is False and vision else ""
        builder.leave_rest("quantization", why=only_vision or base or "Whether it quantizes is not known.")


def _switched(written: Value | None, base: str) -> bool | None:
    """A switch that is off where it is absent; None where it is not known."""
    from ..python.values import Known

    if written is None:
        return None if base else False
    return bool(written.data) if isinstance(written, Known) else None


def _class_of(model: Mapping) -> str | None:
    """The model's class without its module, where it is known."""
    from ..python.values import Name

    kind = model.items.get("type")
    return kind.last if isinstance(kind, Name) else None


def _read_lora(given: Value | None, model: Mapping, builder: SetupBuilder, base: str) -> None:
    from ..python.parts import take_lora
    from ..python.values import Known
    from ..python.values import Mapping as Dict

    if isinstance(given, Dict):
        builder.head("lora", given.node)
        take_lora(given.items, {}, builder)
        if _class_of(model) == _INTERNVL:
            why = "XTuner adapts every linear layer of the language model within, and none of the vision encoder."
            builder.leave("lora.target_modules", why=why)
        if given.exact:
            note = "XTuner adapts every linear layer but the output head"
            builder.put_default("lora.target_modules", "all-linear", note)
        else:
            builder.leave_rest("lora", why="The dict is not fully known.")
        return
    if not base and (given is None or (isinstance(given, Known) and given.data is None)):
        builder.leave_rest("lora", why="The config has no lora.")
        if _class_of(model) in _METHODS:
            builder.remark("no-lora", model.node, _without_lora(model))
        return
    builder.leave_rest("lora", why=base or getattr(given, "why", "It is no dict that is known."))


def _without_lora(model: Mapping) -> str:
    """What is trained of a model without an adapter: LLaVA's and InternVL's language model may be frozen."""
    frozen = _switched(model.items.get("freeze_llm"), "")
    if frozen is None:
        return "The config has no lora."
    if frozen:
        return "The language model is frozen and has no lora: what stands around it is trained."
    return "The config has no lora: the whole model is trained."


def _read_arguments(arguments: Mapping, builder: SetupBuilder) -> None:
    """``training_args = dict(type=TrainingArguments, …)`` of an ``*_hf.py`` config."""
    from ..python.parts import TRAINING_ARGUMENTS

    builder.head("training", arguments.node)
    for key, value in arguments.items.items():
        row = TRAINING_ARGUMENTS.get(key) if isinstance(key, str) else None
        if row:
            path, convert = (row, None) if isinstance(row, str) else row
            builder.take(path, value, None, convert)
    builder.put_default("training.trainer", "transformers", "the Trainer that the config names")
    builder.put_default("training.prepare_for_kbit_training", True, "XTuner prepares the model")
    if not arguments.exact:
        builder.leave_rest("training", why="The dict is not fully known.")
    builder.leave("training.max_length", why="XTuner cuts and packs the samples itself.")


def _read_runner(names: dict[str, Value], model: Mapping, builder: SetupBuilder, base: str) -> None:
    """mmengine's own training: ``train_dataloader``, ``optim_wrapper``, ``train_cfg``."""
    loader, wrapper, loop = (_within(names, key) for key in ("train_dataloader", "optim_wrapper", "train_cfg"))
    builder.take("training.per_device_train_batch_size", loader.get("batch_size"))
    builder.take("training.dataloader_num_workers", loader.get("num_workers"))
    builder.take("training.max_length", _of_samples(loader, "max_length"))
    builder.take("training.packing", _of_samples(loader, "pack_to_max_length"), None, switch)
    builder.take("training.gradient_accumulation_steps", wrapper.get("accumulative_counts"))
    optimizer = _within(wrapper, "optimizer")
    builder.take("training.learning_rate", optimizer.get("lr"))
    builder.take("training.weight_decay", optimizer.get("weight_decay"))
    _read_optimizer(optimizer.get("type"), builder)
    builder.take("training.max_grad_norm", _within(wrapper, "clip_grad").get("max_norm"))
    builder.take("training.num_train_epochs", loop.get("max_epochs"))
    builder.take("training.max_steps", loop.get("max_iters"))
    builder.take("training.seed", _within(names, "randomness").get("seed"))
    _read_precision(wrapper, builder)
    method = _METHODS.get(_class_of(model) or "")
    if method is not None:
        builder.put("training.method", method, model.items["type"].node)
    checkpointing = "training.gradient_checkpointing"
    builder.take(checkpointing, model.items.get("use_activation_checkpointing"), None, switch)
    if not base:
        builder.put_default(checkpointing, True, f"default of {_VERSION}")
        if "optim_wrapper" in names:
            builder.put_default("training.gradient_accumulation_steps", 1, "default of mmengine's OptimWrapper")
        if builder.value("lora.r") is not None:
            builder.put_default("training.prepare_for_kbit_training", True, "XTuner prepares what it adapts")
    builder.leave_rest("training", why=base or "mmengine's training loop has no such argument.")


def _read_optimizer(kind: Value | None, builder: SetupBuilder) -> None:
    from ..python.values import Name

    if isinstance(kind, Name) and kind.last in _OPTIMIZERS:
        builder.put("training.optim", _OPTIMIZERS[kind.last], kind.node)
    elif kind is not None:
        builder.unknown("training.optim", "It is an optimizer that is not known here.", kind.node)


def _read_precision(wrapper: dict[Any, Value], builder: SetupBuilder) -> None:
    """AmpOptimWrapper trains under autocast in the dtype that it names, float16 where it names none."""
    from ..python.setup_builder import plain
    from ..python.training_script import Opaque
    from ..python.values import Name

    kind, written = wrapper.get("type"), wrapper.get("dtype")
    if not isinstance(kind, Name) or kind.last not in ("AmpOptimWrapper", "OptimWrapper"):
        return
    try:
        named = plain(written) if written is not None else None
        precision = dtype(named) if named is not None else "float16"
    except (Opaque, Unreadable):
        return
    node = written.node if written is not None else kind.node
    under_autocast = kind.last == "AmpOptimWrapper"
    builder.put("training.fp16", under_autocast and precision == "float16", node)
    builder.put("training.bf16", under_autocast and precision == "bfloat16", node)


def _of_samples(loader: dict[Any, Value], key: str) -> Value | None:
    """What the dataset says, or every part of a ConcatDataset."""
    from ..python.values import Listing, Mapping, merged

    dataset = _within(loader, "dataset")
    parts = dataset.get("datasets")
    if not isinstance(parts, Listing):
        return dataset.get(key)
    values = [part.items[key] for part in parts.items if isinstance(part, Mapping) and key in part.items]
    if not values or len(values) < len(parts.items) or not parts.exact:
        return None
    found = values[0]
    for value in values[1:]:
        found = merged(found, value, "The datasets differ.")
    return found


def _within(holder: dict[Any, Value], key: str) -> dict[Any, Value]:
    """The items of a dict within; none where it is absent or not known."""
    from ..python.values import Mapping

    value = holder.get(key)
    return value.items if isinstance(value, Mapping) else {}
