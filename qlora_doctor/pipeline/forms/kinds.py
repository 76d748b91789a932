"""What forming samples gives: rows of token ids with labels, and what became of the rows that were read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Piece:
    """A part of a row: a text or token ids, trained or not."""

    content: str | tuple[int, ...]
    trained: bool


@dataclass
class FormedRow:
    """One row of the data on its way to the model.

    Attributes:
        set_number: which of the data sets it is of.
        number: its place in the file, from 0; None where a large file was sampled.
        ids, labels: tokens and what is learnt of them, -100 nothing; empty where there is no tokenizer.
        length: tokens before anything was cut; 0 without a tokenizer.
        cut: tokens that were cut off.
        loses: some of these were to be trained.
        teaches: whether anything of it is meant to be trained, known without a tokenizer.
        dropped: why the trainer leaves it out; None where it trains.
        lost: content of the row that its text does not have, the beginning of it.
        identity: what makes two rows the same.
        messages: of a conversation, each with ``role``, ``content`` and ``tool_calls`` as far as it has them; None of a
            row that is none.
        tools: as the row defines them.
        prompt, answer: what is asked and what is to be learnt, as text; "" where the form does not tell.
    """

    set_number: int
    number: int | None
    ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    length: int = 0
    cut: list[int] = field(default_factory=list)
    loses: bool = False
    teaches: bool | None = None
    dropped: str | None = None
    lost: str | None = None
    identity: str = ""
    prompt: str = ""
    answer: str = ""
    messages: list[dict[str, Any]] | None = None
    tools: Any = None


@dataclass
class FormedSet:
    """What was learnt of one data set.

    Attributes:
        name, key: as the config has them.
        form: the trainer's word for the form of its rows.
        total: rows of the file; None where it was sampled.
        columns, read: columns that the file has, and those that the form reads.
        empty: columns that hold nothing in any row that was looked at.
        roles: how often each role stands in the rows, by the name that the file has for it.
        roles_trained: names that the config says are trained; None where the form has no roles.
        roles_unknown: roles of the file that the form has no meaning for.
        asked_roles_missing: of the roles that are to be trained, those that no row has.
        trains_all: every turn is trained, whatever its role.
        not_followed: why they are not formed here, where nothing is known to be wrong with them.
        tokens_unseen: why its rows have no tokens here, where the rest of them is reported.
        told_by_trainer: its rows are the trainer's own alone, so that what it reads of them is not known here.
    """

    name: str
    key: str | None
    role: str = "train"
    form: str | None = None
    total: int | None = None
    seen: int = 0
    columns: list[str] = field(default_factory=list)
    empty: set[str] = field(default_factory=set)
    read: set[str] = field(default_factory=set)
    roles: dict[str, int] = field(default_factory=dict)
    roles_trained: list[str] | None = None
    roles_unknown: dict[str, int] = field(default_factory=dict)
    asked_roles_missing: list[str] = field(default_factory=list)
    trains_all: bool = False
    not_followed: str | None = None
    told_by_trainer: bool = False
    tokens_unseen: str | None = None


@dataclass
class Followed:
    """Samples as a trainer's own code would form them.

    Attributes:
        rows: in the order of the sets.
        sets: one of each data set that is named.
        by: whose rules were followed, in words.
        own: the trainer's own code formed them.
        limit: tokens of a row at most; None: nothing is cut.
        packing: rows are joined.
        tokenizer: with what the trainer changes of it; None where there is none on this machine.
        collator: makes a batch of rows (``input_ids``, ``attention_mask``, ``labels``); None: the labels as they are,
            padded with -100.
    """

    rows: list[FormedRow]
    sets: list[FormedSet]
    by: str
    own: bool = False
    limit: int | None = None
    packing: bool = False
    tokenizer: Any = None
    collator: Any = None
    notes: list[str] = field(default_factory=list)

    @property
    def trained(self) -> list[FormedRow]:
        """Rows that reach the model."""
        return [row for row in self.rows if row.dropped is None and row.ids]


class CannotForm(Exception):
    """Why a row cannot be formed: the trainer stops there."""


class NotFollowedForm(Exception):
    """Why a form is not followed here."""


def lacks(error: Exception) -> str:
    """What a row does not have, in words, where a form reads it."""
    return f"there is no {error} in it" if isinstance(error, KeyError) else str(error)


def places(row: list[int], part: list[int]) -> list[int]:
    """Where a part stands in a row of tokens: the place of its first token, each time."""
    return [start for start in range(len(row) - len(part) + 1) if part and row[start : start + len(part)] == part]
