"""Where a value stands in a JSON or YAML text: JSON pointer → ranges, by tree-sitter.

Values never come from here, so that a difference between parsers cannot change a verdict; at worst a place is that of
the section above. Byte offsets are of the UTF-8 text; lines and columns count from 1, columns in Unicode characters.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import tree_sitter

from ..core.pointers import join_pointer, split_pointer
from ..core.text import safe


@dataclass(frozen=True)
class Entry:
    """A value in the text, with its key where it has one.

    Attributes:
        kind: ``mapping``, ``sequence`` or ``scalar``.
        node: the value's node; None where a YAML key has an empty value.
        key: the key's node.
        whole: key and value together: a pair, or an element of a list.
        flow: True for JSON and for YAML in brackets.
    """

    kind: str
    node: tree_sitter.Node | None
    key: tree_sitter.Node | None = None
    whole: tree_sitter.Node | None = None
    flow: bool = True

    @property
    def shown(self) -> tree_sitter.Node:
        """What a message points at: the key, or the value of a list's element."""
        node = self.key or self.node or self.whole
        assert node is not None
        return node


class Positions:
    """The places of one text."""

    def __init__(self, text: str, format: str) -> None:
        self.data = text.encode("utf-8", "surrogatepass")
        self.format = format
        self._lines: list[bytes] | None = None
        tree = tree_sitter.Parser(tree_sitter.Language(grammar(format))).parse(self.data)
        self._tree = tree  # nodes are only valid while their tree lives
        self.has_error = tree.root_node.has_error
        self.root = self._entry(_first_value(tree.root_node))

    def find(self, pointer: str) -> Entry | None:
        """The entry at a JSON pointer, or None where the text has none there."""
        entry: Entry | None = self.root
        for step in split_pointer(pointer):
            if entry is None or entry.node is None:
                return None
            entry = self._child(entry, step)
        return entry

    def nearest(self, pointer: str) -> Entry | None:
        """The entry at a JSON pointer, or the nearest one above it (never the whole text)."""
        steps = split_pointer(pointer)
        while steps:
            found = self.find(join_pointer(steps))
            if found is not None:
                return found
            steps.pop()
        return None

    def children(self, entry: Entry) -> Iterator[tuple[str, Entry]]:
        """The entries below a mapping (by key) or a sequence (by index), as they stand in the text."""
        if entry.node is None:
            return
        if entry.kind == "mapping":
            for pair in entry.node.named_children:
                if pair.type in ("pair", "block_mapping_pair", "flow_pair"):
                    key = pair.child_by_field_name("key")
                    if key is not None:
                        yield self._key_text(key), self._entry(pair.child_by_field_name("value"), key=key, whole=pair)
        elif entry.kind == "sequence":
            elements = [n for n in entry.node.named_children if n.type not in ("comment", "ERROR")]
            for index, element in enumerate(elements):
                value = _first_value(element) if element.type == "block_sequence_item" else element
                yield str(index), self._entry(value, whole=element)

    def span(self, node: tree_sitter.Node) -> tuple[int, int, int, int]:
        """(line, column, end line, end column) of a node; the end is exclusive."""
        return (*self._point(node.start_point), *self._point(node.end_point))

    def text_of(self, node: tree_sitter.Node) -> str:
        """The node's own text."""
        return self.data[node.start_byte : node.end_byte].decode("utf-8", "replace")

    def line(self, number: int) -> str:
        """A line of the text, without its end."""
        lines = self._all_lines()
        return lines[number - 1].decode("utf-8", "replace").rstrip("\r") if number <= len(lines) else ""

    def _child(self, entry: Entry, step: str) -> Entry | None:
        found = None
        for name, child in self.children(entry):
            if name == step:
                found = child  # of a repeated key the last one counts, as for every parser that reads it
        return found

    def _entry(self, node: tree_sitter.Node | None, **place: Any) -> Entry:
        node = _bare(node)
        if node is None:
            return Entry("scalar", None, **place)
        kinds = {"object": "mapping", "block_mapping": "mapping", "flow_mapping": "mapping"}
        kinds |= {"array": "sequence", "block_sequence": "sequence", "flow_sequence": "sequence"}
        return Entry(kinds.get(node.type, "scalar"), node, flow=not node.type.startswith("block_"), **place)

    def _key_text(self, node: tree_sitter.Node) -> str:
        text = self.text_of(node)
        try:
            return safe(str(json.loads(text) if text.startswith('"') else _yaml_key(text)))
        except ValueError:
            return text.strip("\"'")

    def _point(self, point: Any) -> tuple[int, int]:
        row, column = point
        lines = self._all_lines()
        before = lines[row][:column] if row < len(lines) else b""
        return row + 1, len(before.decode("utf-8", "replace")) + 1

    def _all_lines(self) -> list[bytes]:
        if self._lines is None:
            self._lines = self.data.split(b"\n")
        return self._lines


def grammar(format: str) -> Any:
    """The tree-sitter grammar of ``json`` or ``yaml``."""
    if format == "json":
        import tree_sitter_json

        return tree_sitter_json.language()
    import tree_sitter_yaml

    return tree_sitter_yaml.language()


_WRAPPERS = ("document", "stream", "block_node", "flow_node", "block_sequence_item")


def _first_value(node: tree_sitter.Node) -> tree_sitter.Node | None:
    """The value inside a document or a list's dash, past comments and directives."""
    for child in node.named_children:
        if child.type not in ("comment", "ERROR") and not child.type.endswith("_directive"):
            return child
    return None


def _bare(node: tree_sitter.Node | None) -> tree_sitter.Node | None:
    """The value itself, without the wrapping nodes, anchors and tags that the YAML grammar puts around it."""
    while node is not None and node.type in _WRAPPERS:
        inner = [n for n in node.named_children if n.type not in ("comment", "anchor", "tag", "ERROR")]
        inner = [n for n in inner if not n.type.endswith("_directive")]
        node = inner[0] if inner else None
    return node


def _yaml_key(text: str) -> str:
    """A YAML key as a reader of the file's data sees it."""
    if not text.startswith(("'", '"')):
        return text
    import yaml  # lazy: JSON needs none

    try:
        return str(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise ValueError(text) from error
