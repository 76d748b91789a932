"""What a machine holds while it follows a script: scopes of names, and what was met."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from pathlib import Path

from .values import Made, Model, Value

LIBRARIES = {
    "torch", "transformers", "peft", "trl", "accelerate", "datasets", "bitsandbytes", "unsloth", "unsloth_zoo", "numpy",
    "modelscope", "optimum", "liger_kernel", "typing", "dataclasses", "os", "sys", "math", "json", "argparse", "tqdm",
    "xtuner", "mmengine",
}  # fmt: skip
"""Packages whose names mean what they are known for."""


class Exhausted(Exception):
    """The script asks for more steps than are taken for it."""


@dataclass
class Scope:
    """Names of a function or of the module."""

    names: dict[str, Value] = field(default_factory=dict)
    outer: Scope | None = None
    elsewhere: dict[str, Scope] = field(default_factory=dict)
    """Names declared global or nonlocal, with the scope that holds them."""
    is_class: bool = False
    """The body of a class, whose names the functions within do not see."""
    file: Path | None = None
    """Of a module: where it lies."""

    @property
    def module(self) -> Scope:
        """The module's scope."""
        scope = self
        while scope.outer is not None:
            scope = scope.outer
        return scope

    @property
    def enclosing(self) -> Scope:
        """The scope that a function defined here sees."""
        scope = self
        while scope.is_class and scope.outer is not None:
            scope = scope.outer
        return scope

    def find(self, name: str) -> Value | None:
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.outer
        return None


@dataclass
class Seen:
    """What was met on the way.

    Attributes:
        calls: calls into libraries that matter, in order, each with whether it surely happens.
        runs: trainers as they were when ``train`` was called.
        models: models that were loaded.
        functions: functions of the script that were followed.
        left_out: names in branches that an argument of the script would lead to.
        not_followed: statements that change the training and were not followed: kind, in words, and where.
        passed: calls whose arguments are all seen, with the dotted name of what is called; by the call's id.
    """

    calls: list[tuple[Made, bool]] = field(default_factory=list)
    runs: list[Made] = field(default_factory=list)
    models: list[Model] = field(default_factory=list)
    functions: set[int] = field(default_factory=set)
    left_out: set[str] = field(default_factory=set)
    passed: dict[int, tuple[ast.Call, str]] = field(default_factory=dict)
    not_followed: list[tuple[str, str, ast.AST | None]] = field(default_factory=list)
    gradients: list[tuple[bool, ast.AST, bool, int]] = field(default_factory=list)
    """Calls of torch.set_grad_enabled: to what, where, whether surely, and how many trainings came before."""
    callbacks: list[Value] = field(default_factory=list)
    """What a trainer is given by add_callback."""
    tokenizers: dict[int, tuple[Made, Value]] = field(default_factory=dict)
    """Tokenizers, each with the name that it is loaded by."""
    saves: list[tuple[Model, ast.AST, int]] = field(default_factory=list)
    """Models whose save_pretrained is called, where, and how many trainings came before."""
    merges: list[tuple[Model, ast.AST]] = field(default_factory=list)
    """Models into which an adapter is merged."""
    exhausted: bool = False
