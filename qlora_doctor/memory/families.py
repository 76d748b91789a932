"""What an attention kernel is chosen by: machines that are alike in it share a trace."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .machine import Machine

SMALL_MEMORY_HEAD = 192
"""Largest head size whose backward kernel fits the shared memory of every card that has flash attention."""


def family(machine: Machine, head: int) -> tuple[bool, ...]:
    """All that :func:`.attention.backend` asks of a card, for heads of at most ``head`` elements."""
    capability = machine.capability
    return (
        has_cudnn(machine),
        capability >= (7, 0),
        capability >= (8, 0),
        (8, 0) <= capability <= (12, 1),
        has_small_memory(machine) and head > SMALL_MEMORY_HEAD,
    )


def has_cudnn(machine: Machine) -> bool:
    """Whether cuDNN's attention comes first on the card."""
    return machine.cudnn_attention and machine.capability[0] in (9, 10) and machine.torch >= (2, 11)


def has_small_memory(machine: Machine) -> bool:
    """Cards with less than 192 KiB of shared memory a multiprocessor (``check_requires_grad_and_head_dim_gt192_…``)."""
    return (8, 6) <= machine.capability <= (8, 9) or machine.capability[0] == 12
