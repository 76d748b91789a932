"""Facts: what is true about a setup. Typed, frozen, documented, one module per subject; imports nothing of ours."""

from .adapter import AdapterFacts
from .base import Fact
from .batch import BatchFacts
from .config import ConfigFacts
from .course import CourseFacts
from .data import DataFacts
from .environment import EnvironmentFacts
from .load import LoadFacts
from .memory import MemoryFacts
from .model import ModelFacts
from .quantization import QuantizationFacts
from .run import RunFacts
from .script import ScriptFacts
from .step import StepFacts
from .stored import StoredFacts


class Facts(Fact):
    """Everything that was seen; a subject that no stage looked at is None."""

    config: ConfigFacts | None = None
    environment: EnvironmentFacts | None = None
    script: ScriptFacts | None = None
    model: ModelFacts | None = None
    adapter: AdapterFacts | None = None
    quantization: QuantizationFacts | None = None
    memory: MemoryFacts | None = None
    data: DataFacts | None = None
    load: LoadFacts | None = None
    step: StepFacts | None = None
    batch: BatchFacts | None = None
    run: RunFacts | None = None
    course: CourseFacts | None = None
    stored: StoredFacts | None = None


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
]
