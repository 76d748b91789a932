"""Rule pages → rules; facts + rules → findings; selection, severity, verdict.

>>> from qlora_doctor.engine import Selection, judge, load_rules
>>> judge(facts, load_rules(), selection=Selection(ignore=["QD5"])).findings    # doctest: +SKIP
"""

from __future__ import annotations

from .expression import EvaluationError, Expression, Template, Unknown
from .fingerprint import fingerprint
from .judge import Judgement, judge
from .language import LanguageError
from .lint import Problem, lint_pages
from .load import find_rule, load_page, load_rules
from .rule import Example, Fix, PageError, Param, Rule, stage_of
from .search import Match, search_symptoms
from .selection import PROFILES, Selection, check_selection
from .verdict import FailOn, exit_code, summarise

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
    "judge",
    "lint_pages",
    "load_page",
    "load_rules",
    "search_symptoms",
    "stage_of",
    "summarise",
]
