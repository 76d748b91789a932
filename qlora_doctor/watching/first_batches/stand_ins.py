"""What stands in for weights and GPUs while a script runs up to its training.

Models are built from their config on the meta device, quantized where the script asks for it, without weights; what is
sent to a GPU stays where it is; trainers take no mixed precision and log nowhere. None of this has a part in what a
batch holds.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ...pipeline.base import dtype_argument, model_on_meta

_CARD = (8, 0)
"""Compute capability that a script that asks is given: most ask in order to choose bf16."""


def stand_in() -> None:
    """Put the stand-ins in place, for this process and for good."""
    _no_gpu()
    _no_weights()
    _no_precision()


# -- GPUs


def _no_gpu() -> None:
    nn.Module.to = _module_to(nn.Module.to)
    nn.Module.cuda = lambda self, device=None: self
    torch.Tensor.to = _tensor_to(torch.Tensor.to)
    torch.Tensor.cuda = lambda self, *args, **kwargs: self
    torch.Tensor.item = _item(torch.Tensor.item)
    torch.compile = lambda model=None, **kwargs: model if model is not None else (lambda inner: inner)
    torch.cuda.get_device_capability = lambda device=None: _CARD
    torch.cuda.get_device_name = lambda device=None: "no GPU (--run-data)"
    torch.cuda.current_device = lambda: 0
    torch.cuda.set_device = lambda device: None
    torch.cuda.synchronize = lambda device=None: None


def _is_gpu(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    if isinstance(value, int):
        return True
    return isinstance(value, str | torch.device) and str(value).split(":")[0] in ("cuda", "xpu", "mps", "npu", "meta")


def _tensor_to(plain: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(plain)
    def to(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        kept = [each for each in args if not _is_gpu(each)]
        named = {key: value for key, value in kwargs.items() if not (key == "device" and _is_gpu(value))}
        if self.is_meta:  # there is nothing to copy
            kept = [each for each in kept if not isinstance(each, str | torch.device)]
            named.pop("device", None)
        named.pop("non_blocking", None)
        return plain(self, *kept, **named) if kept or named else self

    return to


def _item(plain: Callable[..., Any]) -> Callable[..., Any]:
    """A weight without a value counts as 0: libraries read offsets and norms of what they load an adapter into."""

    @functools.wraps(plain)
    def item(self: torch.Tensor) -> Any:
        return plain(torch.zeros((), dtype=self.dtype)) if self.is_meta else plain(self)

    return item


def _module_to(plain: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(plain)
    def to(self: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        kept = [each for each in args if isinstance(each, torch.dtype | torch.Tensor)]
        dtype = kwargs.get("dtype", kept[0] if kept and isinstance(kept[0], torch.dtype) else None)
        if getattr(self, "quantization_method", None) is not None or dtype is None:
            return self  # what is on meta has nothing to move, and what is on the CPU stays there
        return plain(self, dtype)

    return to


# -- weights


def _no_weights() -> None:
    from transformers import PreTrainedModel

    PreTrainedModel.from_pretrained = classmethod(_from_config)
    PreTrainedModel.resize_token_embeddings = _without_mean(PreTrainedModel.resize_token_embeddings)
    try:
        from transformers.generation import GenerationMixin

        GenerationMixin.generate = _answers_nothing
    except ImportError:
        pass


_OF_CONFIG = ("revision", "subfolder", "cache_dir", "trust_remote_code")


def _from_config(cls: Any, /, name: Any, *args: Any, config: Any = None, **kwargs: Any) -> Any:
    """from_pretrained without its weights."""
    from transformers import GenerationConfig, PretrainedConfig

    found = config
    if not isinstance(found, PretrainedConfig):
        passed = {key: kwargs[key] for key in _OF_CONFIG if key in kwargs}
        found = cls.config_class.from_pretrained(config or name, **passed)
    found = copy.deepcopy(found)
    for key, value in kwargs.items():
        if hasattr(found, key) and key not in ("dtype", "torch_dtype", "quantization_config", "attn_implementation"):
            setattr(found, key, value)
    dtype = _dtype(kwargs.get("dtype", kwargs.get("torch_dtype")), found)

    def make() -> Any:
        with torch.device("meta"):
            return cls._from_config(found, **{dtype_argument(): dtype})

    asked = kwargs.get("quantization_config")
    if asked is None and (kwargs.get("load_in_4bit") or kwargs.get("load_in_8bit")):
        from transformers import BitsAndBytesConfig

        asked = BitsAndBytesConfig(
            load_in_4bit=bool(kwargs.get("load_in_4bit")), load_in_8bit=bool(kwargs.get("load_in_8bit"))
        )
    model, _ = model_on_meta(make, found, asked, dtype)
    model.config._name_or_path = str(name)
    model.name_or_path = str(name)
    try:
        if model.can_generate():
            model.generation_config = GenerationConfig.from_pretrained(name)
    except (OSError, AttributeError, ValueError):
        pass  # the one made of the config stays
    return (model, {}) if kwargs.get("output_loading_info") else model


def _dtype(asked: Any, config: Any) -> torch.dtype:
    if isinstance(asked, str) and asked != "auto":
        asked = getattr(torch, asked, None)
    if isinstance(asked, torch.dtype):
        return asked
    own = getattr(config, "dtype", None) or getattr(config, "torch_dtype", None)
    own = getattr(torch, own, None) if isinstance(own, str) else own
    return own if isinstance(own, torch.dtype) else torch.float32


OLD_VOCABULARY = "qlora_doctor_old_vocabulary"
"""Attribute of a config that keeps how many embeddings there were before new ones were made."""


def _without_mean(plain: Callable[..., Any]) -> Callable[..., Any]:
    """New rows of an embedding on meta have no values that a mean could be taken of."""

    @functools.wraps(plain)
    def resize(self: Any, *args: Any, **kwargs: Any) -> Any:
        before = self.get_input_embeddings().weight.shape[0]
        made = plain(self, *args[:2], **{**kwargs, "mean_resizing": False})
        setattr(self.config, OLD_VOCABULARY, min(before, getattr(self.config, OLD_VOCABULARY, before)))
        return made

    return resize


def _answers_nothing(self: Any, inputs: Any = None, *args: Any, **kwargs: Any) -> Any:
    """generate of a model without weights: the prompt as it came."""
    ids = inputs if inputs is not None else kwargs.get("input_ids")
    return ids if ids is not None else torch.zeros((1, 1), dtype=torch.long)


# -- trainers

_ARGUMENTS: dict[str, Any] = {
    "bf16": False, "fp16": False, "bf16_full_eval": False, "fp16_full_eval": False, "tf32": None, "use_cpu": True,
    "no_cuda": True, "deepspeed": None, "fsdp": [], "fsdp_config": None, "torch_compile": False, "report_to": "none",
    "push_to_hub": False, "dataloader_num_workers": 0, "dataloader_persistent_workers": False,
    "dataloader_prefetch_factor": None, "dataloader_pin_memory": False, "ddp_backend": None, "use_liger_kernel": False,
}  # fmt: skip
"""Arguments of a trainer that ask for a GPU, other processes or the network."""


def _no_precision() -> None:
    from transformers import TrainingArguments

    plain = TrainingArguments.__post_init__

    @functools.wraps(plain)
    def post_init(self: Any) -> None:
        for name, value in _ARGUMENTS.items():
            if name in getattr(type(self), "__dataclass_fields__", {}):
                setattr(self, name, value)
        plain(self)

    TrainingArguments.__post_init__ = post_init
    try:
        import accelerate
    except ImportError:
        return
    begin = accelerate.Accelerator.__init__

    @functools.wraps(begin)
    def accelerator(self: Any, *args: Any, **kwargs: Any) -> None:
        if "mixed_precision" in kwargs:
            kwargs["mixed_precision"] = "no"
        kwargs |= {"cpu": True}
        for name in ("deepspeed_plugin", "fsdp_plugin", "log_with"):
            kwargs.pop(name, None)
        begin(self, *args, **kwargs)

    accelerate.Accelerator.__init__ = accelerator
