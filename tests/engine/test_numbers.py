"""Numbers have one spelling: what a rule's message says is what the report beside it shows."""

from __future__ import annotations

import pytest

from qlora_doctor.core import numbers
from qlora_doctor.language.values import FILTERS
from qlora_doctor.reporters import _words


@pytest.mark.parametrize(
    ("filter", "value", "text"),
    [
        ("bytes", 1000 * 2**20, "0.977 GiB"),
        ("bytes", 5 * 2**30, "5 GiB"),
        ("bytes", 9.42 * 2**30, "9.42 GiB"),
        ("bytes", 512, "512 bytes"),
        ("human", 999_999_999, "1 billion"),
        ("human", 40_000_000, "40 million"),
        ("human", 4096, "4,096"),
        ("percent", 0.00904, "0.904%"),
        ("percent", 0.4, "40%"),
        ("percent", 0.99999, "over 99.99%"),
        ("percent", 0.00001, "under 0.01%"),
        ("percent", 0, "0%"),
        ("percent", 1.13, "113%"),
        ("thousands", 1234567.0, "1,234,567"),
    ],
)
def test_a_rule_says_what_the_report_shows(filter: str, value: float, text: str) -> None:
    words = {"bytes": _words.size, "human": _words.amount, "percent": _words.percent, "thousands": _words.exact}
    assert FILTERS[filter](value) == text
    if filter != "thousands":
        assert words[filter](value) == text


def test_what_is_no_number_is_unknown() -> None:
    for function in (numbers.size, numbers.gib, numbers.amount, numbers.exact, numbers.percent, numbers.seconds):
        assert function(None) == "unknown"
    assert numbers.percent(0.1234, digits=1) == "12.3%" and numbers.gib(2**31) == "2.00"
