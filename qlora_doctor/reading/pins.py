"""The versions that a project pins: requirements, pyproject.toml, environment.yml, Dockerfile, setup.py, lock files,
and what its README, Makefile and scripts say to install.

What a run installs by itself decides which names its libraries take, not what is installed where it is checked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from ..core.versions import version_tuple
from ..setup.setup import Asked

_FILES = re.compile(
    r"(?:requirements.*\.(?:txt|in)|constraints.*\.txt|pyproject\.toml|setup\.(?:py|cfg)|environment.*\.ya?ml|conda.*\.ya?ml"
    r"|(?:.*\.)?dockerfile(?:\..*)?|pipfile(?:\.lock)?|uv\.lock|poetry\.lock|.*\.(?:sh|bash)|makefile"
    r"|readme.*\.(?:md|rst|txt))\Z",
    re.IGNORECASE,
)
_LOCK = re.compile(r'^name\s*=\s*"([\w.-]+)"\s*\nversion\s*=\s*"([\w.+]+)"', re.MULTILINE)
_BOUND = r"(?:[ \t]*,?[ \t]*(?:===?|~=|[<>!]=?|\^|=)[ \t]*v?\d[\w.*+]*)"
_INSTALLS = re.compile(r"^.*\b(?:pip3? install|git clone|git checkout)\b.*$", re.MULTILINE)
_LISTED = re.compile(
    r"^[ \t]*(?:[-*+][ \t]+)?`?([\w.-]+?)`?(?:[ \t]*==[ \t]*|,?[ \t]+version:?[ \t]*)v?(\d[\w.+]*)`?[ \t]*$",
    re.MULTILINE | re.IGNORECASE,
)
"""A line of a README that is one package and its version: ``- transformers==4.42.4``, ``- peft, Version: 0.3.0``."""
_CHECKED_OUT = (
    r"\bgit clone\b[^\n]*/{0}(?:\.git)?\b(?:[^\n]*\n){{0,4}}?[^\n]*\bgit checkout[ \t]+(?!-|main\b|master\b)[\w./-]+"
)
_MOST_FILES, _MOST_TEXT = 24, 2 * 2**20
_SUBFOLDERS = (".", "requirements", "docker")
_TRL_NEEDS = {
    "0.18": "4.50", "0.19": "4.51", "0.20": "4.53.2", "0.21": "4.55", "0.23": "4.56.1", "0.28": "4.56.2",
}  # fmt: skip
"""The first version of TRL that needs this transformers, by the metadata of its wheels."""
PACKAGES = ("torch", "transformers", "trl", "peft")
"""Packages whose versions decide what silence means."""


class Pin(NamedTuple):
    """What a project asks of a package.

    Attributes:
        exact: the one version; None for a range, or where files differ.
        bounded: newer versions are kept out, or it is one version.
        at_least: the lowest version of a range; None where nothing is said, as of a commit.
        below: the first version that is kept out.
        by: who says so, and how: ``requirements.txt asks for trl>=0.9,<0.12``.
    """

    exact: str | None
    bounded: bool
    at_least: str | None = None
    below: str | None = None
    by: str = ""


def pins_in(folders: Iterable[Path], names: tuple[str, ...]) -> dict[str, Pin]:
    """The pins of these packages in the nearest folder that has any for them.

    Args:
        folders: where to look, the nearest first.
        names: of packages.
    """
    found: dict[str, Pin] = {}
    for folder in folders:
        files = _files(folder)
        told = [file for file in files if _is_readme(file)]
        others = [file for file in files if not _is_readme(file)]
        for name in names if files else ():
            if name not in found and (pin := _joined(_all(others, name) or _all(told, name))) is not None:
                found[name] = pin
    return found


def pins_of(text: str, names: tuple[str, ...], by: str) -> dict[str, Pin]:
    """What a text says to install of these packages.

    Args:
        by: whose text it is.
    """
    lines = "\n".join(_INSTALLS.findall(text.replace("\\\n", " ")))
    pins = {name: _joined([pin._replace(by=f"{by} {pin.by}") for pin in _pins(lines, name)]) for name in names}
    return {name: pin for name, pin in pins.items() if pin is not None}


def _all(files: list[Path], name: str) -> list[Pin]:
    return [pin for file in files for pin in _pins_in_file(file, *_state(file), name)]


def _state(file: Path) -> tuple[int, int]:
    """What changes when a file does."""
    try:
        state = file.stat()
    except OSError:
        return (0, 0)
    return state.st_mtime_ns, state.st_size


@lru_cache(maxsize=1024)
def _pins_in_file(file: Path, changed: int, size: int, name: str) -> tuple[Pin, ...]:
    """The pins of one file; a folder of configs shares them."""
    return tuple(pin._replace(by=f"{file.name} {pin.by}") for pin in _pins(_text(file, changed, size), name))


def _joined(pins: list[Pin]) -> Pin | None:
    """What several places ask for: all that any of them allows."""
    if len({pin[:4] for pin in pins}) <= 1:
        return pins[0] if pins else None
    lowest = [version_tuple(pin.exact or pin.at_least) for pin in pins]
    highest = [version_tuple(pin.below) if pin.exact is None else _next(pin.exact) for pin in pins]
    return Pin(
        None,
        any(pin.bounded for pin in pins),
        None if None in lowest else _shown(min(filter(None, lowest))),
        None if None in highest else _shown(max(filter(None, highest))),
        " and ".join(dict.fromkeys(pin.by for pin in pins)),
    )


def _next(version: str) -> tuple[int, ...] | None:
    parts = version_tuple(version)
    return None if parts is None else (*parts, 0, 1)


def _shown(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def fitting(pins: Mapping[str, Pin]) -> dict[str, Pin]:
    """The pins, and what that of transformers says of TRL: none that needs a newer one can be installed beside it."""
    base, own = pins.get("transformers"), pins.get("trl")
    allowed = None if base is None else version_tuple(base.exact) or _last_below(base)
    if base is None or allowed is None or (own is not None and own.exact is not None):
        return dict(pins)
    limit = next((trl for trl, needs in _TRL_NEEDS.items() if (version_tuple(needs) or ()) > allowed), None)
    written = version_tuple(own.below) if own is not None else None
    if limit is None or (written is not None and written <= (version_tuple(limit) or ())):
        return dict(pins)
    by = f"{base.by}, with which TRL {limit} cannot be installed"
    return {
        **pins,
        "trl": Pin(None, bounded=True, at_least=own.at_least if own is not None else None, below=limit, by=by),
    }


def _last_below(pin: Pin) -> tuple[int, ...] | None:
    """A version behind all that a range allows, and before the first that it keeps out."""
    first = version_tuple(pin.below)
    if first is None:
        return None
    last = next((index for index in reversed(range(len(first))) if first[index]), 0)
    return (*first[:last], max(first[last] - 1, 0), 10**6)


def asked_of(pins: Mapping[str, Pin]) -> dict[str, Asked]:
    """Pins as a Setup keeps them; newer versions that are let in leave it to what is installed."""
    return {
        name: Asked(exact=pin.exact, at_least=pin.at_least, below=pin.below, by=pin.by)
        for name, pin in fitting(pins).items()
        if pin.bounded
    }


def _is_readme(file: Path) -> bool:
    return file.name.lower().startswith("readme")


def _files(folder: Path) -> list[Path]:
    inner = [folder / name for name in _SUBFOLDERS]
    return [path for each in inner for path in _matching(each, _state(each)[0])][:_MOST_FILES]


@lru_cache(maxsize=256)
def _matching(folder: Path, changed: int) -> tuple[Path, ...]:
    """The files of a folder that may pin versions, while no file comes or goes."""
    by_name = folder.name != "requirements"
    try:
        return tuple(
            sorted(
                path
                for path in folder.iterdir()
                if (_FILES.match(path.name) or (not by_name and path.suffix == ".txt")) and path.is_file()
            )
        )
    except OSError:
        return ()


@lru_cache(maxsize=64)
def _text(file: Path, changed: int, size: int) -> str:
    if size > _MOST_TEXT:
        return ""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    text = re.sub(r"^[ \t]*#.*$", "", text, flags=re.MULTILINE)
    text = text.replace("\\\n", " ")
    if _is_readme(file):
        return "\n".join([*_INSTALLS.findall(text), *(f"{name}=={version}" for name, version in _LISTED.findall(text))])
    is_script = file.suffix.lower() in (".sh", ".bash") or file.name.lower() == "makefile"
    return "\n".join(_INSTALLS.findall(text)) if is_script else text


def _pins(text: str, name: str) -> Iterable[Pin]:
    if name not in text:
        return
    for package, version in _LOCK.findall(text) if "version" in text else ():
        if package.lower() == name:
            yield Pin(version, bounded=True, by=f"has {name} {version}")
    asked = rf"(?<![\w./-])[\"']?{name}[\"']?(?:\[[\w, -]*\])?[ \t]*(?:=[ \t]*[\"'])?({_BOUND}+)"
    if re.search(_CHECKED_OUT.format(name), text) or re.search(rf"/{name}(?:\.git)?@[0-9a-f]{{7,40}}\b", text):
        yield Pin(None, bounded=True, by=f"asks for a commit of {name}")
        return
    for match in re.finditer(rf"{asked}|(?<![\w.]){name}(?:\.git)?@v?(\d[\w.]*)", text):
        if match[2] is not None:
            yield Pin(match[2], bounded=True, by=f"asks for {name} {match[2]}")
            continue
        parts = re.findall(r"(===?|~=|[<>!]=?|\^|=)[ \t]*v?(\d[\w.*+]*)", match[1])
        exact = [version for operator, version in parts if operator in ("==", "===", "=") and "*" not in version]
        upper = any(operator in ("<", "<=", "~=", "^") or "*" in version for operator, version in parts)
        if parts:
            by = f"asks for {name}{','.join(operator + version for operator, version in parts)}"
            bounds = (None, None) if exact else _bounds(parts)
            yield Pin(exact[0] if exact else None, bool(exact) or upper, *bounds, by)


def _bounds(parts: list[tuple[str, str]]) -> tuple[str | None, str | None]:
    """The lowest version that these comparisons allow, and the first that they do not; None where nothing is said."""
    lowest: list[tuple[int, ...]] = []
    highest: list[tuple[int, ...]] = []
    for operator, written in parts:
        version = version_tuple(written)
        if version is None or operator == "!=":
            continue
        starred = "*" in written
        if operator in (">", ">=") or operator in ("~=", "^") or starred:
            lowest.append(version)
        if operator == "<":
            highest.append(version)
        elif operator == "<=":
            highest.append((*version, 0, 1))
        elif operator == "~=":
            highest.append(_raised(version[:-1] or version))
        elif operator == "^":
            first = next((index for index, part in enumerate(version) if part), len(version) - 1)
            highest.append(_raised(version[: first + 1]))
        elif starred and operator in ("==", "="):
            highest.append(_raised(version))
    return (_shown(max(lowest)) if lowest else None), (_shown(min(highest)) if highest else None)


def _raised(version: tuple[int, ...]) -> tuple[int, ...]:
    """The first version behind all that begin so."""
    return (*version[:-1], version[-1] + 1)
