"""Whether a step's updates arrive: elements that have a gradient and yet stay bit for bit what they were."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from ..tensors import local_part

_ELEMENTS = 1 << 24
"""Elements of one tensor that are looked at, from its beginning."""


class UpdateWatch:
    """Copies of the trainable tensors on the CPU, taken before a step, and the comparison after it.

    On the CPU, so that no device memory is held while the step runs.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self._parameters = parameters
        self._before = {name: _head(p.detach()).to("cpu", copy=True) for name, p in parameters.items()}

    def unmoved(self, norms: Mapping[str, float]) -> dict[str, torch.Tensor]:
        """Gradients, on the CPU, of the tensors that had one that is not zero and that this step left as they were.

        Call it between the optimizer's step and zero_grad. For a gradient that the step has dropped, one of its size is
        made.

        Args:
            norms: L2 norms of the gradients as backward gave them.
        """
        found: dict[str, torch.Tensor] = {}
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                norm = norms.get(name, 0.0)
                if not (0.0 < norm < math.inf) or (parameter.grad is not None and parameter.grad.is_sparse):
                    continue
                if torch.equal(_head(parameter.detach()), self._before[name].to(parameter.device)):
                    gradient = parameter.grad
                    if gradient is None:
                        gradient = torch.full_like(parameter, norm / math.sqrt(parameter.numel()))
                    found[name] = gradient.detach().to("cpu", copy=True)
        return found

    def lost_ratio(self) -> float | None:
        """Share of the elements with a nonzero gradient that did not change; None where no element has one.

        Call it between the optimizer's step and zero_grad.
        """
        lost = moved = 0
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                if parameter.grad is None or parameter.grad.is_sparse:
                    continue
                before = self._before[name].to(parameter.device)
                has_gradient = _head(parameter.grad.detach()) != 0
                same = _head(parameter.detach()) == before
                lost += int((same & has_gradient).sum())
                moved += int((~same & has_gradient).sum())
        return lost / (lost + moved) if lost + moved else None


def _head(tensor: torch.Tensor) -> torch.Tensor:
    return local_part(tensor).reshape(-1)[:_ELEMENTS]
