"""An adapter that PEFT refuses ends the memory stage with that reason, not with a failure of the doctor's own."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

from qlora_doctor.core.errors import StageError
from qlora_doctor.memory.subject import subject_of_setup
from tests.models import make_architecture
from tests.probes.conftest import make_setup


@pytest.mark.parametrize(
    ("lora", "method"), [({"task_type": "CAUSAL_LM"}, "reward"), ({"target_modules": ["nowhere"]}, "sft")]
)
def test_the_reason_is_pefts(tmp_path: Path, lora: dict[str, object], method: str) -> None:
    setup = make_setup(make_architecture(tmp_path / "llama", "llama"), lora=lora, trainer="trl", method=method)
    with pytest.raises(StageError, match="Attaching the adapter failed"):
        subject_of_setup(setup)
