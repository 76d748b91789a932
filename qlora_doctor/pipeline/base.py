"""The base in 4-bit: from_config and transformers' own conversion on the meta device, from_pretrained on a real one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from ..core.errors import StageError
from ..setup.resolved import Taken
from ..setup.setup import Setup
from .architecture import Architecture, load_config
from .classes import Loader, loader_of
from .dtypes import resolve_dtype, settle_dtypes
from .failures import as_stage_error, first_sentence
from .packing import pack_weights
from .patterns import check_patterns


@dataclass
class Base:
    """A base model and how it came to be.

    Attributes:
        model: a transformers ``PreTrainedModel``; after ``attach`` of the adapter PEFT has wrapped its layers in place.
        architecture: what it was built from.
        device: ``meta``, ``cpu``, ``cuda:0``, …
        dtype: what from_pretrained loads the weights in, before quantization.
        dtype_known: False where neither config nor checkpoint say it (a bare config.json): bytes are then a guess.
        quantizer: transformers' ``HfQuantizer``, None where nothing is quantized.
        loading_info: from_pretrained's ``output_loading_info``; None on the meta device.
        notes: what was done otherwise than the setup says, and why; one sentence each.
        task: what the class that loads it is for; a key of ``classes.AUTO_CLASSES``.
    """

    model: Any
    architecture: Architecture
    device: torch.device
    dtype: torch.dtype
    dtype_known: bool = True
    quantizer: Any = None
    loading_info: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    task: str = "causal-lm"

    @property
    def config(self) -> Any:
        """The model's transformers config."""
        return self.model.config


def build_base(
    setup: Setup,
    device: str | torch.device = "meta",
    *,
    architecture: Architecture | None = None,
    offline: bool = True,
) -> Base:
    """The base as from_pretrained gives it: on ``meta`` without weights, elsewhere really loaded.

    On the meta device 4-bit weights are packed as on a real one, with their statistics, so that dtypes, shapes and
    bytes are those of a real load.

    Raises:
        StageError: with the kind of ``ModelFacts.build_error_kind`` (meta) or ``LoadFailure.kind``.
    """
    device = torch.device(device)
    architecture = architecture or load_config(setup, offline=offline, with_files=device.type != "meta")
    if device.type == "meta":
        return _build_on_meta(setup, architecture)
    return _load(setup, architecture, device, offline=offline)


def wants_4bit(setup: Setup) -> bool:
    """Whether the setup asks bitsandbytes for 4-bit."""
    values = Taken(setup)
    return values["quantization.backend"] == "bitsandbytes" and bool(values["quantization.load_in_4bit"])


def bits_and_bytes(setup: Setup) -> Any | None:
    """transformers' ``BitsAndBytesConfig`` with what the setup says and nothing else; None where it asks for none.

    Raises:
        StageError: kind ``invalid-config``: a value that BitsAndBytesConfig refuses.
    """
    from transformers import BitsAndBytesConfig

    said = {k: v for k, v in setup.quantization.model_dump(exclude={"backend", "extra"}).items() if v is not None}
    said |= setup.quantization.extra
    said["load_in_4bit"] = wants_4bit(setup)
    if not said["load_in_4bit"] and not said.get("load_in_8bit"):
        return None
    try:
        return BitsAndBytesConfig(**said)
    except (ValueError, TypeError, AttributeError) as error:
        raise StageError(
            f"The quantization settings are not valid: {first_sentence(error)}",
            kind="invalid-config",
            remedy="Correct them; names and values are those of BitsAndBytesConfig.",
            place=setup.place("quantization"),
        ) from error


def _model_config(setup: Setup, architecture: Architecture) -> Any:
    """The checkpoint's config, overridden by what the setup passes to from_pretrained under the names of its fields."""
    config = copy.deepcopy(architecture.config)
    said = {name: getattr(setup.model, name) for name in ("use_cache", "num_labels")}
    if setup.training.method == "reward" and said["num_labels"] is None:
        said["num_labels"] = 1  # trl's RewardTrainer loads the model it is named with one (trl 1.16, reward_trainer.py)
    said |= {name: value for name, value in setup.model.extra.items() if hasattr(config, name)}
    for name, value in said.items():
        if value is not None:
            setattr(config, name, value)
    return config


def _build_on_meta(setup: Setup, architecture: Architecture) -> Base:
    loader = loader_of(setup, architecture)
    asked = bits_and_bytes(setup)
    config = _model_config(setup, architecture)
    dtype, known = resolve_dtype(setup, architecture, quantized=asked is not None)
    notes: list[str] = []
    try:
        model, quantizer = model_on_meta(
            lambda: _from_config(setup, loader, config, dtype, notes), config, asked, dtype
        )
    except Exception as error:
        raise _build_error(error, setup) from error
    return Base(model, architecture, torch.device("meta"), dtype, known, quantizer, None, notes, loader.task)


def model_on_meta(
    make: Callable[[], Any], config: Any, asked: Any | None, dtype: torch.dtype
) -> tuple[Any, Any | None]:
    """(model, its quantizer or None) as from_pretrained hands it over, on the meta device.

    Args:
        make: builds the plain model of ``config`` on meta.
        asked: the quantization that from_pretrained is asked for; a quantized checkpoint's own wins.
    """
    quantizer = _quantizer(config, asked)
    model = make()
    if quantizer is not None:
        check_patterns(quantizer.quantization_config, (name for name, _ in model.named_modules() if name))
        _convert(model, quantizer, dtype)
        # from_pretrained ties last: a head that was converted takes the embeddings' 16-bit weight back.
        model.tie_weights()
    settle_dtypes(model, dtype)
    if quantizer is not None:
        model.hf_quantizer = quantizer
        quantizer.postprocess_model(model)
        pack_weights(model, dtype)
    model.eval()  # from_pretrained hands the model over in evaluation mode
    return model, quantizer


def _from_config(setup: Setup, loader: Loader, config: Any, dtype: torch.dtype, notes: list[str]) -> Any:
    arguments: dict[str, Any] = {
        dtype_argument(): dtype,
        "trust_remote_code": bool(setup.model.trust_remote_code),
    }
    wanted = setup.model.attn_implementation
    with torch.device("meta"):
        if wanted is not None:
            try:
                return loader.from_config(copy.deepcopy(config), attn_implementation=wanted, **arguments)
            except (ImportError, ValueError) as error:
                # The kernels' package is missing here; the layers are the same without it.
                notes.append(f"Built without attn_implementation {wanted!r}: {first_sentence(error)}")
        return loader.from_config(config, **arguments)


def _quantizer(config: Any, asked: Any | None) -> Any | None:
    """The HfQuantizer that from_pretrained would use; a quantized checkpoint's own settings win.

    Source: ``transformers/quantizers/auto.py``, ``get_hf_quantizer``.
    """
    from transformers.quantizers.auto import AutoHfQuantizer

    stored = getattr(config, "quantization_config", None)
    if stored is not None and not AutoHfQuantizer.supports_quant_method(stored):
        stored = None
    if stored is None and asked is None:
        return None
    settings = AutoHfQuantizer.merge_quantization_configs(stored, asked) if stored is not None else asked
    config.quantization_config = settings
    return AutoHfQuantizer.from_config(settings, pre_quantized=stored is not None)


def _convert(model: Any, quantizer: Any, dtype: torch.dtype) -> None:
    """Replace linear layers as from_pretrained does, with the arguments of transformers 4.5x and 5 alike."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # the new layers' biases are made in it
    try:
        quantizer.preprocess_model(
            model=model,
            dtype=dtype,
            device_map={"": "cpu"},
            checkpoint_files=None,
            keep_in_fp32_modules=getattr(model, "_keep_in_fp32_modules", None),
            config=model.config,
            use_kernels=False,
        )
    finally:
        torch.set_default_dtype(default)


def _load(setup: Setup, architecture: Architecture, device: torch.device, *, offline: bool) -> Base:
    if architecture.source == "table":
        raise StageError(
            f"The weights of {architecture.name} are not on this machine.",
            kind="missing-file",
            remedy="Download the model, or name the folder that holds it.",
            place=setup.place("model.name_or_path"),
        )
    # First what the setup passes on, so that it cannot replace what keeps a load safe and readable.
    arguments: dict[str, Any] = {k: v for k, v in setup.model.extra.items() if not hasattr(architecture.config, k)}
    arguments |= {
        "config": _model_config(setup, architecture),
        "device_map": {"": str(device)},
        "trust_remote_code": bool(setup.model.trust_remote_code),
        "local_files_only": offline,
        "weights_only": True,
        "output_loading_info": True,
    }
    loader = loader_of(setup, architecture)
    if not loader.is_auto:
        arguments.pop("trust_remote_code")
    quantization = bits_and_bytes(setup)
    optional = {
        "quantization_config": quantization,
        dtype_argument(): setup.model.dtype,
        "attn_implementation": setup.model.attn_implementation,
        "revision": setup.model.revision if architecture.source != "folder" else None,
    }
    arguments.update({k: v for k, v in optional.items() if v is not None})
    try:
        model, info = loader.model_class.from_pretrained(_place_of(architecture), **arguments)
    except Exception as error:
        raise as_stage_error(error, "loading the base") from error
    dtype, known = resolve_dtype(setup, architecture, quantized=quantization is not None)
    quantizer = getattr(model, "hf_quantizer", None)
    return Base(model, architecture, device, dtype, known, quantizer, dict(info), task=loader.task)


def _place_of(architecture: Architecture) -> str:
    """What from_pretrained is given: a folder of its own, or the hub id of which config.json is at hand already."""
    return str(architecture.folder) if architecture.source == "folder" else architecture.name


def dtype_argument() -> str:
    """``dtype`` since transformers 4.56, ``torch_dtype`` before."""
    import transformers
    from packaging.version import Version

    return "dtype" if Version(transformers.__version__) >= Version("4.56") else "torch_dtype"


def _build_error(error: Exception, setup: Setup) -> StageError:
    if isinstance(error, StageError):
        return error
    text = str(error)
    if "already quantized" in text or "The model is quantized with" in text:
        return StageError(
            f"The checkpoint cannot be loaded in 4-bit: {first_sentence(error)}",
            kind="invalid-config",
            remedy="Name the unquantized model, or drop the quantization section.",
            place=setup.place("quantization"),
        )
    kind = "invalid-config" if isinstance(error, ValueError | TypeError | KeyError | AttributeError) else "other"
    stage_error = as_stage_error(error, "building the model")
    if stage_error.kind == "other":
        stage_error.kind = kind
        stage_error.remedy = stage_error.remedy or "Compare the model's config.json with the original model's."
    return stage_error
