"""What is read of a program is what Python itself makes of it: random programs, read and run, held against each other.

The programs are made here, of assignments, branches, loops, functions and containers over small numbers; what their
``maybe()`` returns nobody can know from the text, so that each is run several times with other answers.
"""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from qlora_doctor.reading.dialects import dialect_named
from qlora_doctor.reading.document import Document

NAMES = st.sampled_from(["a", "b", "c"])
PLACES = st.sampled_from(["a", "b", "c", "d['x']", "d['y']", "o.x", "C.x", "l[0]"])
ATOMS = st.one_of(
    PLACES, st.integers(0, 3).map(str), st.sampled_from(["maybe()", "f(a)", "f(b, 2)", "g()", "len(l)", "o.m(a)"])
)
VALUES = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*"]), inner).map("({0[0]} {0[1]} {0[2]})".format),
        st.tuples(inner, inner, inner).map("({0[0]} if {0[1]} else {0[2]})".format),
        st.tuples(inner, st.sampled_from(["and", "or", "<", "==", "!="]), inner).map("({0[0]} {0[1]} {0[2]})".format),
        inner.map("(not {})".format),
        st.tuples(inner, inner).map("dict(x={0[0]}, **{{'y': {0[1]}}})['y']".format),
        inner.map("d.get('x', {})".format),
        inner.map("[*l, {}][-1]".format),
        inner.map("(lambda q: q + 1)({})".format),
    ),
    max_leaves=4,
)
SIMPLE = st.one_of(
    st.tuples(PLACES, VALUES).map("{0[0]} = {0[1]}".format),
    st.tuples(PLACES, VALUES).map("{0[0]} += {0[1]}".format),
    st.tuples(NAMES, NAMES, VALUES).map("{0[0]}, {0[1]} = {0[2]}, 1".format),
    VALUES.map("d.update(x={})".format),
    VALUES.map("l.append({})".format),
    st.tuples(NAMES, VALUES).map("setattr(o, 'x', {0[1]})".format),
    st.sampled_from(["d = dict(d)", "o = C()", "l = list(l)", "e = d", "e['x'] = 9", "h()", "pass"]),
    NAMES.map("{0} = d.pop('y', 7)\nd.setdefault('y', 1)".format),
)


def indented(lines: list[str]) -> str:
    """A block."""
    return "\n".join("    " + line for part in (lines or ["pass"]) for line in part.split("\n"))


def compound(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Statements with blocks in them."""
    body = st.lists(inner, max_size=3).map(indented)
    looping = st.lists(
        st.one_of(inner, VALUES.map("if {}:\n    break".format), VALUES.map("if {}:\n    continue".format)), max_size=3
    ).map(indented)
    return st.one_of(
        st.tuples(VALUES, body, body).map("if {0[0]}:\n{0[1]}\nelse:\n{0[2]}".format),
        st.tuples(VALUES, body).map("if {0[0]}:\n{0[1]}".format),
        st.tuples(NAMES, looping).map("for {0[0]} in range(3):\n{0[1]}".format),
        st.tuples(NAMES, looping, body).map("for {0[0]} in [1, maybe()]:\n{0[1]}\nelse:\n{0[2]}".format),
        looping.map("while maybe():\n{0}".format),
        st.tuples(body, body).map("try:\n{0[0]}\nfinally:\n{0[1]}".format),
    )


BLOCKS = st.lists(st.recursive(SIMPLE, compound, max_leaves=6), min_size=1, max_size=5)
FUNCTION = st.tuples(
    BLOCKS,
    VALUES,
    VALUES,
).map(
    lambda parts: (
        "def h():\n    global a, d\n"
        + indented([line.replace("h()", "pass") for line in parts[0]])
        + f"\n    if maybe():\n        return {parts[1]}\n    return {parts[2]}"
    )
)
PRELUDE = """\
class C:
    x = 1
    def m(self, q):
        self.x = q
        return self.x + C.x
def f(p, q=3):
    if p == q:
        return 5
    return p + q
def g():
    return b
a, b, c = 1, 2, 3
d, l = {'x': 1, 'y': 2}, [1, 2]
o, e = C(), d
"""
END = (
    "\nTrainer(model=None, args=TrainingArguments(seed={0}, max_steps=a, logging_steps=d['x'], save_steps=0)).train()\n"
)


def run(program: str, seed: int) -> dict[str, Any] | None:
    """The arguments that a program passes; None where it fails."""
    passed: dict[str, Any] = {}
    chance = random.Random(seed)

    class Trainer:
        def __init__(self, **arguments: Any) -> None:
            pass

        def train(self) -> None:
            pass

    def keep(**arguments: Any) -> None:
        passed.update(arguments)

    scope = {"maybe": lambda: chance.random() < 0.5, "Trainer": Trainer, "TrainingArguments": keep, "__name__": "m"}
    with contextlib.suppress(Exception):
        exec(compile(program, "program", "exec"), scope)  # made above, of numbers and names alone
    return passed or None


@settings(max_examples=100, deadline=None)
@given(FUNCTION, BLOCKS, VALUES)
def test_what_is_known_is_true(function: str, body: list[str], value: str) -> None:
    program = PRELUDE + function + "\n" + "\n".join(body) + END.format(value)
    text = "from mine import maybe\nfrom transformers import Trainer, TrainingArguments\n" + program
    setup = dialect_named("python").read(Document(Path("train.py"), text, "text", None))
    said = {
        "seed": setup.training.seed,
        "max_steps": setup.training.max_steps,
        "logging_steps": setup.training.logging_steps,
    }
    for seed in range(6):
        passed = run(program, seed)
        for name, known in said.items():
            if passed is None or known is None:
                continue
            assert passed[name] == known, f"{name} is {passed[name]!r}, read as {known!r}:\n{program}"


def test_most_of_what_is_simple_is_known() -> None:
    """So that the test above does not pass on silence."""
    text = "from transformers import Trainer, TrainingArguments\n" + PRELUDE + "h = g\na = f(a)\nd.update(x=o.m(4))\n"
    setup = dialect_named("python").read(Document(Path("train.py"), text + END.format("b + len(l)"), "text", None))
    assert (setup.training.seed, setup.training.max_steps, setup.training.logging_steps) == (4, 4, 5)
