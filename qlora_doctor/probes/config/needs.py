"""Packages that a config asks for beside the usual ones: what transformers imports when it meets an option.

Read from transformers 4.51–5.23: quantizers/quantizer_*.py (validate_environment), trainer_optimizer.py,
modeling_utils.py (the attention's check) and trainer.py.
"""

from __future__ import annotations

from collections.abc import Iterator

from ...facts.config import AskedPackage, ConfigFacts
from ...facts.environment import Packages
from ...setup.defaults import Libraries, Version
from ...setup.setup import Setup

_QUANTIZERS: dict[str, tuple[str, ...]] = {
    "gptq": ("gptqmodel", "optimum"),
    "awq": ("gptqmodel",),
    "aqlm": ("aqlm",),
    "hqq": ("hqq",),
    "eetq": ("kernels",),
    "torchao": ("torchao",),
    "quanto": ("optimum_quanto",),
    "compressed-tensors": ("compressed_tensors",),
}
_BEFORE_5: dict[str, tuple[str, ...]] = {"gptq": ("optimum",), "awq": ("autoawq",), "eetq": ("eetq",)}
"""Where transformers 4 wants others; its GPTQ takes one of two packages beside optimum."""
_OPTIMIZERS = {
    "adamw_torch_4bit": "torchao",
    "adamw_torch_8bit": "torchao",
    "schedule_free_radam": "schedulefree",
    "schedule_free_adamw": "schedulefree",
    "schedule_free_sgd": "schedulefree",
}


def of_method(method: str, transformers: Version | None) -> tuple[str, ...]:
    """Packages that transformers wants for a quantization; none where it is not known here.

    Args:
        method: ``quant_method`` of a checkpoint, or the backend that a config names.
        transformers: the installed version.
    """
    older = transformers is not None and transformers < (5,)
    return (_BEFORE_5 if older and method in _BEFORE_5 else _QUANTIZERS).get(method, ())


def missing_packages(
    setup: Setup, facts: ConfigFacts, packages: Packages | None, libraries: Libraries
) -> list[AskedPackage] | None:
    """What the config asks for and this environment lacks; None where nothing may be assumed about it.

    Args:
        facts: those of the config that are known already.
        packages: what is installed.
        libraries: the versions of the usual ones.
    """
    if packages is None:
        return None
    asked = _asked(setup, facts, packages, libraries)
    return [AskedPackage(name=name, by=by) for name, by in asked if getattr(packages, name) is None]


def _asked(setup: Setup, facts: ConfigFacts, packages: Packages, libraries: Libraries) -> Iterator[tuple[str, str]]:
    backend = facts.quantization_backend
    for name in of_method(backend, libraries.transformers) if backend is not None else ():
        yield name, f"quantization by {backend}"
    if facts.attn_implementation == "flash_attention_2" and packages.kernels is None:
        yield "flash_attn", "attn_implementation flash_attention_2"
    if facts.liger:
        yield "liger_kernel", "the Liger kernels"
    if setup.training.deepspeed:
        yield "deepspeed", "deepspeed"
    if facts.optimizer in _OPTIMIZERS:
        yield _OPTIMIZERS[facts.optimizer], f"optimizer {facts.optimizer}"
