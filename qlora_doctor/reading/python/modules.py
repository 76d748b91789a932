"""Modules beside the script: followed as if they were imported, so that what they define is known."""

from __future__ import annotations

import ast
from pathlib import Path

from ...core.errors import ConfigError
from .machine import MOST_STEPS, Machine
from .neighbours import Neighbours
from .scopes import Exhausted, Scope
from .source import Source, read_source
from .values import Known, Module, Unknown

MOST_MODULES = 32
"""Modules that are followed for one script."""


class Modules(Machine):
    """The part of the machine that follows imports."""

    neighbours = Neighbours(None)

    def look_around(self, neighbours: Neighbours) -> None:
        """Let the script's imports and paths be followed into the files beside it."""
        self.neighbours = neighbours
        self.imported: dict[Path, Module] = {}
        self.sources: list[Source] = []
        self.steps_of_modules = 0
        self.module.file = neighbours.script
        if neighbours.script is not None:
            self.module.names["__file__"] = Known(data=str(neighbours.script))

    def module_of(self, dotted: str) -> Module | None:
        """A module that lies beside the script, followed; None for any other."""
        path = self.neighbours.module(dotted, self.scope.module.file)
        if path is None or path == self.neighbours.script:
            return None
        if path not in self.imported:
            if len(self.imported) >= MOST_MODULES:
                return None
            self.imported[path] = Module(dotted=dotted.lstrip("."))
            if path.is_file():
                self._follow_module(path, self.imported[path])
        return self.imported[path]

    def _follow_module(self, path: Path, module: Module) -> None:
        document = self.neighbours.document(path)
        try:
            source = read_source(document) if document is not None else None
        except ConfigError:
            source = None
        if source is None:
            return
        self.sources.append(source)
        for node in source.nodes:
            node.source = source  # type: ignore[attr-defined]
        scope = Scope(module.names, file=path)
        scope.names |= {"__name__": Known(data=module.dotted), "__file__": Known(data=str(path))}
        self._apart(source.tree.body, scope)
        module.names = scope.names

    def _apart(self, body: list[ast.stmt], scope: Scope) -> None:
        """Follow a module's body: it runs once, wherever the import stands, and has steps of its own."""
        kept = (self.scope, self.unsure, self.branch, self.by_card, self.by_default)
        lists = (self.leaving, self.returns, self.following)
        steps, self.steps = self.steps, self.steps_of_modules
        self.scope, self.unsure, self.branch, self.by_card, self.by_default = scope, 0, 0, 0, None
        self.leaving, self.returns, self.following = [], [], []
        depth, self.depth = self.depth, self.depth + 1
        try:
            if self.depth < 48:
                self.block(body)
        except Exhausted:
            self.seen.exhausted = True
            for name in [*scope.names]:
                scope.names[name] = Unknown(why="The module is too long to be followed.")
        finally:
            self.steps_of_modules, self.steps = min(self.steps, MOST_STEPS), steps
            self.depth = depth
            self.scope, self.unsure, self.branch, self.by_card, self.by_default = kept
            self.leaving, self.returns, self.following = lists
