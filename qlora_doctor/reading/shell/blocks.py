"""Words and operators → simple commands, between the blocks that they stand in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from .words import NAME, Scanner, Written

_REDIRECTIONS = {"<", ">", ">>", ">&", ">|", "<&", "<<<", "<>", "&>", "&>>"}
_OPENS = {"if": "if", "case": "case", "{": "function"} | dict.fromkeys(("for", "while", "until", "select"), "loop")
_CLOSES = {"fi": "if", "done": "loop", "esac": "case", "}": "function"}
_BETWEEN = {"then", "else", "elif", "do", "!", "time"}
READS = {"for", "select", "read", "unset", "mapfile", "readarray", "getopts"}
"""Commands that set the names behind them, to something that is not known."""
DECLARES = {"export", "declare", "local", "readonly", "typeset"}
_MOST_BLOCKS = 100


@dataclass
class Event:
    """A simple command, or a block that begins (``enter``) or ends (``leave``)."""

    kind: str
    words: list[Written] = field(default_factory=list)
    block: str = ""
    conditional: bool = False
    assigned: set[str] = field(default_factory=set)


def events(scanner: Scanner) -> Iterator[Event]:
    """Commands in order, between the blocks that they stand in."""
    open_blocks: list[Event] = []
    words: list[Written] = []
    conditional = skip_next = False

    def end() -> Iterator[Event]:
        nonlocal words
        if words:
            names = assigned_in(words)
            for block in open_blocks:
                block.assigned.update(names)
            yield Event("command", words, conditional=conditional)
            words = []

    def enter(block: str) -> Iterator[Event]:
        event = Event("enter", block=block)
        if len(open_blocks) < _MOST_BLOCKS:
            open_blocks.append(event)
        yield event

    def leave(block: str) -> Iterator[Event]:
        if open_blocks and open_blocks[-1].block == block:
            yield Event("leave", block=block, assigned=open_blocks.pop().assigned)

    for token in scanner.tokens():
        if isinstance(token, str):
            skip_next = token in _REDIRECTIONS
            if skip_next:
                if words and words[-1].end == scanner.at - len(token) and (words[-1].literal or "x").isdigit():
                    words.pop()  # the descriptor of 2>file
                continue
            function = token == "(" and len(words) == 1  # name () …
            if function:
                words = []
            yield from end()
            conditional = token in ("&&", "||")
            if token == "(" and not function:
                yield from enter("subshell")
            elif token == ")":
                yield from leave("subshell")
            continue
        if skip_next:
            skip_next = False
            continue
        literal = None if words else token.literal
        if literal in _OPENS:
            yield from enter(_OPENS[literal])
            if literal in ("for", "select", "case"):
                words.append(token)
        elif literal in _CLOSES:
            yield from leave(_CLOSES[literal])
        elif literal not in _BETWEEN:
            words.append(token)
    yield from end()


def assigned_in(words: list[Written]) -> list[str]:
    """The names that a command sets."""
    first = words[0].literal
    if first in READS:
        return [word.literal for word in words[1:] if word.literal and NAME.fullmatch(word.literal)]
    names = []
    for word in words[1:] if first in DECLARES else words:
        match = word.assignment
        if match is not None:
            names.append(match[1])
        elif first not in DECLARES:
            break
    return names
