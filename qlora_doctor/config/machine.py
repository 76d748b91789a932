"""Conditions on the machine, for what a trainer refuses on some machines alone: ``torch < 2.7``, ``torch_npu``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..facts.environment import EnvironmentFacts

_CONDITION = re.compile(r"(\w+)(?: < (\d+(?:\.\d+)*))?\Z")


def is_so(condition: str, environment: EnvironmentFacts | None, card: Mapping[str, Any]) -> bool | None:
    """Whether a condition holds.

    Args:
        condition: a package's name (it is installed), ``NAME < VERSION`` (it is installed and older), ``capability <
            NUMBER`` (the compute capability of the card that the run is meant for), ``gpus < NUMBER`` (of this
            machine).
        environment: this machine; None where nothing may be assumed about it.
        card: the facts of that card, ``gpu_capability``.

    Returns:
        None where it cannot be known.
    """
    from ..probes.environment import version_tuple

    found = _CONDITION.match(condition)
    assert found is not None, condition
    name, limit = found.groups()
    if name == "capability":
        capability = card.get("gpu_capability")
        return None if capability is None else bool(capability < float(limit))
    if environment is None:
        return None
    if name == "gpus":
        return None if not environment.gpus else len(environment.gpus) < int(limit)
    installed = getattr(environment.packages, name)
    if limit is None:
        return installed is not None
    version, oldest = version_tuple(installed), version_tuple(limit)
    return None if version is None or oldest is None else version < oldest
