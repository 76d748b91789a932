"""A script's parts → sections of a Setup: the load, its quantization, the adapter, the samples."""

from __future__ import annotations

import ast
from typing import Any

from ...core.versions import version_tuple
from ...setup.paths import looks_like_path, resolve
from ...setup.setup import Lora, Quantization, Setup
from ...tables import known_arguments
from ..dialects.llamafactory import HF_ARGUMENTS
from ..dialects.trl import SFT_ARGUMENTS
from ..dialects.values import dtype, name_list, storage_dtype, switch, targets, text
from .hf_calls import AUTO_PEFT, QUANTIZERS, UNSLOTH
from .keywords import versions_of_the_project
from .setup_builder import SetupBuilder
from .training_script import Opaque, TrainingScript, argument, flat
from .values import Known, Listing, Made, Mapping, Unknown, Value

_OF_THE_CLI = ("dataset_name", "use_cache")  # of TRL's command line, and no arguments of its classes
TRAINING_ARGUMENTS = {k: row for k, row in {**HF_ARGUMENTS, **SFT_ARGUMENTS}.items() if k not in _OF_THE_CLI}
"""Name of an argument of TrainingArguments or SFTConfig → canonical path, with a conversion."""
NUMERICS = ("adam_beta1", "adam_beta2", "adam_epsilon", "optim_args", "activation_offloading", "packing_strategy",
            "metric_for_best_model", "greater_is_better", "eos_token", "pad_token", "dataset_kwargs",
            "max_completion_length")  # fmt: skip
"""Further arguments that change what a step computes or takes."""
NOT_GIVEN = "from_pretrained is given no quantization_config."
_CONVERTED = {
    "bnb_4bit_compute_dtype": dtype,
    "bnb_4bit_quant_storage": storage_dtype,
    "llm_int8_skip_modules": name_list,
}
_LOAD: dict[str, Any] = {
    "revision": ("model.revision", text),
    "torch_dtype": ("model.dtype", dtype),
    "dtype": ("model.dtype", dtype),
    "attn_implementation": ("model.attn_implementation", None),
    "trust_remote_code": ("model.trust_remote_code", None),
    "device_map": ("model.device_map", None),
    "use_cache": ("model.use_cache", None),
    "num_labels": ("model.num_labels", None),
}
_SWITCHED = {"load_in_4bit": "quantization.load_in_4bit", "load_in_8bit": "quantization.load_in_8bit"}
_BUILT = (
    "CausalLM", "SequenceClassification", "LMHeadModel", "ConditionalGeneration", "ImageTextToText", "Vision2Seq",
    "VisionText2Text", "Seq2SeqLM", "SpeechSeq2Seq", "MultimodalLM", "TokenClassification", "MultipleChoice",
    "QuestionAnswering", "model",
)  # fmt: skip
"""Ends of the names of classes that the stages build; ``model`` is one that the trainer loads."""
_IMAGES = {"FastVisionModel"}
_SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
_BY_UNSLOTH = "Unsloth picks it by the GPU."
_UNSLOTH_LORA: dict[str, Any] = {
    "r": 16,
    "lora_alpha": 16,
    "lora_dropout": 0.0,
    "target_modules": _SEVEN,
    "bias": "none",
    "use_rslora": False,
    "task_type": "CAUSAL_LM",
}
_OPTIONS = frozenset(Quantization.model_fields) - {"load_in_4bit", "load_in_8bit", "backend", "extra"}


def place_of(call: Made, name: Any) -> ast.AST | None:
    """Where an argument is passed; the call itself where that is not known."""
    return call.places.get(name, call.node)


def read_load(script: TrainingScript, builder: SetupBuilder) -> None:
    """``model``: what from_pretrained is given, and what is set on the model's config afterwards."""
    model = script.model
    load = model.load if model is not None else None
    if model is None or load is None:
        several = len(script.seen.models) > 1
        why = "Which of several models is trained was not found." if several else "No load of a model was found."
        why = model.touched if model is not None and model.touched else why
        builder.leave_rest("model", why=why)
        return
    builder.head("model", load.node)
    _read_name(load, builder)
    if script.unfolded is not None:
        note = "The folder holds an adapter, of which this is the base."
        builder.put("model.name_or_path", script.unfolded, load.node, note)
    elif load.maker in AUTO_PEFT:
        builder.unknown("model.name_or_path", "The adapter's own adapter_config.json names its base.", load.node)
    for name, (path, convert) in _LOAD.items():
        if not builder.knows(path):
            builder.take(path, load.arguments.get(name), place_of(load, name), convert)
    problem = load.arguments.get("problem_type")
    if problem is not None:
        builder.extra("model", "problem_type", problem)
    flash = load.arguments.get("use_flash_attention_2")
    if isinstance(flash, Known) and flash.data and not builder.knows("model.attn_implementation"):
        builder.put("model.attn_implementation", "flash_attention_2", place_of(load, "use_flash_attention_2"))
    cache = model.config.arguments.get("use_cache")
    if cache is not None:
        builder.take("model.use_cache", cache, place_of(model.config, "use_cache"))
    if "config" in load.arguments:
        builder.leave(
            "model.use_cache", "model.num_labels", why="The config that is passed to from_pretrained decides."
        )
    if load.maker.endswith("ForSequenceClassification"):
        builder.put("model.task", "sequence-classification", load.node)
    elif load.maker in _IMAGES:
        builder.put("model.task", "image-text-to-text", load.node)
    elif load.maker not in UNSLOTH and load.maker.endswith(_BUILT[:-1]) and "Liger" not in load.maker:
        builder.put("model.model_class", load.maker.replace("AutoPeft", "Auto"), load.node)
    if load.maker in UNSLOTH:
        builder.leave("model.dtype", "model.attn_implementation", "model.device_map", why=_BY_UNSLOTH)
    if not load.exact:
        builder.leave_rest("model", why=load.why)
    _read_adapter_folder(script, builder)


def _read_name(load: Made, builder: SetupBuilder) -> None:
    names = ("pretrained_model_name_or_path", "model_name", "model_name_or_path", "model_id", 0)
    name = next((each for each in names if each in load.arguments), None)
    if name is None:
        builder.unknown("model.name_or_path", load.why or "The model's name was not found.", load.node)
        return
    value, place = load.arguments[name], place_of(load, name)
    if load.maker not in UNSLOTH and not load.maker.endswith(_BUILT):
        builder.unknown("model.name_or_path", f"{load.maker} loads it, which is built by no stage here.", place)
        return
    builder.take("model.name_or_path", value, place, text)
    builder.leave("model.name_or_path", why="None is passed for its name.")
    doubt_missing_folder(builder)
    if {"subfolder", "gguf_file"} & load.arguments.keys():
        builder.unknown("model.name_or_path", "A part of the repository is loaded.", place)


def doubt_missing_folder(builder: SetupBuilder) -> None:
    """A folder that is not here may be made by the script, or is one of the machine on which it runs."""
    written = builder.value("model.name_or_path")
    if written is not None and looks_like_path(written) and resolve(Setup(file=builder.source.file), written) is None:
        builder.doubt("model.name_or_path", f"{written} is no folder here; the script may make it, or runs elsewhere.")


def _read_adapter_folder(script: TrainingScript, builder: SetupBuilder) -> None:
    """``PeftModel.from_pretrained(model, folder)`` before the training goes on from an adapter."""
    for step in [script.continued] if script.continued is not None else []:
        folder = argument(step.call, "model_id", 1)
        if step.call.maker == "load_adapter":
            folder = argument(step.call, "pretrained_model_name_or_path", 0) if script.unfolded else None
            folder = folder or argument(step.call, "model_id", 0) or argument(step.call, "peft_model_id", 0)
        trainable = step.call.arguments.get("is_trainable")
        if folder is None or not step.sure:
            why = "Whether an adapter is loaded is decided while the script runs."
            builder.unknown("model.adapter", why, step.call.node)
            return
        builder.take("model.adapter", folder, step.call.node, text)
        written = builder.value("model.adapter")
        if "subfolder" in step.call.arguments or resolve(Setup(file=builder.source.file), written) is None:
            builder.unknown("model.adapter", f"{written or 'It'} is no adapter's folder here.", step.call.node)
        if script.thawed:
            builder.put("model.adapter_is_trainable", True, step.call.node)
            return
        builder.take("model.adapter_is_trainable", trainable, step.call.node)
        if trainable is None and step.call.exact:
            builder.default("model.adapter_is_trainable", False, "PeftModel.from_pretrained loads for inference.")
        return


def read_quantization(script: TrainingScript, builder: SetupBuilder) -> None:
    """``quantization``: BitsAndBytesConfig, or the switches that from_pretrained took before transformers 5."""
    model = script.model
    load = model.load if model is not None else None
    if load is not None and load.maker in UNSLOTH:
        _read_unsloth_bits(load, builder)
        return
    given = script.quantization()
    if given is None and script.leaves_out("BitsAndBytesConfig", "quantization_config", *_SWITCHED):
        given = Unknown(load.node if load is not None else None, why="An argument of the script decides.")
    if load is not None and given is None:
        _read_switches(script, load, builder)
        return
    alone = script.only("BitsAndBytesConfig")
    if isinstance(given, Made):
        _read_config(given, builder)
    elif isinstance(given, Mapping):
        read_options(given, builder)
    elif alone is not None:
        why = given.why if isinstance(given, Unknown) else "Whether it is passed to from_pretrained is not known."
        _read_config(alone, builder)
        builder.unknown("quantization.load_in_4bit", why, given.node if given is not None else alone.node)
        builder.unknown("quantization.load_in_8bit", why, given.node if given is not None else alone.node)
    why = given.why if isinstance(given, Unknown) else "How the model is loaded is not known."
    if not isinstance(given, Made | Mapping):
        builder.leave_rest("quantization", why=why)
    for name in _SWITCHED if load is not None and isinstance(given, Made | Mapping) else ():
        value = load.arguments.get(name) if load is not None else None
        if isinstance(value, Known) and value.data is True:
            builder.extra("model", name, value)


def _read_config(config: Made, builder: SetupBuilder) -> None:
    builder.head("quantization", config.node)
    if config.maker in QUANTIZERS:
        builder.put("quantization.backend", config.maker.removesuffix("Config").lower(), config.node)
        builder.leave_rest("quantization", why=f"{config.maker} quantizes by a method of its own.")
        return
    if config.maker != "BitsAndBytesConfig":
        builder.leave_rest("quantization", why=f"{config.maker} is no quantization that is known here.")
        return
    for name, value in config.arguments.items():
        if isinstance(name, str):
            _take_option(builder, name, value, place_of(config, name))
    if not config.exact or 0 in config.arguments:
        builder.leave_rest("quantization", why=config.why or "Arguments are passed by position.")
    builder.default("quantization.load_in_4bit", False, "default of BitsAndBytesConfig")


def _take_option(builder: SetupBuilder, name: str, value: Value, place: ast.AST | None) -> None:
    if name in _SWITCHED:
        builder.take(_SWITCHED[name], value, place, switch)
    elif name in _OPTIONS:
        builder.take(f"quantization.{name}", value, place, _CONVERTED.get(name))
    elif name in known_arguments.QUANTIZATION:
        builder.extra("quantization", name, value)


def read_options(options: Mapping, builder: SetupBuilder) -> None:
    """``quantization_config={"load_in_4bit": True}``, as ``model_init_kwargs`` may hold it."""
    builder.head("quantization", options.node)
    for name, value in options.items.items():
        if isinstance(name, str):
            _take_option(builder, name, value, value.node)
    if not options.exact:
        builder.leave_rest("quantization", why="The dict is not fully known.")
    builder.default("quantization.load_in_4bit", False, "default of BitsAndBytesConfig")


def _read_switches(script: TrainingScript, load: Made, builder: SetupBuilder) -> None:
    for name, value in load.arguments.items():
        if name in _SWITCHED or (isinstance(name, str) and name in _OPTIONS):
            _take_option(builder, name, value, place_of(load, name))
    for name, path in _SWITCHED.items():
        if builder.value(path) is True and name in load.arguments and not _is_before_transformers_5(script):
            note = "from_pretrained takes no load_in_4bit and load_in_8bit since transformers 5."
            builder.remark("quantization-switch-of-from-pretrained", place_of(load, name), note, name)
    if not load.exact:
        builder.leave_rest("quantization", why=load.why)
    builder.default("quantization.load_in_4bit", False, NOT_GIVEN)
    builder.default("quantization.load_in_8bit", False, NOT_GIVEN)


def _is_before_transformers_5(script: TrainingScript) -> bool:
    """True where the project pins a transformers that is older, or keeps newer ones out."""
    exact, ranged = versions_of_the_project(script)
    pinned = version_tuple(exact.get("transformers"))
    return "transformers" in ranged or (pinned is not None and pinned < (5,))


def _read_unsloth_bits(load: Made, builder: SetupBuilder) -> None:
    """FastLanguageModel.from_pretrained: 4-bit unless set otherwise, NF4 with double quantization."""
    for name, path in _SWITCHED.items():
        builder.take(path, load.arguments.get(name), place_of(load, name), switch)
    builder.head("quantization", place_of(load, "load_in_4bit"))
    if not load.exact:
        builder.leave_rest("quantization", why=load.why)
        return
    eight = builder.value("quantization.load_in_8bit") or load.arguments.get("full_finetuning") is not None
    builder.default("quantization.load_in_4bit", not eight, "default of FastLanguageModel.from_pretrained")
    if builder.value("quantization.load_in_4bit"):
        own = "Unsloth's own"
        builder.default("quantization.bnb_4bit_quant_type", "nf4", own)
        builder.default("quantization.bnb_4bit_use_double_quant", True, own)
        why = "It is the model's dtype, which Unsloth picks by the GPU."
        builder.leave("quantization.bnb_4bit_compute_dtype", why=why)
    builder.leave("quantization.llm_int8_skip_modules", why="Unsloth chooses the modules that stay in 16 bits.")


def read_adapter(script: TrainingScript, builder: SetupBuilder) -> None:
    """``lora``: the LoraConfig that is attached."""
    given = script.adapter()
    continued = script.continued is not None
    if given is None and script.whole and not continued and not script.leaves_out("LoraConfig", "get_peft_model"):
        builder.leave_rest("lora", why="The script attaches no LoRA adapter.")
        note = "No adapter is attached: the whole model is trained, as far as it can be."
        builder.remark("no-lora", script.trainer.node if script.trainer is not None else None, note)
        return
    if isinstance(given, Made) and any(step.kind == "attach-unsloth" and step.call is given for step in script.steps):
        _read_unsloth_adapter(given, script, builder)
        return
    config = given if isinstance(given, Made) else None if continued else script.only("LoraConfig")
    if config is None:
        why = "The stored adapter decides." if continued else "No single LoraConfig was found that is attached."
        builder.leave_rest("lora", why=given.why if isinstance(given, Unknown) else why)
        return
    builder.head("lora", config.node)
    if config.maker != "LoraConfig":
        builder.leave_rest("lora", why=f"{config.maker} is another method than LoRA.")
        note = f"{config.maker} is another method than LoRA."
        builder.remark("no-lora", config.node, note)
        return
    take_lora(config.arguments, config.places, builder)
    for step in script.steps:
        if step.kind == "attach":
            cast = step.call.arguments.get("autocast_adapter_dtype")
            builder.take("lora.autocast_adapter_dtype", cast, place_of(step.call, "autocast_adapter_dtype"))
    if not config.exact or 0 in config.arguments:
        builder.leave_rest("lora", why=config.why or "Arguments are passed by position.")


def take_lora(arguments: dict[Any, Value], places: dict[Any, ast.AST], builder: SetupBuilder) -> None:
    """Arguments of LoraConfig."""
    for name, value in arguments.items():
        if not isinstance(name, str):
            continue
        if name == "r" and isinstance(value, Known) and isinstance(value.data, float):
            note = f"PEFT stops when it makes the layers: r is {value.data}, which is no whole number."
            builder.refused("rank-not-whole", note, "lora.r")
        if name in Lora.model_fields and name != "extra":
            convert = targets if name in ("target_modules", "exclude_modules") else None
            if name == "target_modules" and isinstance(value, Listing) and value.linear_of is not None:
                of, four_bit = value.linear_of, builder.value("quantization.load_in_4bit")
                value = _collected_targets(value, four_bit=four_bit)
                if isinstance(value, Listing):
                    note = f"The script collects the layers of class {of}, and a base {_BITS[bool(four_bit)]} has none."
                    builder.remark("layers-of-another-class", value.node, note)
            builder.take(f"lora.{name}", value, places.get(name, value.node), convert)
        elif name in known_arguments.LORA:
            builder.extra("lora", name, value)


_BITS = {True: "in 4-bit", False: "that is not in 4-bit"}


def _collected_targets(names: Listing, *, four_bit: Any) -> Value:
    """The names of all layers of one class, as PEFT names them where these are all linear layers but the head.

    bitsandbytes' Linear4bit is a Linear too, and transformers leaves the head in 16-bit.
    """
    of = names.linear_of
    all_but_head = (of == "Linear4bit" and four_bit is True) or (of == "Linear" and names.head_taken_out)
    if all_but_head:
        return Known(names.node, data="all-linear")
    none_there = (of == "Linear4bit" and four_bit is False) or (of == "Linear8bitLt" and four_bit is True)
    if none_there:
        return Listing(names.node)
    return Unknown(names.node, why="The script collects the names from the model while it runs.")


def _read_unsloth_adapter(call: Made, script: TrainingScript, builder: SetupBuilder) -> None:
    builder.head("lora", call.node)
    take_lora(call.arguments, call.places, builder)
    if not call.exact:
        builder.leave_rest("lora", why=call.why)
    load = script.model.load if script.model is not None else None
    if load is None or load.maker not in ("FastLanguageModel", "FastLlamaModel", "FastMistralModel"):
        builder.leave("lora.target_modules", why="Unsloth chooses the modules by what of the model is to be trained.")
    for name, value in _UNSLOTH_LORA.items():
        builder.default(f"lora.{name}", value, "default of FastLanguageModel.get_peft_model")


def read_data(script: TrainingScript, builder: SetupBuilder) -> None:
    """``data``: samples that are trained on as load_dataset gives them."""
    why = "The script forms the samples by code of its own."
    formatted = script.given("formatting_func") is not None or script.given("data_collator") is not None
    for path, name in (("data.train", "train_dataset"), ("data.eval", "eval_dataset")):
        given = script.given(name, 2 if name == "train_dataset" else "")
        if given is None and name == "eval_dataset" and script.trainer is not None:
            continue
        source = _dataset(given) if given is not None else None
        if source is not None and not formatted and builder.value("training.trainer") == "trl":
            builder.take(path, source, given.node if given is not None else None, text)
        else:
            builder.leave(path, why=why)
    field = script.given("dataset_text_field")
    if field is not None and not builder.knows("training.dataset_text_field"):
        builder.take("training.dataset_text_field", field)


def _dataset(given: Value) -> Value | None:
    """The id or the file of ``load_dataset(…)`` where it takes all of it; else None."""
    if not isinstance(given, Made) or given.maker != "load_dataset" or not given.exact:
        return None
    split = given.arguments.get("split")
    if split is not None and not (isinstance(split, Known) and split.data in ("train", "validation", "test")):
        return None
    if isinstance(split, Known) and split.data != "train":
        return None
    first = argument(given, "path", 0)
    files = given.arguments.get("data_files")
    if isinstance(first, Known) and first.data in ("json", "csv", "parquet", "text"):
        if isinstance(files, Listing) and files.exact and len(files.items) == 1:
            files = files.items[0]
        return files if isinstance(files, Known) else None
    others = given.arguments.keys() - {0, "path", "split", "trust_remote_code", "token", "cache_dir"}
    return first if isinstance(first, Known) and not others else None


def mapping_of(value: Value | None) -> dict[str, Any] | None:
    """A dict whose contents are all known; None otherwise."""
    if not isinstance(value, Mapping):
        return None
    try:
        data = flat(value)
    except Opaque:
        return None
    return data if isinstance(data, dict) else None
