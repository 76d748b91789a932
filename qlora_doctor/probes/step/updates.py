"""Whether a step's updates arrive: elements that have a gradient and yet stay bit for bit what they were."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from ..observing.fingerprint import fingerprints
from ..tensors import local_part

_SAMPLE = 1 << 12
"""Elements of one tensor that are looked at one by one, evenly spread over it."""


class UpdateWatch:
    """What the trainable tensors are before a step, and the comparison after it.

    Whether a tensor moved: by the fingerprint of all its bytes; the share of its elements that did, by a sample.
    Both are made where the tensors are and fetched in one transfer, and no device memory is held while the step runs.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self._parameters = parameters
        self._prints = fingerprints({name: p.detach() for name, p in parameters.items()})
        self._before = _samples({name: p.detach() for name, p in parameters.items()})
        self._gradients: dict[str, torch.Tensor] = {}

    def hold_gradients(self) -> None:
        """Keep the gradients as backward left them, by the same sample, for :meth:`along_gradient`."""
        given = {n: p.grad.detach() for n, p in self._parameters.items() if p.grad is not None and not p.grad.is_sparse}
        self._gradients = _samples(given)

    def along_gradient(self) -> float | None:
        """Share of the elements that moved which moved along their gradient as backward left it, and not against it.

        Every optimizer's first step goes against its gradient, element by element or (Muon) nearly so. Call it between
        the optimizer's step and zero_grad; None where nothing moved that has a gradient.
        """
        now = _samples({name: self._parameters[name].detach() for name in self._gradients})
        names = [name for name, gradient in self._gradients.items() if gradient.shape == now[name].shape]
        if not names:
            return None
        change = torch.cat([(now[name].double() - self._before[name].double()).sign() for name in names])
        product = change * torch.cat([self._gradients[name].double().sign() for name in names])
        along, against = int((product > 0).sum()), int((product < 0).sum())
        return along / (along + against) if along + against else None

    def unmoved(self, norms: Mapping[str, float]) -> dict[str, torch.Tensor]:
        """Gradients, on the CPU, of the tensors that had one that is not zero and that this step left as they were.

        Call it between the optimizer's step and zero_grad. For a gradient that the step has dropped, one of its size is
        made.

        Args:
            norms: L2 norms of the gradients as backward gave them.
        """
        found: dict[str, torch.Tensor] = {}
        now = fingerprints({name: p.detach() for name, p in self._parameters.items()})
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                norm = norms.get(name, 0.0)
                if not (0.0 < norm < math.inf) or (parameter.grad is not None and parameter.grad.is_sparse):
                    continue
                if name in now and now[name] == self._prints.get(name):
                    gradient = parameter.grad
                    if gradient is None:
                        gradient = torch.full_like(parameter, norm / math.sqrt(parameter.numel()))
                    found[name] = gradient.detach().to("cpu", copy=True)
        return found

    def lost_ratio(self) -> float | None:
        """Share of the elements with a nonzero gradient that did not change; None where no element has one.

        Call it between the optimizer's step and zero_grad.
        """
        given = {n: p for n, p in self._parameters.items() if p.grad is not None and not p.grad.is_sparse}
        now = _samples({name: p.detach() for name, p in given.items()})
        gradients = _samples({name: p.grad.detach() for name, p in given.items() if p.grad is not None})
        names = [name for name, gradient in gradients.items() if gradient.shape == now[name].shape]
        if not names:
            return None
        given_one = torch.cat([gradients[name] != 0 for name in names])
        same = torch.cat([now[name] == self._before[name] for name in names])
        lost, count = int((same & given_one).sum()), int(given_one.sum())
        return lost / count if count else None


def _samples(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Elements of each tensor on the CPU, flat: one transfer for each device and dtype."""
    groups: dict[tuple[torch.device, torch.dtype], list[tuple[str, torch.Tensor]]] = {}
    for name, tensor in tensors.items():
        flat = local_part(tensor).reshape(-1)
        sample = flat[:: max(1, math.ceil(flat.numel() / _SAMPLE))]
        groups.setdefault((sample.device, sample.dtype), []).append((name, sample))
    found: dict[str, torch.Tensor] = {}
    for group in groups.values():
        # A copy also where there is nothing to join: on the CPU cat may hand back what it was given.
        with torch.autocast(group[0][1].device.type, enabled=False):
            together = torch.cat([sample for _, sample in group]).to("cpu", copy=True)
        pieces = together.split([sample.numel() for _, sample in group])
        found.update((name, piece) for (name, _), piece in zip(group, pieces, strict=True))
    return found
