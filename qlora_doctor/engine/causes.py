"""One table of symptom, cause and what to look at first, for whoever has a symptom and no facts yet.

``explain --symptom``, ``explain ID`` and the docs print these; ``log`` and ``check`` name the same causes without those
that the facts of a run exclude (``judge``).
"""

from __future__ import annotations

import re

from ..core.report import Cause
from .rule import Rule

_COMMANDS = {"run": "`qlora-doctor run -- COMMAND`", "course": "`qlora-doctor log PATH`",
             "stored": "`qlora-doctor adapter DIR`"}  # fmt: skip


def likely_causes(rule: Rule) -> list[Cause]:
    """The causes that a rule's page names, the likeliest first.

    Where the page names none, what the rule finds is the cause: it is reported as in the page's example, and what to
    look at is the command that looks for it.
    """
    if rule.causes:
        return [Cause(text=_plain(each.text), look=_plain(each.look) if each.look else None) for each in rule.causes]
    told = next((each.message for each in rule.examples if each.kind == "fail" and each.message), None)
    return [Cause(text=f"For example: {told}" if told else rule.title, look=look_with(rule))]


def look_with(rule: Rule) -> str:
    """The command that looks for what a rule finds."""
    return _COMMANDS.get(rule.stage, f"`qlora-doctor check CONFIG --stage {rule.stage}`")


def _plain(text: str) -> str:
    """A template with the facts' names in place of their values."""
    return " ".join(re.sub(r"{{\s*([\w.]+).*?}}", r"`\1`", re.sub(r"{%.*?%}", "", text)).split())
