"""Chat templates by name, and which models know their marks."""

from __future__ import annotations

import pytest

from qlora_doctor.tables.templates import (
    ALIASES,
    _marks_by_name,
    _table,
    family_of,
    find_template,
    is_instructed,
    marks_of,
)


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", "Qwen"),
        ("unsloth/Qwen3-8B-unsloth-bnb-4bit", "Qwen"),
        ("meta-llama/Llama-3.1-8B", "Llama 3"),
        ("unsloth/llama-3-8b-bnb-4bit", "Llama 3"),
        ("/models/Meta-Llama-3-8B-Instruct", "Llama 3"),
        ("google/gemma-2-9b-it", "Gemma"),
        ("mistralai/Mistral-7B-v0.1", "Mistral"),
        ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", "Llama 2"),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", None),
        ("/data/r1-qwen7b", None),
        ("./outputs/qwen-merged-mine/final", None),
        ("NousResearch/Hermes-3-Llama-3.1-8B", None),
        ("google/gemma-4-26B-A4B-it", None),
        ("someone/my-model", None),
    ],
)
def test_family_of_a_name(model: str, family: str | None) -> None:
    found = family_of(model)
    assert (found[0] if found is not None else None) == family


def test_marks() -> None:
    llama, qwen = find_template("llama3"), find_template("qwen")
    assert llama is not None and llama.marks == ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    assert qwen is not None and qwen.marks == ("<|im_start|>", "<|im_end|>")
    alpaca = find_template("alpaca")
    assert alpaca is not None and alpaca.marks == () and find_template("nobody's") is None


def test_aliases_stand_in_the_table() -> None:
    for trainer, names in ALIASES.items():
        assert all(find_template(name, trainer) is not None for name in names), trainer


def test_models_that_answer() -> None:
    assert is_instructed("google/gemma-2-9b-it") and is_instructed("Qwen/Qwen2.5-7B-Instruct")
    assert not is_instructed("mistralai/Mistral-7B-v0.1") and not is_instructed("meta-llama/Llama-3.1-8B")


def test_names_of_further_templates() -> None:
    known = _marks_by_name()
    assert not [key for key in known if key[1] in ALIASES[key[0]]], "each name stands in one table"
    assert marks_of("qwen3_vl", "ms-swift") == ("<|im_end|>", "<|im_start|>") and marks_of("nobody's", "ms-swift") == ()
    assert "<|header_start|>" in marks_of("Llama4", "ms-swift") and "<|turn>" in marks_of("gemma4", "axolotl")
    assert marks_of("default", "ms-swift") == ()


def test_every_template_against_its_own_family_and_another() -> None:
    """Marks that a family's vocabulary has are those of its own templates, and of no other family's."""
    owners = {"qwen": "Qwen/Qwen2.5-7B", "llama3": "meta-llama/Llama-3.1-8B", "gemma": "google/gemma-2-9b"}
    names = [(name, "llamafactory") for name in _table()["templates"]] + [(name, of) for of, name in _marks_by_name()]
    names += [(name, trainer) for trainer, each in ALIASES.items() for name in each]
    for name, trainer in names:
        marks = set(marks_of(name, trainer))
        if not marks & {"<|im_start|>", "<|start_header_id|>", "<start_of_turn>"} or len(marks) > 4:
            continue
        own = "qwen" if "<|im_start|>" in marks else "llama3" if "<|start_header_id|>" in marks else "gemma"
        for family, model in owners.items():
            found = family_of(model)
            assert found is not None
            foreign = marks - found[1]
            assert bool(foreign) == (family != own) or foreign == {"<|im_sep|>"}, (name, trainer, family, foreign)
