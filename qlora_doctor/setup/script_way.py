"""The way of a script's samples in plain data, as its reader writes it into ``NamedData.settings``."""

from __future__ import annotations

from typing import Any, Literal, TypedDict


class Collator(TypedDict):
    """A collator of transformers: its class, and the plain arguments that it is made with."""

    name: str
    arguments: dict[str, Any]


_Lambda = TypedDict("_Lambda", {"lambda": str}, total=False)


class Step(_Lambda, total=False):
    """What is done to the rows.

    Attributes:
        do: ``keep`` is select_columns, ``rename`` has ``old`` and ``new``, ``count`` needs rows and leaves them as they
            are.
        least: how many rows ``count`` needs; None where that is not plain.
        call: the call as it is written, without what it is a method of.
        function: of map and filter, the name of a function of the script; or ``lambda``, its source.
        remove: columns that map leaves out; ``all`` for those that the rows had.
    """

    do: Literal["map", "filter", "remove", "rename", "keep", "count"]
    least: int | None
    call: str
    batched: bool
    function: str
    remove: list[str] | str
    columns: list[str] | str
    old: str
    new: str


class ScriptWay(TypedDict, total=False):
    """The steps, and the end of the way.

    Attributes:
        trainer: the trainer's class; None for a loop of the script's own.
        collator: None leaves it to the trainer.
        keeps_columns: ``remove_unused_columns=False``.
        formatting_func: name of a function of the script.
        labels_are_ids: an own loop hands the model its ids as labels.
        functions: the script's own by name, as source.
        constants: plain values by name.
        expressions: further values by name, as source.
        responses: the texts that begin the turns, as Unsloth's train_on_responses_only gets them.
        tokenizers: names that stand for the tokenizer.
    """

    steps: list[Step]
    trainer: str | None
    collator: Collator | None
    keeps_columns: bool
    has_tokenizer: bool
    formatting_func: str
    labels_are_ids: bool
    functions: dict[str, str]
    constants: dict[str, Any]
    expressions: dict[str, str]
    responses: dict[str, str] | None
    tokenizers: list[str]
