"""Calls of the script's own functions: their parameters, their body, what they return."""

from __future__ import annotations

import ast

from .modules import Modules
from .provenance import INNER, given
from .scopes import Scope
from .values import Function, Known, Listing, Mapping, Model, Unknown, Value, merged

MOST_DEPTH = 24
"""Calls of the script's own functions within each other."""


class Functions(Modules):
    """The part of the machine that follows the script's own functions."""

    def call_function(self, function: Function, positional: list[Value], named: dict[str, Value], rest: bool) -> Value:
        """What a function of the script returns; it is followed with these arguments.

        Args:
            positional: arguments by position, without the object that it is bound to.
            named: arguments by name.
            rest: further arguments are passed that are not known.
        """
        body = function.body
        assert body is not None
        if self.depth >= MOST_DEPTH or self.following.count(id(body)) >= 2:
            return Unknown(body, why="It calls itself.")
        scope = Scope(outer=function.scope)
        if function.bound is not None:
            positional = [function.bound, *positional]
        self._bind_parameters(scope, body.args, positional, named, rest, function)
        self.seen.functions.add(id(body))
        before, self.scope = self.scope, scope
        self.depth += 1
        over = False
        self.following.append(id(body))
        self.returns.append([])
        by_card, self.by_card = self.by_card, 0
        by_default, self.by_default = self.by_default, None
        leaving, self.leaving = self.leaving, []
        try:
            if isinstance(body, ast.Lambda):
                return self.evaluate(body.body)
            over = self.block(body.body)
            values = self.returns[-1]
        finally:
            self.returns.pop()
            self.following.pop()
            self.depth -= 1
            self.scope = before
            self.by_card, self.by_default, self.leaving = by_card, by_default, leaving
        if not values or not (over or all(isinstance(value, Model) for value in values)):
            values = [*values, Known(body, data=None)]
        result = values[0]
        for other in values[1:]:
            result = merged(result, other, f"{getattr(body, 'name', 'It')}() returns several values.")
        return result

    def _bind_parameters(
        self,
        scope: Scope,
        parameters: ast.arguments,
        positional: list[Value],
        named: dict[str, Value],
        rest: bool,
        function: Function,
    ) -> None:
        plain = [*parameters.posonlyargs, *parameters.args]
        defaults = dict(
            zip([arg.arg for arg in plain][len(plain) - len(parameters.defaults) :], parameters.defaults, strict=True)
        )
        defaults |= {
            arg.arg: default
            for arg, default in zip(parameters.kwonlyargs, parameters.kw_defaults, strict=True)
            if default is not None
        }
        left = dict(named)
        for arg, value in zip(plain, positional, strict=False):
            scope.names[arg.arg] = value
        for arg in [*plain[len(positional) :], *parameters.kwonlyargs]:
            scope.names[arg.arg] = self._parameter(arg, left, defaults, rest, function)
        if parameters.vararg is not None:
            more = positional[len(plain) :]
            scope.names[parameters.vararg.arg] = Listing(parameters.vararg, items=more, exact=not rest)
        if parameters.kwarg is not None:
            scope.names[parameters.kwarg.arg] = Mapping(parameters.kwarg, items=dict(left), exact=not rest)

    def _parameter(
        self, arg: ast.arg, left: dict[str, Value], defaults: dict[str, ast.expr], rest: bool, function: Function
    ) -> Value:
        if arg.arg in left:
            return left.pop(arg.arg)
        if arg.arg in function.options:
            return function.options[arg.arg]
        if rest:
            return Unknown(arg, why=f"What is passed as {arg.arg} is not known.")
        if arg.arg not in defaults:
            return Unknown(arg, why=f"Who calls the function decides on {arg.arg}.")
        before, self.scope = self.scope, function.scope or self.module
        try:
            return given(self.evaluate(defaults[arg.arg]), f"{INNER}the parameter {arg.arg}")
        finally:
            self.scope = before
