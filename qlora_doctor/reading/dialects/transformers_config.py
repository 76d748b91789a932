"""A checkpoint's config.json with its quantization_config, and a BitsAndBytesConfig on its own."""

from __future__ import annotations

from pathlib import Path

from ...setup.setup import Setup
from ...setup.traits import Traits
from ..document import Document
from .fields import Reading, Table
from .values import dtype, name_list, storage_dtype, switch

name = "hf-model-config"
TRAITS = Traits(decided_by=("model.name_or_path", "quantization.load_in_4bit"), of_a_project=False)
_OF_BITS = Traits(of_a_project=False)
"""Of a BitsAndBytesConfig."""

BITS_AND_BYTES: Table = {
    "load_in_4bit": ("quantization.load_in_4bit", switch),
    "_load_in_4bit": ("quantization.load_in_4bit", switch),
    "load_in_8bit": ("quantization.load_in_8bit", switch),
    "_load_in_8bit": ("quantization.load_in_8bit", switch),
    "bnb_4bit_quant_type": "quantization.bnb_4bit_quant_type",
    "bnb_4bit_use_double_quant": ("quantization.bnb_4bit_use_double_quant", switch),
    "bnb_4bit_compute_dtype": ("quantization.bnb_4bit_compute_dtype", dtype),
    "bnb_4bit_quant_storage": ("quantization.bnb_4bit_quant_storage", storage_dtype),
    "llm_int8_skip_modules": ("quantization.llm_int8_skip_modules", name_list),
    "llm_int8_enable_fp32_cpu_offload": "quantization.llm_int8_enable_fp32_cpu_offload",
}
_ALL = {*BITS_AND_BYTES, "quant_method", "llm_int8_threshold", "llm_int8_has_fp16_weight"}
RECORD = "it describes a checkpoint, and the weights in it do not change with it"
_NOT_RECORDED = "A model's config.json does not say how an adapter is trained on it."


def recognise(document: Document) -> float:
    """``architectures`` with ``model_type``, or nothing but BitsAndBytesConfig's names."""
    data = document.data
    if not isinstance(data, dict) or not data:
        return 0.0
    if "model_type" in data and ("architectures" in data or ("quantization_config" in data and "hidden_size" in data)):
        return 0.98
    is_bnb = set(data) <= _ALL and {"load_in_4bit", "load_in_8bit", "_load_in_4bit"} & data.keys()
    return 0.97 if is_bnb else 0.0


def read(document: Document) -> Setup:
    """A config.json or a BitsAndBytesConfig → Setup."""
    is_model = isinstance(document.data, dict) and "model_type" in document.data
    version = document.data.get("transformers_version") if is_model else None
    reading = Reading(
        document,
        name if is_model else "bnb-config",
        f"transformers {version}" if isinstance(version, str) else "transformers",
        traits=TRAITS if is_model else _OF_BITS,
        typed=False,
    )
    if is_model:
        _read_model(reading)
    else:
        reading.take(BITS_AND_BYTES)
        reading.leave_rest("model", why="The file is a BitsAndBytesConfig and names no model.")
    if reading.value("quantization.load_in_4bit"):
        for field, value in {
            "bnb_4bit_quant_type": "fp4",
            "bnb_4bit_use_double_quant": False,
            "bnb_4bit_compute_dtype": "float32",
            "bnb_4bit_quant_storage": "uint8",
        }.items():
            reading.default(f"quantization.{field}", value, "BitsAndBytesConfig's own default")
    reading.leave_rest("lora", "training", "hardware", why=_NOT_RECORDED)
    return reading.setup()


def _read_model(reading: Reading) -> None:
    path = reading.document.path
    folder = str(path.parent) if path is not None and path.name == "config.json" else None
    written = reading.get("_name_or_path")
    if folder is not None:
        reading.put("model.name_or_path", folder if folder != "" else ".", None, "the folder of this config.json")
    elif isinstance(written, str) and written:
        reading.put("model.name_or_path", written, "_name_or_path")
    elif path is not None:
        reading.leave("model.name_or_path", why=f"{Path(path).name} does not say which model it belongs to.")
    reading.take({"dtype": ("model.dtype", dtype), "torch_dtype": ("model.dtype", dtype)})
    quantization = reading.get("quantization_config")
    if not isinstance(quantization, dict):
        reading.default("quantization.load_in_4bit", False, "the checkpoint has no quantization_config")
        return
    method = quantization.get("quant_method")
    if method not in (None, "bitsandbytes"):
        reading.put("quantization.backend", str(method), "quantization_config.quant_method")
        reading.put("quantization.load_in_4bit", False, "quantization_config.quant_method")
        return
    reading.take({f"quantization_config.{key}": row for key, row in BITS_AND_BYTES.items()})
