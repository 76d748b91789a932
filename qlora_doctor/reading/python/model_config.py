"""TRL's ModelConfig in a script: what ``get_peft_config`` and ``get_quantization_config`` make of it.

Source: ``trl/trainer/model_config.py`` and ``trl/trainer/utils.py`` of 0.7 to 1.16, whose defaults are the same.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping

from .provenance import INNER, given
from .values import Known, Made, Unknown, Value

_LORA = {
    "lora_r": ("r", 16),
    "lora_alpha": ("lora_alpha", 32),
    "lora_dropout": ("lora_dropout", 0.05),
    "lora_target_modules": ("target_modules", None),
    "lora_target_parameters": ("target_parameters", None),
    "lora_modules_to_save": ("modules_to_save", None),
    "lora_task_type": ("task_type", "CAUSAL_LM"),
    "use_rslora": ("use_rslora", False),
    "use_dora": ("use_dora", False),
}
_BITS = {
    "dtype": ("bnb_4bit_compute_dtype", None),
    "torch_dtype": ("bnb_4bit_compute_dtype", None),
    "bnb_4bit_quant_type": ("bnb_4bit_quant_type", "nf4"),
    "use_bnb_nested_quant": ("bnb_4bit_use_double_quant", False),
    "bnb_4bit_quant_storage": ("bnb_4bit_quant_storage", None),
}
_INNER_DEFAULT = f"{INNER}TRL's ModelConfig"
_SWITCHES = ("use_peft", "load_in_4bit", "load_in_8bit")


def peft_config(model_config: Made, node: ast.AST) -> Value:
    """``get_peft_config(model_config)``: a LoraConfig, or None without ``use_peft``."""
    switch = field_of(model_config, "use_peft", node)
    if not isinstance(switch, Known):
        return switch
    if not switch.data:
        return Known(node, switch.given, data=None)
    made = _made("LoraConfig", _LORA, model_config, node)
    made.arguments["bias"] = Known(node, data="none")
    return made


def quantization_config(model_config: Made, node: ast.AST) -> Value:
    """``get_quantization_config(model_config)``: a BitsAndBytesConfig, or None without bits."""
    tables: list[tuple[str, Mapping[str, tuple[str, object]]]] = [("load_in_4bit", _BITS), ("load_in_8bit", {})]
    for name, table in tables:
        switch = field_of(model_config, name, node)
        if not isinstance(switch, Known):
            return switch
        if switch.data:
            made = _made("BitsAndBytesConfig", table, model_config, node)
            made.arguments[name] = switch
            return made
    return Known(node, data=None)


def field_of(model_config: Made, name: str, node: ast.AST) -> Value:
    """A field of ModelConfig: as it is set, else its default where all that sets it was seen."""
    if name in model_config.arguments:
        return model_config.arguments[name]
    if not model_config.exact:
        return Unknown(node, why=model_config.why)
    defaults = {**_LORA, **_BITS, **dict.fromkeys(_SWITCHES, ("", False))}
    return given(Known(node, data=defaults[name][1]), _INNER_DEFAULT) if name in defaults else Known(node, data=None)


def _made(maker: str, table: Mapping[str, tuple[str, object]], model_config: Made, node: ast.AST) -> Made:
    made = Made(node, maker=maker, exact=model_config.exact, why=model_config.why)
    for name, (argument, default) in table.items():
        if name in model_config.arguments:
            made.arguments[argument] = model_config.arguments[name]
        elif model_config.exact and default is not None:
            made.arguments.setdefault(argument, given(Known(node, data=default), _INNER_DEFAULT))
    return made
