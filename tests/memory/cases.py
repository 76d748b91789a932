"""Small cases, traced in a second."""

from __future__ import annotations

from typing import Any

from qlora_doctor.memory.machine import Machine
from qlora_doctor.tables.cards import find_card

H200 = Machine(find_card("H200"), (2, 11))
RTX_4090 = Machine(find_card("RTX 4090"), (2, 11))

LLAMA = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 1003,
}


def subject(architecture: dict[str, Any] | None = None, **options: Any) -> Any:
    """The subject of a small case: an architecture and StepCase's other fields."""
    from transformers import AutoConfig

    from benchmarks.memory.step_case import StepCase, subject_of_case

    config = AutoConfig.for_model(**(architecture or LLAMA))
    return subject_of_case(StepCase(config=config, **({"batch": 2, "sequence": 128} | options)))
