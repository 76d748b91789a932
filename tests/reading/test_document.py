"""Files that are no config, and those that nearly are: one sentence each, with the place."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from qlora_doctor.core.errors import ConfigError
from qlora_doctor.reading.document import MAX_BYTES, read_document


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("name", "content", "sentence", "line", "column"),
    [
        ("c.json", '{"model": "x", // why\n "lora": {}}', "has a comment, and JSON has none", 1, 16),
        ("c.json", '{"model": "x",\n # why\n "lora": {}}', "has a comment, and JSON has none", 2, 2),
        ("c.json", '{"model": "x",\n}', "has a comma before a closing bracket", None, None),
        ("c.json", "{'model': 'x'}", "single quotes", 1, 2),
        ("c.json", '{"model": "x"', "ends before it is complete", None, None),
        ("c.json", '{"model": tru}', "is not valid JSON", 1, 11),
        ("c.json", '{"a": ' + "9" * 5000 + "}", "number that cannot be read", None, None),
        ("c.json", "[" * 2000 + "]" * 2000, "levels deep", None, None),
        ("c.json", "[" * 80 + "]" * 80, "levels deep", None, None),
        ("c.yaml", "model: x\n\tlora: 1\n", "is not valid YAML", None, None),
        ("c.yaml", "model: [x\nlora: y", "is not valid YAML", 2, None),
        ("c.yaml", "a: 1\n---\nb: 2\n", "a second document starts here", 2, 1),
        ("c.yaml", "a: !!python/object/apply:os.system [true]", "asks for an object", 1, 4),
        ("c.yaml", "a: !custom x", "asks for an object", 1, 4),
        ("c.yaml", "[" * 100_000, "levels deep", 1, 65),
        ("c.yaml", "- " * 100_000, "levels deep", 1, 129),
        ("c.yaml", "a: *b", "refers to nothing", 1, 4),
        ("c.yaml", "a: &a [*a]", "refers to nothing", 1, 8),
        ("c.yaml", "a: 2026-99-99", "cannot be read as the value that it looks like", 1, 4),
        ("c.yaml", "? [a]\n: b", "cannot be a key", None, None),
        ("c.yaml", "a: \x01", "is not valid YAML", None, None),
        ("c.toml", "a = 1\nb = = 2", "is not valid TOML", 2, 5),
        ("c.yaml", "", "is empty", None, None),
        ("c.json", " \n", "is empty", None, None),
        ("c.json", b"\xef\xbb\xbf", "is empty", None, None),
        ("c.json", b"\x80\x04\x95", "is not UTF-8 text: byte 0x80 at offset 0", None, None),
        ("c.json", b'{"a": "\x00"}', "is a binary file", None, None),
    ],
)
def test_what_is_wrong_is_told(
    tmp_path: Path, name: str, content: str | bytes, sentence: str, line: int | None, column: int | None
) -> None:
    with pytest.raises(ConfigError) as caught:
        read_document(write(tmp_path, name, content))
    assert sentence in caught.value.message
    assert caught.value.message.endswith(".") and "\n" not in caught.value.message
    place = caught.value.place
    if line is not None:
        assert place is not None and place.line == line
    if column is not None:
        assert place is not None and place.column == column


def test_aliases_that_explode(tmp_path: Path) -> None:
    letters = "abcdefghijkl"
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    for one, last in zip(letters[1:], letters, strict=False):
        lines.append(f"{one}: &{one} [{', '.join(['*' + last] * 10)}]")
    with pytest.raises(ConfigError, match="aliases unfold to more than"):
        read_document(write(tmp_path, "bomb.yaml", "\n".join(lines)))


def test_aliases_and_merges_that_do_not(tmp_path: Path) -> None:
    document = read_document(
        write(tmp_path, "c.yaml", "base: &base {r: 8, bias: none}\nlora:\n  <<: *base\n  r: 16\nalso: *base\n")
    )
    assert document.data["lora"] == {"r": 16, "bias": "none"}
    assert document.data["also"] == {"r": 8, "bias": "none"}
    assert document.duplicates == []


def test_missing_folder_device_and_too_large(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        read_document(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="is a folder"):
        read_document(tmp_path)
    with pytest.raises(ConfigError, match="is a device"):
        read_document(Path(os.devnull))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_document(Path("a\0b"))
    with pytest.raises(ConfigError, match="is larger than"):
        read_document(write(tmp_path, "large.yaml", "a" * (MAX_BYTES + 1)))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-16-le"])
def test_byte_order_marks(tmp_path: Path, encoding: str) -> None:
    mark = "\ufeff" if encoding == "utf-16-le" else ""
    path = tmp_path / "c.json"
    path.write_bytes((mark + json.dumps({"model": "modèle"}, ensure_ascii=False)).encode(encoding))
    document = read_document(path)
    assert document.data == {"model": "modèle"}
    assert document.place("/model").column == 2


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("c.json", '{"lora": {"r": 8, "x/y": [{"q": 1, "q": 2}], "r": 16}, "training": {}}'),
        ("c.yaml", "lora:\n  r: 8\n  x/y:\n  - {q: 1, q: 2}\n  r: 16\ntraining: {}\n"),
    ],
)
def test_duplicate_keys(tmp_path: Path, name: str, content: str) -> None:
    document = read_document(write(tmp_path, name, content))
    assert sorted(document.duplicates) == ["/lora/r", "/lora/x~1y/0/q"]
    assert document.data["lora"]["r"] == 16


def test_a_duplicate_points_at_the_one_that_counts(tmp_path: Path) -> None:
    document = read_document(write(tmp_path, "c.yaml", "lora:\n  r: 8\n  r: 16\n"))
    assert document.place("/lora/r").line == 3


def test_numbers_that_yaml_reads_as_texts(tmp_path: Path) -> None:
    text = "a: 2e-4\nb: 2.0e-4\nc: '2e-4'\nd: 1e5\ne: [1E+3, v1e5]\nf: .5e-3\n2e-4: x\n"
    document = read_document(write(tmp_path, "c.yaml", text))
    assert document.string_numbers == ["/a", "/d", "/e/0"]
    assert document.data["a"] == "2e-4" and document.data["b"] == 2e-4 and document.data["f"] == 0.0005


def test_the_content_decides_where_the_name_does_not(tmp_path: Path) -> None:
    assert read_document(write(tmp_path, "config", '{"a": 1}')).format == "json"
    assert read_document(write(tmp_path, "config2", "a: 1")).format == "yaml"
    assert read_document(write(tmp_path, "c.toml", "a = 1\n[b]\nc = 2")).data == {"a": 1, "b": {"c": 2}}
    assert read_document(write(tmp_path, "train.py", "import torch")).format == "text"
    emoji = read_document(write(tmp_path, "pair.yaml", '{"a": "\\ud83d\\ude00"}'))
    assert emoji.format == "json" and emoji.data == {"a": "😀"}


def test_places_count_characters(tmp_path: Path) -> None:
    document = read_document(write(tmp_path, "c.json", '{"ä😀": 1, "lora": {\n\t"é": 1, "r": 8}}'))
    place = document.place("/lora/r")
    assert (place.line, place.column, place.end_column) == (2, 10, 13)
    assert place.excerpt == '\t"é": 1, "r": 8}}'
    assert document.place("/lora").column == 11
    assert document.place("/lora/absent").line == 1  # the section above it
    assert document.place("/absent").line is None
