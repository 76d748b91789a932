"""Automatic mixed precision on the meta device, played as CUDA plays it.

PyTorch has no autocast for meta tensors, so a trace without this would miss every cast that a step makes: of the
float32 adapter weights, of what prepare_model_for_kbit_training left in float32, of activations. Which operators cast
to 16 bits and which to 32, and that casts of float32 leaves that want a gradient are kept until the outermost region
ends, is restated from ``ATen/autocast_mode.{h,cpp}`` (``AT_FORALL_LOWER_PRECISION_FP``, ``AT_FORALL_FP32``,
``AT_FORALL_FP32_SET_OPT_DTYPE``, ``cached_cast``), PyTorch 2.6 to 2.13.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from types import TracebackType
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode, _len_torch_function_stack

_HALVES = frozenset((torch.bfloat16, torch.float16))
_CASTABLE = frozenset((torch.bfloat16, torch.float16, torch.float32))


class CastCache:
    """The 16-bit copies of float32 leaves that autocast keeps until its outermost region ends."""

    def __init__(self) -> None:
        self.depth = 0
        self.copies: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def cast(self, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """``tensor`` in ``dtype``, from the cache where autocast would take it from there."""
        if tensor.dtype is dtype or tensor.dtype not in _CASTABLE:
            return tensor
        cacheable = (
            dtype in _HALVES
            and tensor.dtype is torch.float32
            and tensor.requires_grad
            and tensor.is_leaf
            and not tensor._is_view()
            and torch.is_autocast_cache_enabled()
        )
        if not cacheable:
            return tensor.to(dtype)
        entry = self.copies.get(id(tensor))
        if entry is None:
            entry = (tensor, tensor.to(dtype))
            self.copies[id(tensor)] = entry
        return entry[1]


class Autocast:
    """Stands in for ``torch.autocast`` while a step is traced: same arguments, for the ``cuda`` device type.

    A region for the CPU does nothing here, as nothing of a step's memory is there. Autograd runs the backward pass
    without torch-function modes, so a region that recomputation opens there brings ``mode`` back in.
    """

    cache = CastCache()
    mode: TorchFunctionMode | None = None
    regions: ClassVar[list[torch.dtype | None]] = []
    """What each open region casts to, the innermost last; PyTorch itself does not tell below the dispatcher."""

    def __init__(
        self,
        device_type: str,
        dtype: torch.dtype | None = None,
        enabled: bool = True,
        cache_enabled: bool | None = None,
    ) -> None:
        self.plays = device_type in ("cuda", "meta")
        self.dtype = dtype
        self.enabled = enabled
        self.cache_enabled = cache_enabled

    def __enter__(self) -> Autocast:
        if self.plays:
            self._before = (
                torch.is_autocast_enabled("cuda"),
                torch.get_autocast_dtype("cuda"),
                torch.is_autocast_cache_enabled(),
            )
            torch.set_autocast_enabled("cuda", self.enabled)
            torch.set_autocast_dtype("cuda", self.dtype or self._before[1])
            torch.set_autocast_cache_enabled(self._before[2] if self.cache_enabled is None else self.cache_enabled)
            self.cache.depth += 1
            self.regions.append(torch.get_autocast_dtype("cuda") if self.enabled else None)
            self._entered = self.mode if _len_torch_function_stack() == 0 else None
            if self._entered is not None:
                self._entered.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.plays:
            if self._entered is not None:
                self._entered.__exit__(kind, error, trace)
            self.cache.depth -= 1
            self.regions.pop()
            if self.cache.depth == 0:
                self.cache.copies.clear()
            torch.set_autocast_enabled("cuda", self._before[0])
            torch.set_autocast_dtype("cuda", self._before[1])
            torch.set_autocast_cache_enabled(self._before[2])

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def inside(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return inside


def casts_to() -> torch.dtype | None:
    """The 16-bit type that autocast casts to now, also below the dispatcher; None where it is off."""
    return Autocast.regions[-1] if Autocast.regions else None


def to_lower(func: Any, args: Any, kwargs: Any) -> Any:
    """Run an operator of autocast's 16-bit list."""
    if not torch.is_autocast_enabled("cuda"):
        return func(*args, **kwargs)
    return _called_with_casts(func, args, kwargs, torch.get_autocast_dtype("cuda"))


def to_float(func: Any, args: Any, kwargs: Any) -> Any:
    """Run an operator of autocast's float32 list."""
    if not torch.is_autocast_enabled("cuda"):
        return func(*args, **kwargs)
    return _called_with_casts(func, args, kwargs, torch.float32)


def with_float_result(func: Any, args: Any, kwargs: Any) -> Any:
    """Run an operator that autocast asks for a float32 result, unless the caller named a type."""
    half = bool(args) and isinstance(args[0], torch.Tensor) and args[0].dtype in _HALVES
    if half and kwargs.get("dtype") is None and torch.is_autocast_enabled("cuda"):
        kwargs = {**kwargs, "dtype": torch.float32}
    return func(*args, **kwargs)


def cross_entropy(func: Any, args: Any, kwargs: Any) -> Any:
    """Cross entropy, which is on none of autocast's lists, while one of the two operators that it is made of is.

    The log-softmax is asked for in the logits' own type, which autocast respects; the loss of it is taken in float32.
    Source: ``ATen/native/LossNLL.cpp`` (``cross_entropy_loss_symint``); held against what an H200 was asked for.
    """
    logits, target = args[0], args[1] if len(args) > 1 else kwargs["target"]
    plain = not kwargs.get("label_smoothing") and not target.is_floating_point() and len(args) < 4
    if not (plain and logits.dtype in _HALVES and torch.is_autocast_enabled("cuda")):
        return func(*args, **kwargs)
    logs = torch.log_softmax(logits, int(logits.dim() > 1), dtype=logits.dtype)
    told = {name: kwargs[name] for name in ("weight", "ignore_index", "reduction") if kwargs.get(name) is not None}
    if len(args) > 2 and args[2] is not None:
        told["weight"] = args[2]
    return F.nll_loss(logs.float(), target, **told)


def _called_with_casts(func: Any, args: Any, kwargs: Any, dtype: torch.dtype) -> Any:
    """A call with its arguments cast, those given by name first: they come last in every signature."""
    named = _cast_all(kwargs, dtype)
    return func(*_cast_all(args, dtype), **named)


def _cast_all(values: Any, dtype: torch.dtype) -> Any:
    """Casts, last argument first: they are arguments of one C++ call (``WrapFunction_``), which GCC evaluates so."""
    if isinstance(values, torch.Tensor):
        return Autocast.cache.cast(values, dtype)
    if isinstance(values, dict):
        return {name: _cast_all(value, dtype) for name, value in values.items()}
    if isinstance(values, (tuple, list)):
        return type(values)([_cast_all(value, dtype) for value in reversed(values)][::-1])
    return values


Tensor = torch.Tensor
LOWER = (
    F.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, Tensor.mm, torch.bmm, Tensor.bmm,
    torch.addmm, Tensor.addmm, torch.baddbmm, Tensor.baddbmm, torch.addbmm, torch.mv, Tensor.mv, torch.addmv,
    torch.einsum, torch.chain_matmul, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.prelu,
)  # fmt: skip
FLOAT = (
    torch.pow, Tensor.pow, Tensor.__pow__, Tensor.__rpow__, torch.exp, Tensor.exp, torch.log, Tensor.log,
    torch.rsqrt, Tensor.rsqrt, torch.reciprocal, Tensor.reciprocal, F.softplus, F.layer_norm, F.group_norm,
    torch.layer_norm, torch.logsumexp, Tensor.logsumexp, F.nll_loss, F.mse_loss, F.kl_div,
    F.rms_norm, torch.rms_norm, F.cosine_similarity, torch.expm1, torch.log1p, Tensor.log1p, torch.log2,
)  # fmt: skip
FLOAT_RESULT = (
    F.softmax, torch.softmax, Tensor.softmax, F.log_softmax, torch.log_softmax, Tensor.log_softmax, torch.sum,
    Tensor.sum, torch.prod, Tensor.prod, torch.cumsum, Tensor.cumsum, torch.cumprod, Tensor.cumprod,
    torch.linalg.vector_norm,
)  # fmt: skip
RULES: dict[Any, Callable[[Any, Any, Any], Any]] = {
    **dict.fromkeys(LOWER, to_lower),
    **dict.fromkeys(FLOAT, to_float),
    **dict.fromkeys(FLOAT_RESULT, with_float_result),
    F.cross_entropy: cross_entropy,
}
"""How a call is run under autocast, by function."""
