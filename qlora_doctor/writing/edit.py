"""RFC 6902 operations on the text itself: what they do not name stays byte for byte, comments and layout too."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import yaml

from ..core.pointers import join_pointer, split_pointer
from ..core.report import PatchOperation
from ..reading.document import Format
from ..reading.positions import Entry, Positions
from .patch import CannotEdit, NoEditor, patched, value_at
from .toml_edit import apply_toml

MOST_EDITED = 2**16
"""Characters of a text that is edited: an edit parses it a few times, and what is longer was written by a program."""


def apply_patch(text: str, format: Format, operations: Sequence[PatchOperation]) -> str:
    """Apply operations one after the other.

    ``replace`` of an absent key adds it and ``add`` makes missing mappings above it, because a silent config has the
    library's default at that place; ``remove`` of an absent key does nothing. Writing the value that a repeated key
    already has leaves that key once. A removal followed by adding the same value beside it renames the key in place.

    Raises:
        CannotEdit: the format has no editor, or the text around the place cannot be changed on its own.
    """
    if format == "toml":
        return apply_toml(text, operations)
    if format == "text":
        raise NoEditor("there is no editor for programs")
    if len(text) > MOST_EDITED:
        raise NoEditor("the text is too long to be edited")
    waiting = list(operations)
    data = parsed(text, format)
    while waiting:
        before = text
        operation = waiting.pop(0)
        wanted = patched(data, operation)
        editor = _Editor(text, format)
        if waiting and _is_renaming(data, operation, waiting[0]):
            wanted = patched(wanted, renaming := waiting.pop(0))
            text = editor.rename(operation.path, split_pointer(renaming.path)[-1])
        elif operation.op == "remove":
            text = editor.remove(operation.path)
        elif editor.repeated(operation.path) and wanted == data:
            text = editor.leave_once(operation.path)
        else:
            text = editor.put(operation.path, operation.value, after=operation.after)
        if text != before and parsed(text, format) != wanted:
            raise CannotEdit("the edit would change something else")  # an anchor that is used elsewhere, for example
        if text == before and data != wanted:
            raise CannotEdit("the place is not in the text")
        data = wanted
    return text


def _is_renaming(data: Any, removal: PatchOperation, addition: PatchOperation) -> bool:
    if removal.op != "remove" or addition.op != "add":
        return False
    *old, _ = split_pointer(removal.path)
    *new, key = split_pointer(addition.path)
    here, value = value_at(data, join_pointer(old)), value_at(data, removal.path)
    return old == new and isinstance(here, dict) and key not in here and value == addition.value and value is not None


@lru_cache(maxsize=4)
def parsed(text: str, format: Format) -> Any:
    """The data of an edited text, for reading alone.

    Raises:
        CannotEdit: it does not parse.
    """
    from ..reading.yaml_reader import YamlProblem, read_yaml

    try:
        return json.loads(text) if format == "json" else read_yaml(text).data
    except (ValueError, RecursionError, YamlProblem) as error:
        raise CannotEdit("the edited text does not parse") from error


class _Editor:
    """Edits one text once."""

    def __init__(self, text: str, format: Format) -> None:
        self.format = format
        self.positions = Positions(text, format)
        if self.positions.has_error:
            raise CannotEdit("the grammar does not know all of this text")
        self.newline = "\r\n" if "\r\n" in text else "\n"

    def put(self, pointer: str, value: Any, *, after: str | None = None) -> str:
        """Set the value at a pointer, adding its key where it is absent: behind another one, or at the end."""
        steps = split_pointer(pointer)
        entry = self.positions.find(pointer)
        if entry is not None and entry.whole is not None:
            return self._replace(entry, value)
        missing = []
        while steps:
            missing.append(steps.pop())
            parent = self.positions.find(join_pointer(steps)) if steps else self.positions.root
            if parent is not None:
                break
        else:
            raise CannotEdit("the whole text cannot be replaced")
        for step in missing[:-1]:
            value = {step: value}
        key = missing[-1]
        if parent.kind == "mapping" and parent.node is not None:
            return self._add_key(parent, key, value, after)
        if parent.kind == "sequence" and parent.node is not None:
            return self._add_element(parent, key, value)
        return self._grow(steps, parent, key, value)

    def remove(self, pointer: str) -> str:
        """Take the key or element at a pointer away, with its line where it has one to itself."""
        entry = self.positions.find(pointer)
        if entry is None or entry.whole is None:
            return self.positions.data.decode()
        parent = self.positions.find(join_pointer(split_pointer(pointer)[:-1])) or self.positions.root
        siblings = [child for _, child in self.positions.children(parent)]
        at = next(i for i, child in enumerate(siblings) if child.whole == entry.whole)
        if parent.flow:
            return self._cut_between(siblings, at)
        if len(siblings) == 1:
            raise CannotEdit("a block cannot lose its only entry")
        return self._cut_lines(entry)

    def rename(self, pointer: str, name: str) -> str:
        """Give the key at a pointer another name."""
        entry = self.positions.find(pointer)
        if entry is None or entry.key is None:
            raise CannotEdit("the key is not in the text")
        old = self.positions.text_of(entry.key)
        new = json.dumps(name, ensure_ascii=False) if old.startswith('"') else self._written(name)
        return self._splice(entry.key.start_byte, entry.key.end_byte, new)

    def repeated(self, pointer: str) -> bool:
        """True where the key at a pointer stands more than once in its mapping."""
        return len(self._same(pointer)) > 1

    def leave_once(self, pointer: str) -> str:
        """Take all but the last of a repeated key away: the last is the one that counts."""
        parent = self.positions.find(join_pointer(split_pointer(pointer)[:-1])) or self.positions.root
        siblings = [child for _, child in self.positions.children(parent)]
        at = {child.whole.start_byte: number for number, child in enumerate(siblings) if child.whole is not None}
        data = self.positions.data
        for entry in reversed(self._same(pointer)[:-1]):  # from behind, so that the places before stay right
            assert entry.whole is not None
            flow = parent.flow
            start, end = self._between(siblings, at[entry.whole.start_byte]) if flow else self._lines(entry)
            data = data[:start] + data[end:]
        return data.decode()

    def _same(self, pointer: str) -> list[Entry]:
        *above, key = split_pointer(pointer)
        parent = self.positions.find(join_pointer(above)) if above else self.positions.root
        if parent is None or parent.kind != "mapping":
            return []
        return [child for name, child in self.positions.children(parent) if name == key]

    # -- replacing

    def _replace(self, entry: Entry, value: Any) -> str:
        whole = entry.whole
        assert whole is not None
        if entry.node is None:  # `key:` with nothing after it
            return self._splice(whole.end_byte, whole.end_byte, " " + self._written(value))
        if self.format == "yaml" and entry.node.type == "alias":
            raise CannotEdit("the value is an alias of another one")
        start, end = entry.node.start_byte, entry.node.end_byte
        new = self._written(value)
        if entry.node.type in ("block_sequence", "block_mapping"):
            return self._replace_block(entry, value)
        return self._splice(start, end, new)

    def _replace_block(self, entry: Entry, value: Any) -> str:
        """A block below its key becomes the new value, in a block again where that is a list of plain values."""
        assert entry.node is not None
        start, end = entry.node.start_byte, self._end_of(entry.node)
        if isinstance(value, list) and value and entry.kind == "sequence":
            indent = " " * self._column(entry.node)
            lines = [f"- {self._written(element)}" for element in value]
            return self._splice(start, end, (self.newline + indent).join(lines))
        assert entry.key is not None
        colon = self.positions.data.index(b":", entry.key.end_byte)
        between = self.positions.data[colon + 1 : start]
        comment = between.split(b"\n")[0].rstrip() if b"#" in between else b""
        return self._splice(colon + 1, end, f" {self._written(value)}{comment.decode()}")

    # -- adding

    def _add_key(self, parent: Entry, key: str, value: Any, after: str | None) -> str:
        pairs = [child.whole for _, child in self.positions.children(parent) if child.whole is not None]
        assert parent.node is not None
        found = self.positions.find(after) if after is not None else None
        behind = [found.whole] if found is not None and found.whole in pairs else pairs
        if parent.flow:
            written = f"{self._key(key, parent)}: {self._written(value)}"
            return self._add_to_flow(parent, behind, written)
        if not pairs:
            raise CannotEdit("an empty block has no place for a key")
        indent = self._column(pairs[0])
        end = self._line_end(behind[-1])
        return self._splice(end, end, f"{self.newline}{' ' * indent}{self._block(key, value, indent)}")

    def _add_element(self, parent: Entry, step: str, value: Any) -> str:
        children = [child.whole for _, child in self.positions.children(parent) if child.whole is not None]
        if step != "-" and step != str(len(children)):
            raise CannotEdit("elements are added at the end only")
        written = self._written(value)
        if parent.flow:
            return self._add_to_flow(parent, children, written)
        end = self._line_end(children[-1])
        return self._splice(end, end, f"{self.newline}{' ' * self._column(children[0])}- {written}")

    def _add_to_flow(self, parent: Entry, members: list[Any], written: str) -> str:
        """One more member between brackets, on a line of its own where the others have one."""
        assert parent.node is not None
        if not members:
            inner = parent.node.start_byte + 1
            return self._splice(inner, parent.node.end_byte - 1, written)
        last = members[-1]
        own_lines = last.start_point[0] != parent.node.start_point[0]
        lead = self.newline + self._indent_of(last) if own_lines else " "
        return self._splice(last.end_byte, last.end_byte, f",{lead}{written}")

    def _grow(self, steps: list[str], parent: Entry, key: str, value: Any) -> str:
        """A scalar that stands for a mapping (``model: id``) becomes that mapping; an empty value becomes one."""
        if parent.node is None or self.positions.text_of(parent.node) in ("null", "~", ""):
            return self.put(join_pointer(steps), {key: value}) if steps else self._fail()
        if steps == ["model"] and key != "name_or_path":
            name = self._scalar(parent)
            return self._replace(parent, {"name_or_path": name, key: value})
        return self._fail()

    def _fail(self) -> str:
        raise CannotEdit("the value above is no mapping")

    def _scalar(self, entry: Entry) -> Any:
        assert entry.node is not None
        return yaml.safe_load(self.positions.text_of(entry.node))

    # -- removing

    def _cut_between(self, siblings: list[Entry], at: int) -> str:
        return self._splice(*self._between(siblings, at), "")

    def _between(self, siblings: list[Entry], at: int) -> tuple[int, int]:
        """The bytes of a member between brackets, with the comma behind it, or before it where it is the last one."""
        node = siblings[at].whole
        assert node is not None
        if at + 1 < len(siblings):
            after = siblings[at + 1].whole
            assert after is not None
            return node.start_byte, after.start_byte
        before = siblings[at - 1].whole if at > 0 else None
        return (before.end_byte if before is not None else node.start_byte), node.end_byte

    def _cut_lines(self, entry: Entry) -> str:
        return self._splice(*self._lines(entry), "")

    def _lines(self, entry: Entry) -> tuple[int, int]:
        """The bytes of the lines of an entry of a block."""
        assert entry.whole is not None
        data = self.positions.data
        start = data.rfind(b"\n", 0, entry.whole.start_byte) + 1
        if data[start : entry.whole.start_byte].strip():
            raise CannotEdit("the entry begins in the middle of a line")
        end = data.find(b"\n", self._end_of(entry.whole))
        return start, len(data) if end < 0 else end + 1

    # -- writing

    def _written(self, value: Any) -> str:
        """A value on one line: JSON, or YAML's flow style."""
        if self.format == "json":
            return json.dumps(value, ensure_ascii=False)
        if isinstance(value, dict):
            pairs = [f"{self._written(str(k))}: {self._written(v)}" for k, v in value.items()]
            return "{" + ", ".join(pairs) + "}"
        if isinstance(value, list):
            return "[" + ", ".join(self._written(element) for element in value) + "]"
        return yaml_scalar(value)

    def _block(self, key: str, value: Any, indent: int) -> str:
        """``key: value`` for a YAML block; a mapping gets lines of its own."""
        name = self._written(key)
        if isinstance(value, dict) and value:
            lead = self.newline + " " * (indent + 2)
            return f"{name}:" + "".join(lead + self._block(str(k), v, indent + 2) for k, v in value.items())
        return f"{name}: {self._written(value)}"

    def _key(self, key: str, parent: Entry) -> str:
        quoted = self.format == "json" or self._quotes_keys(parent)
        return json.dumps(key, ensure_ascii=False) if quoted else self._written(key)

    def _quotes_keys(self, parent: Entry) -> bool:
        keys = [child.key for _, child in self.positions.children(parent) if child.key is not None]
        return bool(keys) and all(self.positions.text_of(key).startswith('"') for key in keys)

    def _splice(self, start: int, end: int, new: str) -> str:
        data = self.positions.data
        return (data[:start] + new.encode() + data[end:]).decode()

    def _end_of(self, node: Any) -> int:
        """Where a node's own text ends: the grammar counts blank lines and comments below a block to it."""
        data: bytes = self.positions.data
        end = node.end_byte
        last = _last_leaf(node)
        return min(end, last.end_byte) if last is not None else len(data[:end].rstrip())

    def _line_end(self, node: Any) -> int:
        """The end of the line on which a node ends: behind its comment, before the line break."""
        data: bytes = self.positions.data
        end = len(data[: self._end_of(node)].rstrip())
        newline = data.find(b"\n", end)
        return len(data[:newline].rstrip(b"\r")) if newline >= 0 else len(data)

    def _column(self, node: Any) -> int:
        data = self.positions.data
        start = data.rfind(b"\n", 0, node.start_byte) + 1
        return len(data[start : node.start_byte].decode())

    def _indent_of(self, node: Any) -> str:
        data = self.positions.data
        start = data.rfind(b"\n", 0, node.start_byte) + 1
        line = data[start : node.start_byte].decode()
        return line[: len(line) - len(line.lstrip())]


def _last_leaf(node: Any) -> Any:
    """The last token below a node that is no comment."""
    while node.child_count and node.type != "block_scalar":
        children = [child for child in node.children if child.type != "comment"]
        if not children:
            return None
        node = children[-1]
    return node


_PLAIN = re.compile(r"[A-Za-z_./][\w./+-]*\Z", re.ASCII)


def yaml_scalar(value: Any) -> str:
    """A scalar that YAML 1.1 reads back as the same value; ``0.0002`` is written so, because ``2e-4`` is a string."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if isinstance(value, float):
        text = repr(value)
        mantissa, e, exponent = text.partition("e")
        return text if not e else f"{mantissa if '.' in mantissa else mantissa + '.0'}e{exponent}"
    if isinstance(value, int):
        return str(value)
    text = str(value)
    if _PLAIN.match(text) and yaml.safe_load(text) == text:
        return text
    return json.dumps(text, ensure_ascii=False)
