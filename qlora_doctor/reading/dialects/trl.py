"""TRL's command line and the alignment-handbook: ModelConfig, ScriptArguments and SFTConfig in one YAML file.

Defaults are those of TRL 1.9 (trainer/model_config.py, trainer/utils.py, scripts/); its parser stops at unknown keys.
Handbook recipes are read by the handbook's own classes (src/alignment/configs.py) on top of the TRL that the handbook
of their time runs with: 0.2 and 0.3, of which recipes name a ``dataset_mixer``, ask for trl 0.7.4 to 0.12; what came
after them, with a ``dataset_mixture``, for trl 0.19.1, and imports ``setup_chat_format``, which trl 0.26 dropped.
"""

from __future__ import annotations

import re
from typing import Any

from ...setup.setup import Asked, Setup
from ...setup.traits import Traits
from ...tables.conditions import NO_TF32, TF32_REFUSED
from ...tables.keys import key_list
from ..document import STDIN, Document
from .fields import Reading, Table, Writing
from .llamafactory import HF_ARGUMENTS, refuse_switched_strategies
from .values import dtype, joined, name_list, one_or_list, storage_dtype, switch, targets, text

name = "trl"
TRAITS = Traits(
    as_written=True,
    hf_names=True,
    checks_names=True,
    switches_of_transformers=True,
    hands_base_to_trl=True,
    heeds_launcher=True,
    hub_ids=True,
    data_key="dataset_name",
    counts_rows=True,
)
_HANDBOOK = TRAITS._replace(switches_of_transformers=False, data_key="dataset_mixer", counts_rows=False)

IMPLIED_BY_FORM = frozenset({"use_peft"})
"""Keys that say what another dialect says by being what it is; a conversion does not carry them."""

MODEL_CONFIG: Table = {
    "model_name_or_path": ("model.name_or_path", text),
    "model_revision": ("model.revision", text),
    "dtype": ("model.dtype", dtype),
    "torch_dtype": ("model.dtype", dtype),
    "trust_remote_code": "model.trust_remote_code",
    "attn_implementation": "model.attn_implementation",
    "lora_r": "lora.r",
    "lora_alpha": "lora.lora_alpha",
    "lora_dropout": "lora.lora_dropout",
    "lora_target_modules": ("lora.target_modules", targets),
    "lora_target_parameters": ("lora.target_parameters", name_list),
    "lora_modules_to_save": ("lora.modules_to_save", name_list),
    "lora_task_type": "lora.task_type",
    "use_rslora": "lora.use_rslora",
    "use_dora": "lora.use_dora",
    "load_in_4bit": ("quantization.load_in_4bit", switch),
    "load_in_8bit": ("quantization.load_in_8bit", switch),
    "bnb_4bit_quant_type": "quantization.bnb_4bit_quant_type",
    "use_bnb_nested_quant": ("quantization.bnb_4bit_use_double_quant", switch),
    "bnb_4bit_quant_storage": ("quantization.bnb_4bit_quant_storage", storage_dtype),
}
SFT_ARGUMENTS: Table = {
    "gradient_checkpointing": ("training.gradient_checkpointing", switch),
    "activation_checkpointing": ("training.gradient_checkpointing", switch),
    "gradient_checkpointing_kwargs": "training.gradient_checkpointing_kwargs",
    "activation_checkpointing_kwargs": "training.gradient_checkpointing_kwargs",
    "max_length": "training.max_length",
    "max_seq_length": "training.max_length",
    "packing": "training.packing",
    "padding_free": "training.padding_free",
    "use_liger_kernel": "training.use_liger_kernel",
    "use_liger": "training.use_liger_kernel",
    "completion_only_loss": "training.completion_only_loss",
    "assistant_only_loss": "training.assistant_only_loss",
    "dataset_text_field": "training.dataset_text_field",
    "use_cache": "model.use_cache",
    "loss_type": ("training.loss_type", joined),
    "beta": "training.beta",
    "label_smoothing": "training.label_smoothing",
    "num_generations": "training.num_generations",
    "num_generations_eval": "training.num_generations_eval",
    "generation_batch_size": "training.generation_batch_size",
    "steps_per_generation": "training.steps_per_generation",
    "use_vllm": ("training.use_vllm", switch),
    "dataset_name": ("data.train", text),
}
_FIELDS: Table = {**MODEL_CONFIG, **HF_ARGUMENTS, **SFT_ARGUMENTS}
_DEFAULTS: dict[str, Any] = {
    "lora.r": 16,
    "lora.lora_alpha": 32,
    "lora.lora_dropout": 0.05,
    "lora.task_type": "CAUSAL_LM",
    "lora.bias": "none",
    "quantization.load_in_4bit": False,
    "quantization.load_in_8bit": False,
    "training.trainer": "trl",
}
WRITINGS: dict[str, Writing] = {
    "quantization.bnb_4bit_compute_dtype": lambda value, data: {
        "torch_dtype" if "torch_dtype" in data else "dtype": value
    },
}
"""TRL computes in the dtype that the model is loaded in."""
_MIXER, _MIXTURE = "dataset_mixer", "dataset_mixture"
_OLDER, _NEWER = "the handbook with dataset_mixer asks for", "the handbook with dataset_mixture asks for"
_OF_MIXER = {
    "trl": Asked(at_least="0.7.4", below="0.13", by=f"{_OLDER} trl>=0.7.4,<0.13"),
    "transformers": Asked(at_least="4.35", below="5", by=f"{_OLDER} transformers>=4.35,<5"),
}
_OF_MIXTURE = {
    "trl": Asked(at_least="0.19.1", below="0.26", by=f"{_NEWER} trl>=0.19.1,<0.26"),
    "transformers": Asked(at_least="4.53.3", below="5", by=f"{_NEWER} transformers>=4.53.3,<5"),
}
"""transformers 5 came after both, with the TRL that no longer serves them."""
_OWN = {
    "use_peft",
    "use_bnb_nested_quant",
    "lora_target_modules",
    "lora_task_type",
    "bnb_4bit_quant_type",
    "dataset_name",
}


def recognise(document: Document) -> float:
    """A model name, ModelConfig's own keys or a handbook's mixture, and hardly a key that TRL never knew."""
    data = document.data
    if not isinstance(data, dict) or "model_name_or_path" not in data:
        return 0.0
    if _MIXER in data or _MIXTURE in data:
        return 0.96
    if not _OWN & data.keys():
        return 0.0
    known = key_list("trl")
    strangers = [key for key in data if key not in known.names and key not in known.removed]
    share = 1 - len(strangers) / len(data)
    if "use_peft" in data or "use_bnb_nested_quant" in data:
        return 0.93 if share >= 0.75 else 0.6
    return 0.85 if share >= 0.95 else 0.0


def read(document: Document) -> Setup:
    """A TRL or handbook config → Setup."""
    known = key_list("trl")
    handbook = _handbook(document)
    is_handbook = bool(handbook)
    dialect = "alignment-handbook" if is_handbook else name
    whose = f"TRL {known.version}" if not is_handbook else "the handbook"
    reading = Reading(document, dialect, whose, traits=_HANDBOOK if is_handbook else TRAITS, plain_data=True)
    reading.take(_FIELDS)
    mixer = reading.get("dataset_mixer")
    if isinstance(mixer, dict) and mixer:
        reading.put("data.train", str(next(iter(mixer))), "dataset_mixer")
    elif isinstance(reading.get("dataset_mixture.datasets"), list):
        reading.take({"dataset_mixture.datasets.0.id": ("data.train", text)})
    elif isinstance(reading.get("datasets"), list):
        files = isinstance(reading.get("datasets.0.data_files"), str)  # of a local file the path is its kind: json, csv
        reading.take({"datasets.0.data_files" if files else "datasets.0.path": ("data.train", text)})
    if not reading.knows("data.train"):
        reading.take({"dataset_path": ("data.train", one_or_list)})
    reading.extra("training", "packing_strategy", "liger_kernel_config", "metric_for_best_model", "greater_is_better")
    _adapter(reading)
    reading.defaults(_DEFAULTS)
    _dtypes(reading, handbook)
    _method(reading)
    if handbook is _OF_MIXER and reading.value("training.method") == "dpo":
        reading.default("training.optim", "rmsprop", "default of the handbook's DPOConfig")
    refuse_switched_strategies(reading, "TRL")
    if document.string_numbers:
        reading.remark("string-numbers-converted", None, "TRL's argument parser turns such texts into numbers.")
    if reading.get("tf32") is True:
        reading.refused(TF32_REFUSED[0], "tf32", TF32_REFUSED[1], machine=NO_TF32)
    reading.check_keys(known, also=_handbook_keys() if is_handbook else ())
    reading.judge_by_project(known, handbook)
    return reading.setup().model_copy(update={"versions": handbook})


def _handbook(document: Document) -> dict[str, Asked]:
    """The versions that the handbook of a recipe's time runs with; empty where it is no recipe of the handbook's."""
    data = document.data if isinstance(document.data, dict) else {}
    if _MIXER in data:
        return _OF_MIXER
    if _MIXTURE in data:
        return _OF_MIXTURE
    if document.path is None or document.path == STDIN:
        return {}
    from ..python.neighbours import Neighbours

    # A recipe with a dataset_name differs from one of TRL's by the clone that it lies in.
    configs = (folder / "src" / "alignment" / "configs.py" for folder in Neighbours(document.path).folders)
    text = next((path.read_text("utf-8", "replace") for path in configs if path.is_file()), None)
    if text is None:
        return {}
    return _OF_MIXTURE if _MIXTURE in text else _OF_MIXER


def _handbook_keys() -> set[str]:
    """Keys that the handbook's own scripts read beside TRL's, in any of its versions."""
    handbook = key_list("alignment-handbook")
    return set(handbook.names | handbook.removed.keys()) - key_list("trl").removed.keys()


def _adapter(reading: Reading) -> None:
    """TRL adds an adapter only with use_peft: true; the other LoRA keys alone do nothing."""
    if reading.get("use_peft"):
        return
    note = "TRL adds an adapter with use_peft: true only; without it the whole model is trained."
    reading.remark("no-lora", "use_peft" if reading.written("use_peft") else None, note)
    asked = ("lora_r", "lora_alpha", "lora_target_modules", "load_in_4bit", "load_in_8bit")
    key = next((key for key in asked if reading.get(key)), None)
    if key is not None and reading.written("use_peft"):
        reading.remark("lora-switched-off", "use_peft", note)
    elif key is not None:
        reading.remark("lora-not-switched-on", key, note)


def _dtypes(reading: Reading, handbook: dict[str, Asked]) -> None:
    """TRL quantizes with the model's dtype as compute dtype, and since 0.27 that is float32 where nothing is said.

    The handbook's own code took float16 where nothing is said, and 0.2 always (model_utils.py).
    """
    is_handbook = bool(handbook)
    if reading.value("quantization.load_in_4bit"):
        written = reading.value("model.dtype")
        older = is_handbook or reading.has("torch_dtype")
        always_half = written in ("auto", None) or (written != "float16" and reading.has("use_flash_attention_2"))
        if handbook is _OF_MIXER and always_half:
            reading.default("quantization.bnb_4bit_compute_dtype", "float16", "the handbook's get_quantization_config")
        elif written in ("bfloat16", "float16", "float32"):
            key = "dtype" if reading.has("dtype") else "torch_dtype"
            note = "TRL computes in the dtype that the model is loaded in."
            reading.put("quantization.bnb_4bit_compute_dtype", written, key, note)
        elif older:
            reading.leave(
                "quantization.bnb_4bit_compute_dtype",
                why="It depends on the version of the script that reads this recipe.",
            )
        else:
            reading.default("quantization.bnb_4bit_compute_dtype", "float32", "the dtype that the model is loaded in")
        reading.defaults({"quantization.bnb_4bit_quant_type": "nf4", "quantization.bnb_4bit_use_double_quant": False})
    if not is_handbook:
        reading.default("model.dtype", "float32", "since TRL 0.27; before, the checkpoint's own")


_OTHERS_LOSS = re.compile(r"simpo_|gamma_beta_ratio|cpo_|orpo_|kto_|objective_type")
_OWN_KEYS = {
    "desirable_weight": "kto",
    "undesirable_weight": "kto",
    "center_rewards_coefficient": "reward",
    "scale_rewards": "grpo",
    "importance_sampling_level": "grpo",
    "top_entropy_quantile": "grpo",
    "normalize_advantages": "rloo",
    "reward_clip_range": "rloo",
    "f_divergence_type": "dpo",
    "ld_alpha": "dpo",
}
"""Fields that one class of arguments alone has, in TRL 0.17 to 1.16."""


def _method(reading: Reading) -> None:
    """SFT, DPO and the others share the YAML; their own keys tell them apart where there are any."""
    own = next((key for key in _OWN_KEYS if reading.has(key)), None)
    if own is not None:
        reading.put("training.method", _OWN_KEYS[own], own)
    elif any(reading.has(key) for key in ("num_generations", "max_completion_length", "use_vllm")):
        reading.leave("training.method", why="GRPO and RLOO share these keys; which script reads the file decides.")
    elif (other := next((key for key in reading.data if _OTHERS_LOSS.match(str(key))), None)) is not None:
        reading.leave("training.method", why=f"{other} is a key of another loss, which shares beta with DPO.")
    elif reading.has("beta") or (reading.has("loss_type") and reading.get("loss_type") in ("sigmoid", "ipo", "hinge")):
        reading.put("training.method", "dpo", "beta" if reading.has("beta") else "loss_type")
    elif any(reading.has(key) for key in ("max_seq_length", "packing", "dataset_text_field", "completion_only_loss")):
        reading.default("training.method", "sft", "keys of SFTConfig")
    else:
        reading.leave("training.method", why="Which of TRL's scripts reads the file is not known.")
        if not reading.knows("training.max_length"):
            reading.leave("training.max_length", why="Which of TRL's scripts reads the file is not known.")
