"""Facts: what is true about a setup. Typed, frozen, documented, one module per subject; imports nothing of ours.

What only a stage with a model, data or a run fills is imported when it is first named: a config check needs none of it,
and building those hundred classes would be a tenth of its start-up.
"""

import sys
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pydantic import GetCoreSchemaHandler

from .base import Fact
from .config import ConfigFacts
from .environment import EnvironmentFacts
from .script import ScriptFacts

if TYPE_CHECKING:
    from .adapter import AdapterFacts
    from .batch import BatchFacts
    from .course import CourseFacts
    from .data import DataFacts
    from .load import LoadFacts
    from .memory import MemoryFacts
    from .model import ModelFacts
    from .quantization import QuantizationFacts
    from .run import RunFacts
    from .step import StepFacts
    from .stored import StoredFacts

_LATER = ("model", "adapter", "quantization", "memory", "data", "load", "step", "batch", "run", "course", "stored")


def __getattr__(name: str) -> Any:
    subject = name.removesuffix("Facts").lower()
    if subject not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f".{subject}", __name__), name)
    globals()[name] = found  # where pydantic looks for the names in the annotations of Facts
    return found


def _type_of(subject: str) -> Any:
    return getattr(sys.modules[__name__], f"{subject.capitalize()}Facts")


class Facts(Fact):
    """Everything that was seen; a subject that no stage looked at is None."""

    # ``model_construct`` and ``model_copy`` work at once; what needs a validator imports every subject first.

    config: ConfigFacts | None = None
    environment: EnvironmentFacts | None = None
    script: ScriptFacts | None = None
    model: "ModelFacts | None" = None
    adapter: "AdapterFacts | None" = None
    quantization: "QuantizationFacts | None" = None
    memory: "MemoryFacts | None" = None
    data: "DataFacts | None" = None
    load: "LoadFacts | None" = None
    step: "StepFacts | None" = None
    batch: "BatchFacts | None" = None
    run: "RunFacts | None" = None
    course: "CourseFacts | None" = None
    stored: "StoredFacts | None" = None

    @classmethod
    def model_rebuild(cls, **options: Any) -> bool | None:
        """Build the validator, with every subject at hand."""
        subject_types()
        return super().model_rebuild(**options)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> Any:
        subject_types()
        return handler(source)


@cache
def subject_types() -> dict[str, Any]:
    """The type of each subject, by its name."""
    return {name: _type_of(name) | None for name in Facts.model_fields}


__all__ = [
    "AdapterFacts",
    "BatchFacts",
    "ConfigFacts",
    "CourseFacts",
    "DataFacts",
    "EnvironmentFacts",
    "Fact",
    "Facts",
    "LoadFacts",
    "MemoryFacts",
    "ModelFacts",
    "QuantizationFacts",
    "RunFacts",
    "ScriptFacts",
    "StepFacts",
    "StoredFacts",
    "subject_types",
]
