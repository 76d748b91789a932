"""Rule pages → rules; facts + rules → findings; selection, severity, verdict.

>>> from qlora_doctor.engine import Selection, judge, load_rules
>>> judge(facts, load_rules(), selection=Selection(ignore=["QD5"])).findings    # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..core.report import FailOn
from ..language.expression import EvaluationError, Expression, Template, Unknown
from ..language.fields import LanguageError
from .fingerprint import fingerprint
from .judge import Judgement, judge
from .load import find_rule, load_page, load_rules
from .rule import Example, Fix, PageError, Param, Rule, stage_of
from .selection import PROFILES, Selection, check_selection
from .verdict import exit_code, is_partly_read, summarise

if TYPE_CHECKING:
    from .lint import Problem, lint_pages
    from .search import Match, search_symptoms

__all__ = [
    "PROFILES",
    "EvaluationError",
    "Example",
    "Expression",
    "FailOn",
    "Fix",
    "Judgement",
    "LanguageError",
    "Match",
    "PageError",
    "Param",
    "Problem",
    "Rule",
    "Selection",
    "Template",
    "Unknown",
    "check_selection",
    "exit_code",
    "find_rule",
    "fingerprint",
    "is_partly_read",
    "judge",
    "lint_pages",
    "load_page",
    "load_rules",
    "search_symptoms",
    "stage_of",
    "summarise",
]

_LATE = {"Problem": ".lint", "lint_pages": ".lint", "Match": ".search", "search_symptoms": ".search"}


def __getattr__(name: str) -> Any:
    """Import what a check does not need when it is first used."""
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LATE[name], __name__), name)
