"""Which keys of a dialect name samples, and what stands beside them: ``tables/named_data.json``, one table for all.

A config names its data also where these cannot be looked at from here, since its trainer forms the samples by templates
of its own. What is named, and what of it is not followed, is reported in the file's own keys.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ...setup.setup import NamedData
from .values import is_template

if TYPE_CHECKING:
    from .fields import Reading

Kind = Literal["hub", "file", "folder", "registry", "code"]
Role = Literal["train", "eval"]


@dataclass(frozen=True)
class Names:
    """A key that names data.

    Attributes:
        key: dotted below the top; its value is a text, a list of texts, a mapping, or a list of mappings.
        role: what the samples are for.
        name, subset, split, files, format, template: the keys of a mapping that hold these, the first that is set
            counting; a key with ``/`` before it is one of the file's own top.
        columns: keys of a mapping whose values name columns.
        kind: what the name is; None tells by its look.
        commas: a text holds several, with commas between them.
    """

    key: str
    role: Role = "train"
    name: tuple[str, ...] = ("path",)
    subset: tuple[str, ...] = ()
    split: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    format: tuple[str, ...] = ()
    template: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    kind: Kind | None = None
    commas: bool = False


@cache
def _table() -> dict[str, dict[str, list[Any]]]:
    path = Path(__file__).parents[2] / "tables" / "named_data.json"
    table: dict[str, dict[str, list[Any]]] = json.loads(path.read_text(encoding="utf-8"))
    return table


@cache
def names_of(dialect: str) -> tuple[Names, ...]:
    """The keys that name a dialect's data, in the order in which it reads them."""
    rows: list[dict[str, Any]] = [
        {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
        for row in _table()["names"].get(dialect, ())
    ]
    return tuple(Names(**row) for row in rows)


def keys_beside(dialect: str) -> list[str]:
    """Keys of a file's top that decide how its samples are formed."""
    return _table()["beside"].get(dialect, [])


TEMPLATE_KEYS = ("template", "chat_template", "template_type")
"""Of these the ones that name a template."""
BUILDERS = {"json", "csv", "parquet", "text", "arrow", "pandas", "imagefolder", "audiofolder"}
"""Names that load_dataset takes in place of an id, where the files stand beside it."""
_FILE = re.compile(r"\.(?:jsonl?|ndjson|csv|tsv|parquet|arrow|txt|pq|feather|db|sqlite)(?:\.\w+)?\Z", re.IGNORECASE)


def named_in(reading: Reading) -> list[NamedData]:
    """The samples that a file names."""
    found = [each for row in names_of(reading.dialect) for each in _read(reading, row)]
    covered = {each.role for each in found}
    for role, path in (("train", "data.train"), ("eval", "data.eval")):
        if role not in covered:
            found += _where_it_was_taken(reading, path, "eval" if role == "eval" else "train")
    return found


def _read(reading: Reading, row: Names) -> Iterator[NamedData]:
    value = reading.get(row.key)
    if value in (None, "", [], {}):
        return
    if isinstance(value, str) and row.commas:
        value = [part.strip() for part in value.split(",") if part.strip()]
    if row.key == "dataset_mixer" and isinstance(value, dict):
        value = [str(name) for name in value]
        yield from (_named(reading, row, name, {}, row.key) for name in value)
        return
    if isinstance(value, list):
        in_list = isinstance(reading.get(row.key), list)
        for number, item in enumerate(value[:_MOST]):
            yield from _item(reading, row, item, f"{row.key}.{number}" if in_list else row.key)
    else:
        yield from _item(reading, row, value, row.key)


_MOST = 100
"""Data sets that are listed; no run has more."""


def _item(reading: Reading, row: Names, item: Any, key: str) -> Iterator[NamedData]:
    if isinstance(item, str):
        yield _named(reading, row, item, {}, key)
    elif isinstance(item, dict):
        yield _named(reading, row, _first(item, row.name), item, key)


def _named(reading: Reading, row: Names, name: str | None, item: Mapping[str, Any], key: str) -> NamedData:
    def own(keys: tuple[str, ...]) -> str | None:
        for each in keys:
            value = reading.get(each[1:]) if each.startswith("/") else _below(item, each)
            if isinstance(value, str | int | float) and not isinstance(value, bool):
                return str(value)
            if isinstance(value, dict | list) and value:
                return json.dumps(value, default=str)[:200]
        return None

    files: Any = next((value for each in row.files if (value := _below(item, each)) is not None), [])
    if isinstance(files, dict):
        files = [inner for value in files.values() for inner in (value if isinstance(value, list) else [value])]
    files = [str(each) for each in (files if isinstance(files, list) else [files])]
    builder = name if name in BUILDERS and files else None
    columns = {each.rpartition(".")[2]: value for each in row.columns if isinstance(value := _below(item, each), str)}
    told = NamedData(
        role=row.role,
        kind=row.kind or kind_of(files[0] if builder else name),
        name=files[0] if builder else name,
        subset=own(row.subset),
        split=own(row.split),
        files=files,
        format=own(row.format),
        template=own(row.template),
        columns=columns,
        settings=_settings(reading, item),
        key=key,
        place=reading.place_of(key),
    )
    if told.kind == "registry":
        told = _registered(reading, told)
    return told.model_copy(update={"not_followed": _why(reading, told)})


def _settings(reading: Reading, item: Mapping[str, Any]) -> dict[str, Any]:
    """What the top of the file and an entry of its own say, the entry first."""
    top = {key: value for key in keys_beside(reading.dialect) if (value := reading.get(key)) is not None}
    own = {str(key): value for key, value in item.items() if value is not None}
    return {**top, **own} if keys_beside(reading.dialect) else {}


def _why(reading: Reading, told: NamedData) -> str | None:
    """What of it is not followed: nothing where it is what ``data`` holds."""
    path = f"data.{told.role}"
    if reading.value(path) is not None and told.name == reading.value(path):
        return None
    if told.not_followed is not None:
        return told.not_followed
    if reading.value(path) is not None:
        return "Of several data sets the first is looked at."
    origin = reading.origin(path)
    if origin is not None and origin.note is not None:
        return origin.note
    return f"{reading.version} forms the samples by code of its own."


def _registered(reading: Reading, told: NamedData) -> NamedData:
    """What LLaMA-Factory's dataset_info.json says of a name, where it is here."""
    folder = reading.get("dataset_dir", "data")
    if folder == "ONLINE":
        return told.model_copy(update={"kind": "hub"})
    if not isinstance(folder, str) or reading.dialect != "llamafactory":
        return told
    info = _dataset_info(reading, folder)
    if info is None:
        why = f"{folder}/dataset_info.json, which says what {told.name} is, is not here."
        return told.model_copy(update={"not_followed": why})
    path, entries = info
    entry = entries.get(str(told.name))
    if not isinstance(entry, dict):
        why = f"{path} has no entry {told.name}"
        if not is_template(told.name):
            reading.refused("data-set-not-registered", told.key, f"LLaMA-Factory stops where {why}.")
        return told.model_copy(update={"not_followed": f"{why}."})
    name, kind = told.name, told.kind
    for key, of in (("hf_hub_url", "hub"), ("ms_hub_url", "hub"), ("om_hub_url", "hub"), ("script_url", "code")):
        if isinstance(entry.get(key), str):
            name, kind = entry[key], "code" if of == "code" else "hub"
            break
    files = [str(path.parent / entry["file_name"])] if isinstance(entry.get("file_name"), str) else []
    if files and kind == "registry":
        name, kind = files[0], "file"
    columns = entry.get("columns")
    return told.model_copy(
        update={
            "kind": kind,
            "name": name,
            "files": files,
            "format": str(entry.get("formatting", "alpaca")),
            "settings": {**told.settings, **{str(key): value for key, value in entry.items() if value is not None}},
            "subset": entry.get("subset") if isinstance(entry.get("subset"), str) else None,
            "split": str(entry.get("split", "train")),
            "columns": {str(a): b for a, b in columns.items() if isinstance(b, str)}
            if isinstance(columns, dict)
            else {},
        }
    )


def _dataset_info(reading: Reading, folder: str) -> tuple[Path, dict[str, Any]] | None:
    """dataset_info.json: in the folder below the working directory, as the trainer looks for it, or beside the config
    or above it, where a repository has both."""
    beside = [Path(reading.file).parent, *list(Path(reading.file).parent.parents)[:3]] if reading.file else []
    for root in (Path(), *beside):
        path = root / folder / "dataset_info.json"
        try:
            if path.is_file() and path.stat().st_size < 2**20:
                data = json.loads(path.read_text("utf-8-sig"))
                if isinstance(data, dict):
                    return path, data
        except (OSError, ValueError, RecursionError):
            continue
    return None


def _where_it_was_taken(reading: Reading, path: str, role: Role) -> list[NamedData]:
    """Of a dialect without a row: what its reader took for the data."""
    origin = reading.origin(path)
    if origin is None or origin.place is None or origin.place.pointer is None:
        return []
    key = origin.place.pointer.strip("/").replace("/", ".")
    value = reading.get(key)
    name = value if isinstance(value, str) else None
    told = NamedData(role=role, kind=kind_of(name), name=name, key=key, place=origin.place)
    return [told.model_copy(update={"not_followed": _why(reading, told)})]


def kind_of(name: str | None) -> Kind:
    """What a name that was written looks like: a file, a folder, a hub id, or the class that brings the samples."""
    if name is None:
        return "code"
    if _FILE.search(name.partition(":")[0]):
        return "file"
    if name.startswith((".", "/", "~", "\\")) or name.count("/") > 1:
        return "folder"
    if re.fullmatch(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+", name):
        return "code"
    return "hub"


def _first(item: Mapping[str, Any], keys: tuple[str, ...]) -> str | None:
    return next((str(value) for key in keys if isinstance(value := _below(item, key), str) and value), None)


def _below(item: Any, key: str) -> Any:
    for step in key.split("."):
        item = item.get(step) if isinstance(item, dict) else None
    return item
