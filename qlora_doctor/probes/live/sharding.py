"""How a model's parameters are spread over processes, and what of ``examine`` that leaves possible.

Nothing here, and nothing that is done with a sharded model, talks to another process: a collective that one rank alone
enters waits for ever, and addresses that a sharded parameter seems to have need not be its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ..tensors import every_module, parameters_of

_BEFORE = "Examine the model before it is sharded"


@dataclass(frozen=True)
class Sharding:
    """What cannot be looked at, and why; None where it can.

    Attributes:
        look: why not even what stands still can be looked at.
        step: why no step is taken.
        remedy: what would supply it.
    """

    look: str | None = None
    step: str | None = None
    remedy: str | None = None


def sharding_of(model: nn.Module) -> Sharding:
    """How a model is sharded, by the classes of its modules and the marks of its parameters."""
    classes = {cls.__name__ for kind in set(map(type, every_module(model))) for cls in kind.__mro__}
    parameters = [parameter for _, parameter in parameters_of(model)]
    if "FullyShardedDataParallel" in classes:
        return _hidden("FSDP (1) keeps the parameters of many layers in flat ones, of which each rank holds a part")
    if any(hasattr(parameter, "ds_id") for parameter in parameters):
        return _hidden("DeepSpeed ZeRO-3 has taken the parameters apart and gathers them while a layer runs")
    if "FSDPModule" in classes:
        return _sharded("FSDP 2 has sharded the parameters")
    if any(type(tensor).__name__ == "DTensor" for tensor in (*parameters, *model.buffers())):
        return _sharded("The parameters are DTensors, spread over several ranks")
    return Sharding()


def _hidden(how: str) -> Sharding:
    reason = f"{how}: their names, shapes and values do not show in one process."
    return Sharding(look=reason, step=reason, remedy=f"{_BEFORE}.")


def _sharded(how: str) -> Sharding:
    return Sharding(
        step=f"{how}: a step is the work of all ranks together, and one rank that takes it alone would wait for ever. "
        "What stands still was looked at, values in this rank's shards alone.",
        remedy=f"{_BEFORE}, with a batch.",
    )
