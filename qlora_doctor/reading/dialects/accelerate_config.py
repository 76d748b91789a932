"""An Accelerate config on its own: how a run is launched, and nothing of what is trained."""

from __future__ import annotations

from ...setup.setup import Setup
from ...setup.traits import Traits
from ..accelerate import is_accelerate, with_launch
from ..document import Document
from .fields import Reading

name = "accelerate-config"
TRAITS = Traits(decided_by=(), of_a_project=False)
WHAT = "an Accelerate config"
_DECIDED = ("training.fsdp", "training.fsdp_config", "training.deepspeed")
"""What the file says by leaving it out."""
_SILENT = "An Accelerate config says how a run is launched; the training config says what is trained."


def recognise(document: Document) -> float:
    """``compute_environment``, or a ``distributed_type`` with ``num_processes``."""
    return 0.97 if is_accelerate(document.data) else 0.0


def read(document: Document) -> Setup:
    """Processes, sharding and precision; all else is unknown."""
    reading = Reading(document, name, "accelerate", traits=TRAITS, typed=False)
    setup = with_launch(reading.setup(), document, {})
    rest = Reading(document, name, "accelerate", traits=TRAITS, typed=False)
    rest.leave_rest("model", "quantization", "lora", "training", "data", why=_SILENT)
    unknown = {path: origin for path, origin in rest.setup().origins.items() if path not in _DECIDED}
    return setup.model_copy(update={"origins": {**unknown, **setup.origins}})
