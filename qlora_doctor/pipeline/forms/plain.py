"""A script's own plain functions on rows, worked out step by step: nothing of the script is executed.

Of Python there is what such functions are made of: texts, numbers, lists, dicts, their methods, loops and branches, and
the tokenizer. Anything else ends the work with ``NotPlain``, and so does too much of it.
"""

from __future__ import annotations

import ast
import copy
import json
import operator
import string
from collections.abc import Callable, Iterable, Mapping
from typing import Any

MOST_STEPS = 4_000_000
MOST_SIZE = 4_000_000
"""Elements or characters of one value at most."""


_DEEPEST = 20
_MOST_BITS = 4096
_MOST_TOKENS = 1_000_000


class NotPlain(Exception):
    """What the function does beyond what is followed."""


class Raises(NotPlain):
    """The function fails for a row, as it does in the script: a key, an index or an operand is not there.

    Attributes:
        missing: the key that a dict does not have.
    """

    def __init__(self, node: ast.AST, error: Exception, missing: str | None = None) -> None:
        super().__init__(f"{ast.unparse(node)[:80]} raises {type(error).__name__}: {error}")
        self.missing = missing


class _Tensor:
    """What a tokenizer gives that is asked for tensors: a list of rows; what scripts do to it first is followed."""

    def __init__(self, values: list[Any]) -> None:
        self.values = values

    def method(self, name: str) -> Any:
        """What one of its methods without arguments gives."""
        if name == "tolist":
            return self.values
        if name in ("clone", "detach", "cpu", "copy"):
            return _Tensor(copy.deepcopy(self.values))
        alone = len(self.values) == 1 and isinstance(self.values[0], list)
        if name in ("squeeze", "flatten") and alone:
            return _Tensor(self.values[0])
        raise NotPlain(f"{name} of a tensor is not followed.")


class _Return(Exception):
    def __init__(self, value: Any) -> None:
        self.value = value


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.BitOr: operator.or_,
}
_COMPARE: dict[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda left, right: left in right,
    ast.NotIn: lambda left, right: left not in right,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
}
_BUILTINS: dict[str, Any] = {
    name: getattr(__import__("builtins"), name)
    for name in (
        *("len", "min", "max", "range", "zip", "enumerate", "list", "dict", "tuple", "set", "str", "int", "float"),
        *("bool", "sum", "sorted", "any", "all", "abs", "round", "reversed", "isinstance"),
    )
}
_METHODS: dict[type, set[str]] = {
    str: {
        *("strip", "lstrip", "rstrip", "replace", "split", "rsplit", "join", "format", "lower", "upper", "startswith"),
        *("endswith", "splitlines", "title", "capitalize", "removeprefix", "removesuffix", "find", "rfind", "index"),
        *("count", "isdigit", "partition", "rpartition"),
    },
    list: {"append", "extend", "copy", "index", "insert", "pop", "reverse", "count", "sort"},
    dict: {"get", "items", "keys", "values", "update", "copy", "pop", "setdefault"},
    set: {"add"},
    tuple: {"index", "count"},
}
_TOKENIZER = {
    *("encode", "apply_chat_template", "decode", "convert_tokens_to_ids", "convert_ids_to_tokens", "tokenize"),
    *("bos_token", "eos_token", "pad_token", "unk_token", "bos_token_id", "eos_token_id", "pad_token_id"),
    *("unk_token_id", "model_max_length", "chat_template", "padding_side"),
}
_TENSORS = ("return_tensors",)
_PLAIN = (str, int, float, bool, type(None), list, dict, tuple, set)


class Plain:
    """Works out plain functions.

    Args:
        functions: the script's own, by name, as source.
        constants: plain values by name.
        tokenizers: names that stand for the tokenizer.
        tokenizer: the tokenizer.
        expressions: values by name, as source: worked out when they are asked for.
    """

    def __init__(
        self,
        functions: Mapping[str, str],
        constants: Mapping[str, Any],
        tokenizers: Iterable[str],
        tokenizer: Any,
        expressions: Mapping[str, str] | None = None,
    ) -> None:
        self._functions = functions
        self._expressions = expressions or {}
        self._parsed: dict[str, ast.FunctionDef] = {}
        self._names: dict[str, Any] = {**constants, **dict.fromkeys(tokenizers, tokenizer)}
        self._tokenizer = tokenizer
        self.limits: set[int] = set()
        """Lengths at which the tokenizer was asked to cut."""
        self._steps = 0
        self._depth = 0

    def call(self, name: str, *arguments: Any) -> Any:
        """What a function of the script gives.

        Raises:
            NotPlain: it does what is not followed.
        """
        return _in_lists(self._called(self._function(name), arguments, {}))

    def evaluate(self, source: str, *arguments: Any) -> Any:
        """What a lambda, given as source, gives."""
        node = ast.parse(source, mode="eval").body
        if not isinstance(node, ast.Lambda):
            raise NotPlain("It is no lambda.")
        return _in_lists(self._lambda(node, arguments, {}))

    # -- functions

    def _function(self, name: str) -> ast.FunctionDef:
        if name not in self._functions:
            raise NotPlain(f"{name} is no function of the script.")
        if name not in self._parsed:
            node = ast.parse(self._functions[name]).body[0]
            if not isinstance(node, ast.FunctionDef):
                raise NotPlain(f"{name} is no plain function.")
            self._parsed[name] = node
        return self._parsed[name]

    def _called(self, node: ast.FunctionDef, given: Iterable[Any], named: Mapping[str, Any]) -> Any:
        names = self._bound(node.args, list(given), named, node.name)
        self._depth += 1
        if self._depth > _DEEPEST:
            raise NotPlain(f"{node.name} calls itself too deeply.")
        try:
            self._block(node.body, names)
        except _Return as returned:
            return returned.value
        finally:
            self._depth -= 1
        return None

    def _lambda(self, node: ast.Lambda, given: Iterable[Any], outer: Mapping[str, Any]) -> Any:
        return self._value(node.body, {**outer, **self._bound(node.args, list(given), {}, "lambda")})

    def _bound(self, arguments: ast.arguments, given: list[Any], named: Mapping[str, Any], name: str) -> dict[str, Any]:
        if arguments.vararg or arguments.kwarg:
            raise NotPlain(f"{name} takes any arguments.")
        places = [*arguments.posonlyargs, *arguments.args]
        found = {place.arg: value for place, value in zip(places, given, strict=False)} | dict(named)
        for place, default in zip(reversed(places), reversed(arguments.defaults), strict=False):
            found.setdefault(place.arg, self._value(default, {}))
        for place, only in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
            if only is not None:
                found.setdefault(place.arg, self._value(only, {}))
        missing = next((place.arg for place in places if place.arg not in found), None)
        if missing is not None:
            raise NotPlain(f"{name} is not given {missing}.")
        return found

    # -- statements

    def _block(self, body: list[ast.stmt], names: dict[str, Any]) -> None:
        for node in body:
            self._statement(node, names)

    def _statement(self, node: ast.stmt, names: dict[str, Any]) -> None:
        self._tick()
        if isinstance(node, ast.Return):
            raise _Return(self._value(node.value, names) if node.value is not None else None)
        if isinstance(node, ast.Assign):
            value = self._value(node.value, names)
            for target in node.targets:
                self._assign(target, value, names)
        elif isinstance(node, ast.AnnAssign):
            if node.value is not None:
                self._assign(node.target, self._value(node.value, names), names)
        elif isinstance(node, ast.AugAssign):
            target = self._value(ast.parse(ast.unparse(node.target), mode="eval").body, names)
            self._assign(node.target, self._binary(node.op, target, self._value(node.value, names)), names)
        elif isinstance(node, ast.If):
            self._block(node.body if self._value(node.test, names) else node.orelse, names)
        elif isinstance(node, ast.For):
            for item in self._value(node.iter, names):
                self._tick()
                self._assign(node.target, item, names)
                try:
                    self._block(node.body, names)
                except _Break:
                    break
                except _Continue:
                    continue
        elif isinstance(node, ast.Break):
            raise _Break
        elif isinstance(node, ast.Continue):
            raise _Continue
        elif isinstance(node, ast.Expr):
            if not isinstance(node.value, ast.Constant):
                self._value(node.value, names)
        elif not isinstance(node, ast.Pass | ast.Assert):
            raise NotPlain(f"{type(node).__name__} is not followed.")

    def _assign(self, target: ast.expr, value: Any, names: dict[str, Any]) -> None:
        if isinstance(target, ast.Name):
            names[target.id] = value
        elif isinstance(target, ast.Tuple | ast.List):
            values = list(value)
            if len(values) != len(target.elts):
                raise NotPlain("A row has another number of parts than is unpacked.")
            for each, one in zip(target.elts, values, strict=True):
                self._assign(each, one, names)
        elif isinstance(target, ast.Subscript):
            owner = self._value(target.value, names)
            if not isinstance(owner, list | dict):
                raise NotPlain("Something else than a list or a dict is written into.")
            owner[self._key(target.slice, names)] = value
        else:
            raise NotPlain("An attribute is set.")

    # -- expressions

    def _value(self, node: ast.expr, names: Mapping[str, Any]) -> Any:
        self._tick()
        method = getattr(self, f"_of_{type(node).__name__.lower()}", None)
        if method is None:
            raise NotPlain(f"{type(node).__name__} is not followed.")
        try:
            value = method(node, names)
        except (NotPlain, _Return, _Break, _Continue):
            raise
        except Exception as error:
            raise NotPlain(f"{ast.unparse(node)[:80]}: {type(error).__name__}: {error}") from error
        if isinstance(value, str | list | dict | tuple) and len(value) > MOST_SIZE:
            raise NotPlain("A value grows too large.")
        return value

    def _of_constant(self, node: ast.Constant, names: Mapping[str, Any]) -> Any:
        return node.value

    def _of_name(self, node: ast.Name, names: Mapping[str, Any]) -> Any:
        for place in (names, self._names):
            if node.id in place:
                return place[node.id]
        if node.id in self._expressions:
            self._depth += 1
            if self._depth > _DEEPEST:
                raise NotPlain(f"{node.id} is made of itself.")
            value = self._value(ast.parse(self._expressions[node.id], mode="eval").body, {})
            self._depth -= 1
            self._names[node.id] = value
            return value
        if node.id in self._functions or node.id in _BUILTINS:
            return _Named(node.id)
        raise NotPlain(f"{node.id} is not known.")

    def _of_joinedstr(self, node: ast.JoinedStr, names: Mapping[str, Any]) -> str:
        return "".join(str(self._value(part, names)) for part in node.values)

    def _of_formattedvalue(self, node: ast.FormattedValue, names: Mapping[str, Any]) -> str:
        if node.format_spec is not None or node.conversion not in (-1, 114, 115):
            raise NotPlain("A format of its own is not followed.")
        value = self._value(node.value, names)
        return repr(value) if node.conversion == 114 else str(value)

    def _of_binop(self, node: ast.BinOp, names: Mapping[str, Any]) -> Any:
        return self._binary(node.op, self._value(node.left, names), self._value(node.right, names))

    def _binary(self, kind: ast.operator, left: Any, right: Any) -> Any:
        do = _BINARY.get(type(kind))
        if do is None or not isinstance(left, _PLAIN) or not isinstance(right, _PLAIN):
            raise NotPlain("An operation of this kind is not followed.")
        if isinstance(kind, ast.Mult):
            sizes = [len(each) for each in (left, right) if isinstance(each, str | list | tuple)]
            numbers = [each for each in (left, right) if isinstance(each, int)]
            if sizes and numbers and sizes[0] * numbers[0] > MOST_SIZE:
                raise NotPlain("A value grows too large.")
            if sum(number.bit_length() for number in numbers) > _MOST_BITS:
                raise NotPlain("A number grows too large.")
        if isinstance(kind, ast.Mod) and isinstance(left, str):
            raise NotPlain("A format of its own is not followed.")
        try:
            return do(left, right)
        except TypeError as error:
            raise Raises(ast.BinOp(_constant(left), kind, _constant(right)), error) from error

    def _of_boolop(self, node: ast.BoolOp, names: Mapping[str, Any]) -> Any:
        value: Any = None
        for part in node.values:
            value = self._value(part, names)
            if bool(value) is isinstance(node.op, ast.Or):
                break
        return value

    def _of_unaryop(self, node: ast.UnaryOp, names: Mapping[str, Any]) -> Any:
        value = self._value(node.operand, names)
        return not value if isinstance(node.op, ast.Not) else -value if isinstance(node.op, ast.USub) else +value

    def _of_compare(self, node: ast.Compare, names: Mapping[str, Any]) -> bool:
        left = self._value(node.left, names)
        for kind, right_node in zip(node.ops, node.comparators, strict=True):
            right = self._value(right_node, names)
            if isinstance(left, _Tensor) or isinstance(right, _Tensor):
                raise NotPlain("Tensors are compared.")
            if not _COMPARE[type(kind)](left, right):
                return False
            left = right
        return True

    def _of_ifexp(self, node: ast.IfExp, names: Mapping[str, Any]) -> Any:
        return self._value(node.body if self._value(node.test, names) else node.orelse, names)

    def _of_subscript(self, node: ast.Subscript, names: Mapping[str, Any]) -> Any:
        owner = self._value(node.value, names)
        if isinstance(owner, _Tensor) and isinstance(inner := owner.values[self._key(node.slice, names)], list):
            return _Tensor(inner)
        if not isinstance(owner, str | list | tuple | dict):
            raise NotPlain("Something else than a text, a list or a dict is read from.")
        key = self._key(node.slice, names)
        try:
            return owner[key]
        except IndexError as error:
            raise Raises(node, error) from error
        except KeyError as error:
            if "input_ids" in owner:  # a tokenizer's answer: another tokenizer gives other fields
                raise
            raise Raises(node, error, str(key)) from error

    def _key(self, node: ast.expr, names: Mapping[str, Any]) -> Any:
        if isinstance(node, ast.Slice):
            parts = (node.lower, node.upper, node.step)
            return slice(*(self._value(part, names) if part is not None else None for part in parts))
        return self._value(node, names)

    def _of_list(self, node: ast.List, names: Mapping[str, Any]) -> list[Any]:
        found: list[Any] = []
        for each in node.elts:
            if isinstance(each, ast.Starred):
                found += list(self._value(each.value, names))
            else:
                found.append(self._value(each, names))
        return found

    def _of_tuple(self, node: ast.Tuple, names: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(self._value(each, names) for each in node.elts)

    def _of_set(self, node: ast.Set, names: Mapping[str, Any]) -> set[Any]:
        return {self._value(each, names) for each in node.elts}

    def _of_dict(self, node: ast.Dict, names: Mapping[str, Any]) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None:
                found.update(self._value(value, names))
            else:
                found[self._value(key, names)] = self._value(value, names)
        return found

    def _of_lambda(self, node: ast.Lambda, names: Mapping[str, Any]) -> Any:
        return _Named("lambda", node, dict(names))

    def _of_listcomp(self, node: ast.ListComp, names: Mapping[str, Any]) -> list[Any]:
        return [self._value(node.elt, inner) for inner in self._loops(node.generators, dict(names))]

    def _of_generatorexp(self, node: ast.GeneratorExp, names: Mapping[str, Any]) -> list[Any]:
        return [self._value(node.elt, inner) for inner in self._loops(node.generators, dict(names))]

    def _of_setcomp(self, node: ast.SetComp, names: Mapping[str, Any]) -> set[Any]:
        return {self._value(node.elt, inner) for inner in self._loops(node.generators, dict(names))}

    def _of_dictcomp(self, node: ast.DictComp, names: Mapping[str, Any]) -> dict[Any, Any]:
        return {
            self._value(node.key, inner): self._value(node.value, inner)
            for inner in self._loops(node.generators, dict(names))
        }

    def _loops(self, generators: list[ast.comprehension], names: dict[str, Any]) -> Iterable[dict[str, Any]]:
        if not generators:
            yield names
            return
        first, *rest = generators
        for item in self._value(first.iter, names):
            self._tick()
            inner = dict(names)
            self._assign(first.target, item, inner)
            if all(self._value(test, inner) for test in first.ifs):
                yield from self._loops(rest, inner)

    def _of_attribute(self, node: ast.Attribute, names: Mapping[str, Any]) -> Any:
        owner = self._value(node.value, names)
        if owner is self._tokenizer and owner is not None and node.attr in _TOKENIZER:
            return getattr(owner, node.attr)
        if isinstance(owner, dict) and node.attr in ("input_ids", "attention_mask", "labels") and node.attr in owner:
            return owner[node.attr]  # a BatchEncoding
        raise NotPlain(f"{ast.unparse(node)[:60]} is not followed.")

    def _of_call(self, node: ast.Call, names: Mapping[str, Any]) -> Any:
        given: list[Any] = []
        for each in node.args:
            if isinstance(each, ast.Starred):
                given += list(self._value(each.value, names))
            else:
                given.append(self._value(each, names))
        named: dict[str, Any] = {}
        for keyword in node.keywords:
            value = self._value(keyword.value, names)
            named |= value if keyword.arg is None else {keyword.arg: value}
        if isinstance(node.func, ast.Attribute):
            return self._method(node.func, given, named, names)
        function = self._value(node.func, names)
        if function is self._tokenizer and function is not None:
            return self._tokenized(function, given, named)
        if not isinstance(function, _Named):
            raise NotPlain(f"{ast.unparse(node.func)[:60]} is not followed.")
        if function.node is not None:
            return self._lambda(function.node, given, function.names)
        if function.name in self._functions:
            return self._called(self._function(function.name), given, named)
        return self._builtin(function.name, given, named)

    def _builtin(self, name: str, given: list[Any], named: dict[str, Any]) -> Any:
        if name == "isinstance":
            kinds = given[1] if isinstance(given[1], tuple) else (given[1],)
            return isinstance(given[0], tuple(_BUILTINS[kind.name] for kind in kinds))
        if name == "range" and given and max(map(abs, given)) > MOST_SIZE:
            raise NotPlain("A range is too long.")
        given = [self._callable(each) if isinstance(each, _Named) else each for each in given]
        named = {key: self._callable(each) if isinstance(each, _Named) else each for key, each in named.items()}
        value = _BUILTINS[name](*given, **named)
        return list(value) if name in ("zip", "enumerate", "reversed") else value

    def _callable(self, function: _Named) -> Callable[..., Any]:
        if function.node is not None:
            return lambda *given: self._lambda(function.node, given, function.names)  # type: ignore[arg-type]
        if function.name in self._functions:
            return lambda *given: self._called(self._function(function.name), given, {})
        found: Callable[..., Any] = _BUILTINS[function.name]
        return found

    def _method(self, node: ast.Attribute, given: list[Any], named: dict[str, Any], names: Mapping[str, Any]) -> Any:
        if isinstance(node.value, ast.Name) and node.value.id not in names and node.value.id not in self._names:
            return self._of_module(node.value.id, node.attr, given, named)
        owner = self._value(node.value, names)
        if owner is self._tokenizer and owner is not None and node.attr in _TOKENIZER:
            return self._tokenized(getattr(owner, node.attr), given, named)
        if isinstance(owner, _Tensor):
            return owner.method(node.attr)
        if owner is None:
            raise Raises(node, AttributeError(f"'NoneType' object has no attribute '{node.attr}'"))
        allowed = next((methods for kind, methods in _METHODS.items() if isinstance(owner, kind)), set())
        if node.attr not in allowed:
            raise NotPlain(f"{ast.unparse(node)[:60]} is not followed.")
        if isinstance(owner, str):
            self._text_is_small(owner, node.attr, given)
        return getattr(owner, node.attr)(*given, **named)

    def _text_is_small(self, text: str, method: str, given: list[Any]) -> None:
        """Refuse formats of their own, and what would grow too large before its length is looked at."""
        if method == "format":
            for _, name, spec, _ in string.Formatter().parse(text):
                if spec or not (name is None or name == "" or name.isidentifier() or name.isdigit()):
                    raise NotPlain("A format of its own is not followed.")
        if method == "replace" and len(given) > 1 and text.count(str(given[0])) * len(str(given[1])) > MOST_SIZE:
            raise NotPlain("A value grows too large.")
        if method == "join" and given and len(text) * len(given[0]) > MOST_SIZE:
            raise NotPlain("A value grows too large.")

    def _of_module(self, module: str, name: str, given: list[Any], named: dict[str, Any]) -> Any:
        if (module, name) == ("json", "loads"):
            return json.loads(*given)
        if (module, name) == ("json", "dumps"):
            return json.dumps(*given, **{key: named[key] for key in ("ensure_ascii", "indent") if key in named})
        if module == "copy" and name in ("copy", "deepcopy") and isinstance(given[0], _PLAIN):
            return copy.deepcopy(given[0])
        raise NotPlain(f"{module}.{name} is not followed.")

    def _tokenized(self, function: Callable[..., Any], given: list[Any], named: dict[str, Any]) -> Any:
        tensors = any(named.pop(name, None) is not None for name in _TENSORS)
        if tensors and (function is not self._tokenizer or not given):
            raise NotPlain("Tensors are made of the rows one by one.")
        if any(isinstance(each, int) and each > _MOST_TOKENS for each in named.values()):
            raise NotPlain("A row is padded to too many tokens.")
        if named.get("truncation") and isinstance(named.get("max_length", self._tokenizer.model_max_length), int):
            self.limits.add(named.get("max_length") or self._tokenizer.model_max_length)
        if function is self._tokenizer:
            found = function(*given, **named)
            if tensors:
                single = isinstance(given[0], str)
                return {key: _Tensor([value] if single else list(value)) for key, value in found.items()}
            return {key: list(value) for key, value in found.items()}
        value = function(*given, **named)
        return dict(value) if hasattr(value, "keys") else value

    def _tick(self) -> None:
        self._steps += 1
        if self._steps > MOST_STEPS:
            raise NotPlain("The function does too much for this.")


class _Named:
    """A function of the script, of Python's own, or a lambda."""

    def __init__(self, name: str, node: ast.Lambda | None = None, names: dict[str, Any] | None = None) -> None:
        self.name = name
        self.node = node
        self.names = names or {}


def _in_lists(value: Any) -> Any:
    """A row with its tensors as the lists that a data set keeps of them."""
    if isinstance(value, dict):
        return {name: each.values if isinstance(each, _Tensor) else each for name, each in value.items()}
    return value.values if isinstance(value, _Tensor) else value


def _constant(value: Any) -> ast.Constant:
    """A value as it is shown: its beginning."""
    return ast.Constant(value[:20] if isinstance(value, str) else value)
