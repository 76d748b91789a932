"""Do the tensors of a stored adapter go into this base? PEFT's own loading decides, on the meta device.

``set_peft_model_state_dict`` (peft 0.21, utils/save_and_load.py) renames what the file holds and hands it to torch's
``load_state_dict(strict=False)``: another shape raises, a tensor without a place is dropped silently, and of what
the file lacks ``PeftModel.from_pretrained`` warns. Its header gives names and shapes; no data is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from ...core.errors import StageError
from ...facts.adapter import StoredMisfit
from ...pipeline.adapter import adapter_folder
from ...setup.setup import Setup
from ..config.stored_adapter import CONFIG, PICKLED, WEIGHTS
from ..load.checkpoint import Checkpoint, read_header
from ..load.loaded import has_nonfinite
from ..load.quantization_error import nonfinite_in
from ..stored.names import PREFIX, WRAPPERS
from .inventory import Inventory

_ADAPTER = "default"
_LARGEST = 4 << 30
"""Bytes of an adapter's file that is read whole."""
_MISMATCH = re.compile(
    r"size mismatch for (\S+): copying a param with shape torch\.Size\(\[([\d, ]*)\]\) from checkpoint, "
    r"the shape in current model is torch\.Size\(\[([\d, ]*)\]\)"
)
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_HELD = {
    "base_model_name_or_path", "revision", "r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules",
    "target_parameters", "modules_to_save", "bias", "task_type", "use_rslora", "use_dora", "init_lora_weights",
    "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern", "fan_in_fan_out",
    "trainable_token_indices", "peft_type", "auto_mapping", "inference_mode", "peft_version", "megatron_core",
    "qalora_group_size",
}  # fmt: skip
"""Keys of an adapter_config.json that a setup holds, or that change no shape."""


@dataclass
class StoredFit:
    """What PEFT makes of the file's tensors; all None where that cannot be known.

    Attributes:
        refusal: why it stops; None where it loads them.
    """

    tensors: int | None = None
    misfits: list[StoredMisfit] | None = None
    foreign: str | None = None
    unread: list[str] | None = None
    missing: list[str] | None = None
    refusal: str | None = None

    def facts(self) -> dict[str, Any]:
        """The fields of AdapterFacts."""
        return {
            "stored_tensors": self.tensors,
            "stored_misfits": self.misfits,
            "stored_unread": self.unread,
            "stored_missing": self.missing,
            "stored_foreign": self.foreign,
        }


def stored_file_facts(setup: Setup, progress: Callable[..., None] = lambda *_: None) -> dict[str, Any]:
    """What the file of a stored adapter shows by itself, whatever base it goes into: damage, and values that are none.

    Fields of AdapterFacts; ``{}`` where there is a stored adapter and its file cannot be found.
    """
    if setup.model.adapter is None and setup.dialect != "peft-adapter":
        return {"stored_damage": "none", "stored_nonfinite": []}
    try:
        file = _weights(setup)
    except StageError:
        return {}
    if file is None:
        return _without_weights(setup)
    if file.name == PICKLED and file.stat().st_size > _LARGEST:
        return {}
    try:
        values = _unpickled(file) if file.name == PICKLED else None
        stored = read_header(file) if values is None else {}
    except UnpicklingError:
        return {
            "stored_damage": f"{file.name} holds more than tensors, and PEFT, which runs no code of it, refuses that."
        }
    except StageError as error:
        return {"stored_damage": error.message}
    if file.stat().st_size > _LARGEST:
        return {"stored_damage": "none"}
    if values is not None:
        bad = [name for name, tensor in values.items() if tensor.is_floating_point() and has_nonfinite(tensor)]
    else:
        bad = nonfinite_in(Checkpoint(file.parent, [file], stored), progress)
    return {"stored_damage": "none", "stored_nonfinite": [_shown(name) for name in bad]}


def _without_weights(setup: Setup) -> dict[str, Any]:
    """A folder that a config names for its adapter has to hold weights; a config alone may be what is checked."""
    if setup.model.adapter is None:
        return {}
    folder = adapter_folder(setup)
    return {"stored_damage": f"{folder} holds no adapter weights ({WEIGHTS})."}


def stored_fit(model: Any, setup: Setup, base: Inventory) -> StoredFit:
    """How the stored adapter of a setup fits the model that it was attached to on the meta device.

    A new adapter fits: there is nothing stored.

    Args:
        model: the PeftModel; its tensors have no values, and their shapes stay as they are.
        base: the model as it was before PEFT touched it.
    """
    if setup.model.adapter is None and setup.dialect != "peft-adapter":
        return StoredFit(misfits=[], unread=[], missing=[], foreign="none")
    file = _file(setup)
    is_lora = str(model.peft_config[_ADAPTER].peft_type).rpartition(".")[2] == "LORA"
    # PeftModel.from_pretrained renames by such a mapping of a model's class before anything else.
    if file is None or not is_lora or getattr(model.get_base_model(), "_checkpoint_conversion_mapping", None):
        return StoredFit()
    try:
        stored = _shapes(file)
    except (StageError, UnpicklingError):
        return StoredFit()
    if stored is None:
        return StoredFit()
    fit = _load(model, stored)
    if fit.unread:
        fit.foreign = _foreign(model, stored)
    if fit.misfits and setup.dialect != "native" and _only_vocabulary(fit.misfits, base):
        return StoredFit()  # a trainer of its own may resize the embeddings before it loads the adapter
    return fit


def _file(setup: Setup) -> Path | None:
    """The weights, where the adapter that the setup makes is the stored one."""
    if setup.model.adapter is None and any(on and key not in _HELD for key, on in setup.stored_keys.items()):
        return None
    return _weights(setup)


def _weights(setup: Setup) -> Path | None:
    """The weights of the adapter that is continued, or those beside the adapter_config.json that is checked."""
    if setup.model.adapter is not None:
        folder = adapter_folder(setup)
    elif setup.file is None:
        return None
    else:
        folder = Path(setup.file).parent
    return next((folder / name for name in (WEIGHTS, PICKLED) if (folder / name).is_file()), None)


def _shapes(file: Path) -> dict[str, torch.Tensor] | None:
    """The file's tensors on the meta device; None where one is of a kind that torch has no dtype for."""
    if file.name == PICKLED:
        return _unpickled(file, "meta")
    stored = read_header(file)
    if any(tensor.dtype not in _DTYPES for tensor in stored.values()):
        return None
    return {
        name: torch.empty(tensor.shape, dtype=_DTYPES[tensor.dtype], device="meta") for name, tensor in stored.items()
    }


def _unpickled(file: Path, device: str = "cpu") -> dict[str, torch.Tensor]:
    """The tensors of an adapter_model.bin, read as PEFT reads it: with ``weights_only``, which runs no code.

    Raises:
        UnpicklingError: it holds more than tensors.
        StageError: kind ``truncated``: torch cannot read it.
    """
    try:
        held = torch.load(file, map_location=device, weights_only=True)
    except UnpicklingError:
        raise
    except Exception as error:
        size = f"{file.stat().st_size:,}"
        raise StageError(f"{file.name} is truncated or no file of torch's ({size} bytes).", kind="truncated") from error
    tensors = held if isinstance(held, dict) else {}
    return {str(name): tensor for name, tensor in tensors.items() if isinstance(tensor, torch.Tensor)}


def _foreign(model: Any, stored: dict[str, torch.Tensor]) -> str:
    """What keeps the names from fitting, tried by PEFT's own loading under the names that they would have else."""
    attempts: list[tuple[str, dict[str, torch.Tensor]]] = []
    wrapped = sorted({part for name in stored for part in name.split(".") if f"{part}." in WRAPPERS})
    plain = {".".join(p for p in name.split(".") if f"{p}." not in WRAPPERS): tensor for name, tensor in stored.items()}
    if wrapped and len(plain) == len(stored):
        attempts.append((f"hold {' and '.join(wrapped)}", plain))
    before = {name.partition(PREFIX)[0] for name in stored if PREFIX in name}
    if len(before) == 1 and before != {""} and all(PREFIX in name for name in stored):
        lead = before.pop()
        attempts.append((f"begin with {lead}", {name.removeprefix(lead): each for name, each in stored.items()}))
    if not any(name.startswith(PREFIX) for name in stored):
        attempts.append((f"lack {PREFIX}", {PREFIX + name: each for name, each in stored.items()}))
    for words, renamed in attempts:
        fit = _load(model, renamed)
        if fit.unread == [] and not fit.misfits and fit.refusal is None:
            return words
    return "none"


def _load(model: Any, stored: dict[str, torch.Tensor]) -> StoredFit:
    from peft.utils.save_and_load import set_peft_model_state_dict

    state = dict(stored)
    fit = StoredFit(tensors=len(stored), misfits=[])
    try:
        with _without_quant_state(model):
            result = set_peft_model_state_dict(model, state, adapter_name=_ADAPTER)
    except KeyError as error:  # what modules_to_save or trainable_token_indices make it look for
        absent = str(error.args[0]) if error.args else ""
        if not absent.startswith(PREFIX):
            return StoredFit()
        fit.refusal = f"The file lacks {_shown(absent)}, which it has to hold by {CONFIG}."
        return fit
    except Exception as error:
        fit.misfits = _misfits(str(error))
        # Without a shape in it the reason may be that nothing here has values, and a real load may pass.
        fit.refusal = _sentence(fit.misfits)
        return fit if fit.misfits else StoredFit()
    fit.unread = [_shown(name) for name in result.unexpected_keys]
    # load_adapter in peft_model.py tells its own keys from the base's in this way.
    fit.missing = [_shown(name) for name in result.missing_keys if "lora_" in name and _ADAPTER in name]
    return fit


@contextmanager
def _without_quant_state(model: Any) -> Iterator[None]:
    """Hide what bitsandbytes would add to a 4-bit layer's state_dict: it takes values for that, which meta has not."""
    packed = [parameter for parameter in model.parameters() if getattr(parameter, "quant_state", None) is not None]
    states = [parameter.quant_state for parameter in packed]
    for parameter in packed:
        parameter.quant_state = None
    try:
        yield
    finally:
        for parameter, state in zip(packed, states, strict=True):
            parameter.quant_state = state


def _misfits(text: str) -> list[StoredMisfit]:
    found = (match.groups() for match in _MISMATCH.finditer(text))
    return [StoredMisfit(tensor=_shown(name), stored=_sizes(a), expected=_sizes(b)) for name, a, b in found]


def _sizes(text: str) -> list[int]:
    return [int(size) for size in text.split(",") if size.strip()]


def _sentence(misfits: list[StoredMisfit]) -> str | None:
    if not misfits:
        return None
    first = misfits[0]
    others = f"; {len(misfits) - 1} more differ" if len(misfits) > 1 else ""
    stored, expected = (" × ".join(map(str, shape)) for shape in (first.stored, first.expected))
    return f"{first.tensor} is {stored} in the file, and {CONFIG} makes it {expected} on this base{others}."


def _shown(name: str) -> str:
    """A tensor's name as the base has it, without what PEFT puts before and into it."""
    return name.removeprefix(PREFIX).replace(f".{_ADAPTER}.", ".").removesuffix(f".{_ADAPTER}")


def _only_vocabulary(misfits: list[StoredMisfit], base: Inventory) -> bool:
    """Whether nothing differs but the number of rows of embeddings and output heads."""
    rows = {part.name: part.module.num_embeddings for part in base.embeddings}
    rows |= {part.name: part.module.out_features for part in base.heads}
    return all(
        any(misfit.tensor.startswith(f"{name}.") and _differs_in(misfit, count) for name, count in rows.items())
        for misfit in misfits
    )


def _differs_in(misfit: StoredMisfit, size: int) -> bool:
    """Whether the only size that differs is this one."""
    if len(misfit.stored) != len(misfit.expected):
        return False
    return {want for has, want in zip(misfit.stored, misfit.expected, strict=True) if has != want} == {size}
