"""Three-valued logic, bounded arithmetic, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlora_doctor.engine import EvaluationError, Expression, LanguageError, Template, Unknown
from qlora_doctor.facts import Facts, subject_types

SCOPE: dict[str, Any] = subject_types()
SCOPE["params"] = {"low": float, "names": list[str]}


def evaluate(source: str, **facts: Any) -> Any:
    found = Facts.model_validate(facts)
    values = {name: getattr(found, name) for name in Facts.model_fields}
    return Expression.parse(source, SCOPE).evaluate({**values, "params": {"low": 0.25, "names": ["a", "b"]}})


def is_unknown(value: Any) -> bool:
    return isinstance(value, Unknown)


# -- what is known


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("config.lora_r == 16", True),
        ("config.lora_r > 16 or config.four_bit", True),
        ("8 < config.lora_r <= 16", True),
        ("8 < config.lora_r < 16", False),
        ("config.lora_alpha / config.lora_r", 2.0),
        ("config.lora_r ** 2 - 1", 255),
        ("-config.lora_r", -16),
        ("config.target_modules | length", 2),
        ("'q_proj' in config.target_modules", True),
        ("config.compute_dtype not in ['float16', 'float32']", True),
        ("config.target_modules | first", "q_proj"),
        ("config.target_modules[1]", "v_proj"),
        ("config.lora_r if config.four_bit else 0", 16),
        ("config.target_modules + ['lm_head']", ["q_proj", "v_proj", "lm_head"]),
        ("config.quant_type ~ '/' ~ config.lora_r", "nf4/16"),
        ("params.low * 4", 1.0),
        ("config.quant_type in params.names", False),
        ("config.unknown_keys | map(attribute='closest') | join(', ')", "lora.r"),
        ("config.unknown_keys | where('key', 'lora.rank') | length", 1),
        ("config.unknown_keys | without('key', 'lora.rank', 'x') | length", 1),
    ],
)
def test_known_facts_give_a_value(source: str, expected: Any) -> None:
    config = {
        "lora_r": 16,
        "lora_alpha": 32.0,
        "four_bit": True,
        "compute_dtype": "bfloat16",
        "quant_type": "nf4",
        "target_modules": ["q_proj", "v_proj"],
        "unknown_keys": [{"key": "lora.rank", "closest": "lora.r"}, {"key": "comment"}],
    }
    assert evaluate(source, config=config) == expected


def test_missing_key_of_a_mapping_is_unknown_until_default_says_otherwise() -> None:
    load = {"bytes_by_dtype": {"uint8": 5}}
    assert evaluate("load.bytes_by_dtype.uint8", load=load) == 5
    assert is_unknown(evaluate("load.bytes_by_dtype.float32", load=load))
    assert evaluate("load.bytes_by_dtype.float32 | default(0)", load=load) == 0
    assert is_unknown(evaluate("load.bytes_by_dtype.items", load=load)), "a method is no key"


# -- what is unknown


def test_unknown_is_named_in_full() -> None:
    unknown = evaluate("step.optimizer.frozen_parameters | length > 0 and config.lora_r > 4")
    assert is_unknown(unknown)
    assert unknown.names == {"step.optimizer.frozen_parameters", "config.lora_r"}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("config.four_bit and load.seconds > 1", None),
        ("config.eight_bit and load.seconds > 1", False),
        ("load.seconds > 1 and config.eight_bit", False),
        ("config.four_bit or load.seconds > 1", True),
        ("load.seconds > 1 or config.four_bit", True),
        ("load.seconds > 1 or config.eight_bit", None),
        ("not load.seconds", None),
        ("load.seconds is known", False),
        ("load.seconds is unknown", True),
        ("load.seconds is known and load.seconds > 1", False),
        ("load.seconds == load.seconds", None),
        ("load.seconds in [1, 2]", None),
        ("load.seconds | default(3) > 2", True),
        ("1 < load.seconds < 0", None),
        ("2 < 1 < load.seconds", False),
        ("load.seconds if load.seconds > 1 else 0", None),
        ("[1, load.seconds] | length", None),
    ],
)
def test_unknown_decides_nothing_and_the_known_part_may(source: str, expected: bool | None) -> None:
    value = evaluate(source, config={"four_bit": True, "eight_bit": False})
    assert is_unknown(value) if expected is None else value is expected


THREE = st.sampled_from([True, False, None])


@given(a=THREE, b=THREE, c=THREE)
def test_logic_is_kleenes(a: bool | None, b: bool | None, c: bool | None) -> None:
    """False below unknown below true: and is the least, or the greatest, not the mirror."""
    rank = {False: 0, None: 1, True: 2}
    facts = {"config": {"four_bit": a, "eight_bit": b, "bf16": c}}
    value = evaluate("(config.four_bit and config.eight_bit) or not config.bf16", **facts)
    expected = max(min(rank[a], rank[b]), 2 - rank[c])
    assert rank[None if is_unknown(value) else value] == expected


def test_truth_of_unknown_is_never_taken() -> None:
    with pytest.raises(EvaluationError):
        bool(Unknown("config.four_bit"))


# -- what is refused


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("config.fuor_bit", "config.fuor_bit"),
        ("confg.four_bit", "confg"),
        ("config.four_bit.real", "no fields"),
        ("config.target_modules.append", "no fields"),
        ("config.__class__", "__class__"),
        ("step.optimizer.model_dump", "model_dump"),
        ("params.high", "params.high"),
        ("config.target_modules | map(attribute='x')", "no fields"),
        ("load.classes | map(attribute='modul_class')", "modul_class"),
        ("load.classes | map(attribute=config.model)", "quoted name"),
        ("range(10)", "call"),
        ("config.model.upper()", "call"),
        ("config.model | attr('x')", "no filter"),
        ("config.model is defined", "no test"),
        ("config.model == none", "is known"),
        ("config.model and", "cannot be parsed"),
        ("config.model }}{{ config.model", "cannot be parsed"),
        ("{'a': config.model}", "Dict"),
        ("config.target_modules[0:1]", "Slice"),
    ],
)
def test_page_with_a_wrong_expression_is_refused_when_it_is_read(source: str, why: str) -> None:
    with pytest.raises(LanguageError, match=why):
        Expression.parse(source, SCOPE)


@pytest.mark.parametrize(
    "source",
    ["config.model * 1000000000", "10 ** 65", "10000000 ** 2", "config.lora_r / 0", "config.model < 3", "'a' + 1"],
)
def test_what_cannot_be_computed_is_an_error_and_not_a_hang(source: str) -> None:
    with pytest.raises(EvaluationError):
        evaluate(source, config={"model": "a", "lora_r": 16})


# -- templates


def render(source: str, **facts: Any) -> str:
    found = Facts.model_validate(facts)
    return Template.parse(source, SCOPE).sentence({name: getattr(found, name) for name in Facts.model_fields})


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ model.total_parameters | human }}", "6.74 billion"),
        ("{{ model.total_parameters | thousands }}", "6,738,415,616"),
        ("{{ model.total_parameters | bytes }}", "6.28 GiB"),
        ("{{ adapter.trainable_ratio | percent }}", "0.59%"),
        ("{{ adapter.trainable_ratio | percent(0) }}", "1%"),
        ("{{ adapter.trainable_ratio | short }}", "0.0059"),
        ("{{ adapter.matched_modules | listed(2) }}", "a, b and 1 more"),
        ("{{ adapter.matched_modules | length | plural('module') }}", "3 modules"),
        ("{{ 1 | plural('layer has', 'layers have') }}", "1 layer has"),
        ("{{ adapter.attached }}", "true"),
        ("{{ config.model }}", "unknown"),
        (
            "{% for m in adapter.matched_modules %}{{ loop.index }}{{ m }}{{ '' if loop.last else ', ' }}{% endfor %}",
            "1a, 2b, 3c",
        ),
        ("{% if adapter.attached %}yes{% else %}no{% endif %}", "yes"),
        (
            "{% if config.model is known %}{{ config.model }}{% elif adapter.attached %}two\n  lines{% endif %}",
            "two lines",
        ),
    ],
)
def test_template_reads_as_a_sentence(source: str, expected: str) -> None:
    adapter = {"trainable_ratio": 0.0058977, "matched_modules": ["a", "b", "c"], "attached": True}
    assert render(source, adapter=adapter, model={"total_parameters": 6738415616}) == expected


def test_template_is_native_where_it_is_one_expression() -> None:
    facts = Facts.model_validate({"model": {"module_kinds": ["q_proj"], "layers": 2}})
    values = {name: getattr(facts, name) for name in Facts.model_fields}
    assert Template.parse("{{ model.module_kinds }}", SCOPE).native(values) == ["q_proj"]
    assert Template.parse("{{ model.layers }}", SCOPE).native(values) == 2
    assert Template.parse("{{ model.layers }} layers", SCOPE).native(values) == "2 layers"
    assert Template.parse("plain", SCOPE).native(values) == "plain"


@pytest.mark.parametrize(
    "source",
    [
        "{% set x = 1 %}",
        "{% macro m() %}{% endmacro %}",
        "{% include 'x' %}",
        "{% import 'x' as y %}",
        "{% for a, b in adapter.projections %}{% endfor %}",
        "{% for p in adapter.projections %}{{ p.layer }}{% endfor %}",
        "{% for p in adapter.projections recursive %}{% endfor %}",
        "{{ loop.index }}",
    ],
)
def test_template_with_more_than_values_is_refused(source: str) -> None:
    with pytest.raises(LanguageError):
        Template.parse(source, SCOPE)
