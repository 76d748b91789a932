"""The state and the temporaries of an optimizer step, on meta tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..core.closest import closest
from .trace import Recorder
from .values import UnknownValue

PAGED_FROM = 100_000
"""Elements from which a paged optimizer's state lives in managed memory, which torch's counters do not see.

Source: ``bitsandbytes/optim/optimizer.py`` (``get_state_buffer``).
"""
BLOCK_8BIT = 256
"""Elements that share a scale in an 8-bit state (same file, ``init_state``; 0.44 and later)."""
MIN_8BIT = 4096
"""Elements under which an 8-bit optimizer keeps 32 bits (``min_8bit_size``)."""


class UnknownOptimizer(UnknownValue):
    """An optimizer whose memory is not known here."""


class Optimizer:
    """Stands in for the trainer's optimizer: keeps state per parameter and steps, allocating what it would."""

    def __init__(self, name: str, recorder: Recorder, embeddings: frozenset[int] = frozenset()) -> None:
        """``embeddings``: ids of embedding weights, of which transformers keeps an 8-bit optimizer's state in 32 bits
        (``Trainer.create_optimizer``)."""
        self.name = name
        self.embeddings = embeddings
        self.recorder = recorder
        self.state: dict[torch.nn.Parameter, list[torch.Tensor]] = {}
        self.shared: list[torch.Tensor] = []
        self._init, self._update = _find(name)

    def step(self, parameters: list[torch.nn.Parameter]) -> None:
        """One step over the parameters that have a gradient."""
        self.recorder.category = "optimizer"
        with torch.no_grad():
            for parameter in parameters:
                if parameter not in self.state:
                    with self.recorder.on_behalf_of(parameter):
                        self.state[parameter] = self._init(self, parameter)
            self._update(self, parameters)
        self.recorder.category = None


def _empty(shape: Any, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _adam(self: Optimizer, parameter: torch.nn.Parameter) -> list[torch.Tensor]:
    """Step count on the device (fused), then both moments, like the parameter (``torch/optim/adam.py``)."""
    return [_empty(()), torch.empty_like(parameter), torch.empty_like(parameter)]


def _adam_host_step(self: Optimizer, parameter: torch.nn.Parameter) -> list[torch.Tensor]:
    """Both moments; the step count is on the host unless fused or capturable (``torch/optim/adam.py``)."""
    return [torch.empty_like(parameter), torch.empty_like(parameter)]


def _momentum(self: Optimizer, parameter: torch.nn.Parameter) -> list[torch.Tensor]:
    return []


def _adafactor(self: Optimizer, parameter: torch.nn.Parameter) -> list[torch.Tensor]:
    """Row and column means of a matrix, else a full second moment (``transformers/optimization.py``)."""
    if parameter.dim() >= 2:
        return [_empty(parameter.shape[:-1]), _empty(parameter.shape[:-2] + parameter.shape[-1:])]
    return [torch.empty_like(parameter)]


def _bitsandbytes(states: int, bits: int, paged: bool) -> Callable[[Optimizer, torch.nn.Parameter], list[torch.Tensor]]:
    """``Optimizer1State`` and ``Optimizer2State``'s ``init_state`` (``bitsandbytes/optim/optimizer.py``)."""

    def init(self: Optimizer, parameter: torch.nn.Parameter) -> list[torch.Tensor]:
        count = parameter.numel()
        small = bits == 32 or count < MIN_8BIT or id(parameter) in self.embeddings
        if not small and not self.shared:
            self.shared += [_empty(256) for _ in range(states)]
        dtype = torch.float32 if small else torch.uint8
        out = [] if paged and count >= PAGED_FROM else [_empty(parameter.shape, dtype) for _ in range(states)]
        if not small:
            out += [_empty(-(-count // BLOCK_8BIT)) for _ in range(states)]
        return out

    return init


def _in_place(self: Optimizer, parameters: list[torch.nn.Parameter]) -> None:
    """Fused kernels and bitsandbytes' write in place and take nothing."""


def _foreach_adam(self: Optimizer, parameters: list[torch.nn.Parameter]) -> None:
    """``_multi_tensor_adamw``: the square roots of all second moments live together until the update is applied."""
    roots = [torch.empty_like(parameter) for parameter in parameters]
    del roots


def _adafactor_update(self: Optimizer, parameters: list[torch.nn.Parameter]) -> None:
    for parameter in parameters:
        square = torch.empty_like(parameter)
        update = torch.empty_like(parameter)
        del square, update


InitAndUpdate = tuple[
    Callable[[Optimizer, torch.nn.Parameter], list[torch.Tensor]],
    Callable[[Optimizer, list[torch.nn.Parameter]], None],
]
"""What an optimizer keeps for a parameter, and what it takes while it updates all of them."""

RULES: dict[str, InitAndUpdate] = {
    "adamw_torch_fused": (_adam, _in_place),
    "adamw_torch": (_adam_host_step, _foreach_adam),
    "adafactor": (_adafactor, _adafactor_update),
    "sgd": (_momentum, _in_place),
    "adamw_8bit": (_bitsandbytes(2, 8, False), _in_place),
    "adamw_bnb_8bit": (_bitsandbytes(2, 8, False), _in_place),
    "paged_adamw": (_bitsandbytes(2, 32, True), _in_place),
    "paged_adamw_32bit": (_bitsandbytes(2, 32, True), _in_place),
    "paged_adamw_8bit": (_bitsandbytes(2, 8, True), _in_place),
    "lion_32bit": (_bitsandbytes(1, 32, False), _in_place),
    "lion_8bit": (_bitsandbytes(1, 8, False), _in_place),
    "paged_lion_32bit": (_bitsandbytes(1, 32, True), _in_place),
    "paged_lion_8bit": (_bitsandbytes(1, 8, True), _in_place),
    "rmsprop_bnb": (_bitsandbytes(1, 32, False), _in_place),
    "rmsprop_bnb_8bit": (_bitsandbytes(1, 8, False), _in_place),
    "rmsprop_bnb_32bit": (_bitsandbytes(1, 32, False), _in_place),
    "ademamix": (_bitsandbytes(3, 32, False), _in_place),
    "ademamix_8bit": (_bitsandbytes(3, 8, False), _in_place),
    "paged_ademamix_32bit": (_bitsandbytes(3, 32, True), _in_place),
    "paged_ademamix_8bit": (_bitsandbytes(3, 8, True), _in_place),
}
"""What each optimizer of ``TrainingArguments.optim`` keeps and takes."""


def _find(name: str) -> InitAndUpdate:
    try:
        return RULES[str(name)]
    except KeyError:
        close = closest(str(name), RULES, n=2)
        hint = f" (names like it: {', '.join(close)})" if close else ""
        raise UnknownOptimizer(f"the memory of optimizer {str(name)!r} is not known{hint}") from None
