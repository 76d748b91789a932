"""argparse: the options that a script declares, with their defaults and what its command line sets.

A script whose start is not written anywhere in its project is read as if it ran without arguments.
"""

from __future__ import annotations

import ast
from functools import partial

from .command_line import Convert, Given, Option, merged_value, natural, parse
from .expressions import Expressions
from .provenance import given
from .source import Written
from .starts import Start, starts_of
from .values import Function, Known, Listing, Made, Name, Thing, Unknown, Value

_NUMBERS = {"int": int, "float": float}
_MANY_WORDS = 4
"""Words of a command line from which on no script counts them."""


def _literal(text: str, node: ast.AST) -> Value:
    """A word as the Python literal that it is: fire reads ``'["q_proj"]'`` as a list, and what is none as a text."""
    try:
        data = ast.literal_eval(text) if text[:1] in "[(\"'" else None
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        data = None
    if isinstance(data, list | tuple):
        return Listing(node, items=[Known(node, data=each) for each in data])
    return Known(node, data=data) if isinstance(data, str) else natural(text, node)


class Argparse(Expressions):
    """The part of the machine that knows argparse, and how the script is started."""

    _starts: list[Start] | None = None

    @property
    def starts(self) -> list[Start]:
        """The command lines of the project that start the script."""
        if self._starts is None:
            self._starts = starts_of(self.neighbours)
        return self._starts

    def argv(self, node: ast.AST) -> Listing:
        """``sys.argv``: as the command lines have it, of several what they share; without one the script's name alone.

        Scripts ask whether there are none, one or two words; how many more there are makes no difference to them, so
        that several long command lines count as long as the shortest.
        """
        lengths = {len(start.words) for start in self.starts}
        alike = len(lengths) <= 1 or min(lengths) >= _MANY_WORDS
        items: list[Value] = [Known(node, data="script.py")]
        for words in zip(*(start.words for start in self.starts), strict=False) if alike else ():
            at, texts = Written(words[0].place), {word.text for word in words}
            text = texts.pop() if len(texts) == 1 else None
            items.append(Known(at, data=text) if text is not None else Unknown(at, why="The command line decides."))
        return Listing(node, items=items, exact=alike)

    def add_argument(self, parser: Made, node: ast.AST, positional: list[Value], named: dict[str, Value]) -> None:
        """Follow ``parser.add_argument(…)``."""
        flags = [value.data for value in positional if isinstance(value, Known) and isinstance(value.data, str)]
        if not flags:
            return
        long = [flag for flag in flags if flag.startswith("--")] or flags
        dest = named.get("dest")
        written = dest.data if isinstance(dest, Known) and isinstance(dest.data, str) else None
        name = written or long[0].lstrip("-").replace("-", "_")
        self._declare(parser, name, tuple(flags), named)
        action = named.get("action")
        word = action.data if isinstance(action, Known) else None
        default = named.get("default")
        if default is None and word in ("store_true", "store_false"):
            default = Known(node, data=word == "store_false")
        why = f"The command line decides on {long[0]}."
        required = named.get("required")
        needed = (isinstance(required, Known) and required.data) or not long[0].startswith("-")
        if needed or default is None:
            nothing = Known(node, f"script's argument {long[0]}", data=None)
            parser.arguments[name] = Unknown(node, why=why) if needed else nothing
            return
        value = given(self._converted(default, named.get("type"), node), "")
        value.given = f"default of the script's argument {long[0]}"
        parser.arguments[name] = value

    def _declare(self, parser: Made, dest: str, flags: tuple[str, ...], named: dict[str, Value]) -> None:
        """Keep what an option looks like on a command line."""
        action, count, constant = named.get("action"), named.get("nargs"), named.get("const")
        word = action.data if isinstance(action, Known) else getattr(action, "last", None)
        number = count.data if isinstance(count, Known) else None
        takes = "many" if number in ("+", "*") or isinstance(number, int) else "any" if number == "?" else "one"
        if word in ("store_true", "store_false", "store_const", "BooleanOptionalAction"):
            takes = "none"
            constant = constant or Known(data=word != "store_false")
        dashed = tuple(flag for flag in flags if flag.startswith("-"))
        kind = partial(self._word, named.get("type"))
        declared = self.options.setdefault(id(parser), (parser, []))[1]
        declared.append(Option(dest, dashed, takes, kind, constant, word == "append"))
        if word == "BooleanOptionalAction":
            negated = tuple(f"--no-{flag[2:]}" for flag in dashed if flag.startswith("--"))
            declared.append(Option(dest, negated, "none", kind, Known(data=False)))

    def _word(self, kind: Value | None, text: str, node: ast.AST) -> Value:
        """A word of the command line as an option's ``type`` converts it."""
        if kind is None or (isinstance(kind, Name) and kind.dotted in ("str", "Path", "pathlib.Path")):
            return Known(node, data=text)
        if isinstance(kind, Name) and kind.dotted in _NUMBERS:
            return self._converted(Known(node, data=text), kind, node)
        if isinstance(kind, Name) and kind.dotted == "bool":
            return Known(node, data=bool(text))
        if isinstance(kind, Function):
            value = self.call_function(kind, [Known(node, data=text)], {}, False)
            is_switch = isinstance(value, Unknown) and text.lower() in ("true", "false", "yes", "no")
            return Known(node, data=text.lower() in ("true", "yes")) if is_switch else value
        named = kind.last if isinstance(kind, Name) else ""
        return natural(text, node) if "bool" in named.lower() else Unknown(node, why=f"{named or 'Code'} converts it.")

    def _converted(self, default: Value, kind: Value | None, node: ast.AST) -> Value:
        """argparse converts a default that is a text by the argument's type."""
        if not isinstance(default, Known) or not isinstance(default.data, str) or not isinstance(kind, Name):
            return default
        convert = _NUMBERS.get(kind.dotted)
        if convert is None:
            return default
        try:
            return Known(default.node, data=convert(default.data))
        except ValueError:
            return Unknown(node)

    def namespace(self, parser: Made, node: ast.AST, words: Value | None = None) -> Thing:
        """What ``parse_args()`` returns: by the command lines that start the script, else without arguments.

        Args:
            words: the list that ``parse_args`` is given in place of the command line.
        """
        options = self.options.get(id(parser), (parser, []))[1]
        starts = self._given_words(words, node) if words is not None else self.starts
        all_given = [parse(start, options) for start in starts]
        self.tick(sum(len(start.words) for start in starts) + len(options))
        attributes = dict(parser.arguments)
        for dest in {option.dest for option in options} if all_given else ():
            value = merged_value(dest, attributes.get(dest), all_given, [start.file for start in starts])
            if value is not None:
                attributes[dest] = value
        return Thing(node, attributes=attributes, exact=parser.exact)

    def started(self, function: Function) -> Value:
        """``fire.Fire(function)``, ``typer.run(function)``: the command line sets its parameters, by their names."""
        assert function.body is not None
        parameters = function.body.args
        plain = [*parameters.posonlyargs, *parameters.args]
        defaults: dict[str, ast.expr | None] = {arg.arg: None for arg in (*plain, *parameters.kwonlyargs)}
        defaults |= {
            arg.arg: default for arg, default in zip(reversed(plain), reversed(parameters.defaults), strict=False)
        }
        defaults |= {a.arg: d for a, d in zip(parameters.kwonlyargs, parameters.kw_defaults, strict=True)}
        options = [
            Option(name, tuple(dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))), "one", _literal)
            for name in defaults
        ]
        all_given = [parse(start, options) for start in self.starts]
        self.tick(sum(len(start.words) for start in self.starts) + len(options))
        named: dict[str, Value] = dict(function.options)
        before, self.scope = self.scope, function.scope or self.module
        for name, written in defaults.items():
            if name in named:
                continue
            default = given(self.evaluate(written), f"default of the script's argument --{name}") if written else None
            value = merged_value(name, default, all_given, [start.file for start in self.starts]) if all_given else None
            named[name] = value or default or Unknown(function.body, why=f"The command line decides on --{name}.")
        self.scope = before
        return self.call_function(function, [], named, False)

    def _given_words(self, words: Value, node: ast.AST) -> list[Start]:
        """A list that the script itself passes as its command line."""
        if isinstance(words, Known) and words.data is None:
            return self.starts
        if not isinstance(words, Listing):
            return []
        texts = [item.data if isinstance(item, Known) and isinstance(item.data, str) else None for item in words.items]
        from .starts import Argument

        return [Start("the script", tuple(Argument(text, partial(self.place_of, node)) for text in texts))]

    def settings(self, listed: set[str], texts: set[str]) -> tuple[dict[str, Value], list[Given]]:
        """What the command lines set of fields that are declared elsewhere, each as it looks.

        Args:
            listed: names of fields that are lists.
            texts: names of fields that are texts.
        """
        flags = {
            w.text.partition("=")[0] for start in self.starts for w in start.words if w.text and w.text[:2] == "--"
        }
        options = []
        for flag in sorted(flags):
            dest = flag[2:].replace("-", "_")
            if dest.startswith("no_"):
                options.append(Option(dest[3:], (flag,), "none", natural, Known(data=False)))
            else:
                convert: Convert = _as_text if dest in texts else natural
                options.append(Option(dest, (flag,), "any", convert, None, dest in listed))
        all_given = [parse(start, options) for start in self.starts]
        files = [start.file for start in self.starts]
        found = {each.dest: merged_value(each.dest, None, all_given, files) for each in options}
        return {dest: value for dest, value in found.items() if value is not None}, all_given


def _as_text(text: str, node: ast.AST) -> Value:
    return Known(node, data=text)
