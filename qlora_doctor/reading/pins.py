"""The versions that a project pins: requirements, pyproject.toml, environment.yml, Dockerfile, setup.py, lock files,
and what its README, Makefile and scripts say to install.

What a run installs by itself decides which names its libraries take, not what is installed where it is checked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_FILES = re.compile(
    r"(?:requirements.*\.(?:txt|in)|constraints.*\.txt|pyproject\.toml|setup\.(?:py|cfg)|environment.*\.ya?ml|conda.*\.ya?ml"
    r"|(?:.*\.)?dockerfile(?:\..*)?|pipfile(?:\.lock)?|uv\.lock|poetry\.lock|.*\.(?:sh|bash)|makefile"
    r"|readme.*\.(?:md|rst|txt))\Z",
    re.IGNORECASE,
)
_LOCK = re.compile(r'^name\s*=\s*"([\w.-]+)"\s*\nversion\s*=\s*"([\w.+]+)"', re.MULTILINE)
_BOUND = r"(?:[ \t]*,?[ \t]*(?:===?|~=|[<>!]=?|\^|=)[ \t]*v?\d[\w.*+]*)"
_INSTALLS = re.compile(r"^.*\b(?:pip3? install|git clone|git checkout)\b.*$", re.MULTILINE)
_CHECKED_OUT = (
    r"\bgit clone\b[^\n]*/{0}(?:\.git)?\b(?:[^\n]*\n){{0,4}}?[^\n]*\bgit checkout[ \t]+(?!-|main\b|master\b)[\w./-]+"
)
_MOST_FILES, _MOST_TEXT = 24, 2 * 2**20
_SUBFOLDERS = (".", "requirements", "docker")


class Pin(NamedTuple):
    """What a project asks of a package.

    Attributes:
        exact: the one version; None for a range, or where files differ.
        bounded: newer versions are kept out, or it is one version.
    """

    exact: str | None
    bounded: bool


def pins_in(folders: Iterable[Path], names: tuple[str, ...]) -> dict[str, Pin]:
    """The pins of these packages in the nearest folder that has any for them.

    Args:
        folders: where to look, the nearest first.
        names: of packages.
    """
    found: dict[str, Pin] = {}
    for folder in folders:
        files = {file: _text(file) for file in _files(folder)}
        told = [text for file, text in files.items() if _is_readme(file)]
        texts = [text for file, text in files.items() if not _is_readme(file)]
        for name in names:
            pins = [pin for text in texts for pin in _pins(text, name)] or [
                p for text in told for p in _pins(text, name)
            ]
            if pins and name not in found:
                exact = {pin.exact for pin in pins}
                found[name] = Pin(exact.pop() if len(exact) == 1 else None, any(pin.bounded for pin in pins))
    return found


def _is_readme(file: Path) -> bool:
    return file.name.lower().startswith("readme")


def _files(folder: Path) -> list[Path]:
    found: list[Path] = []
    for name in _SUBFOLDERS:
        try:
            found += sorted(path for path in (folder / name).iterdir() if _FILES.match(path.name) and path.is_file())
        except OSError:
            continue
    return found[:_MOST_FILES]


def _text(file: Path) -> str:
    try:
        if file.stat().st_size > _MOST_TEXT:
            return ""
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    text = re.sub(r"^[ \t]*#.*$", "", text, flags=re.MULTILINE)
    text = text.replace("\\\n", " ")
    is_script = file.suffix.lower() in (".sh", ".bash") or file.name.lower() == "makefile" or _is_readme(file)
    return "\n".join(_INSTALLS.findall(text)) if is_script else text


def _pins(text: str, name: str) -> Iterable[Pin]:
    for package, version in _LOCK.findall(text) if "version" in text else ():
        if package.lower() == name:
            yield Pin(version, bounded=True)
    asked = rf"(?<![\w./-])[\"']?{name}[\"']?(?:\[[\w, -]*\])?[ \t]*(?:=[ \t]*[\"'])?({_BOUND}+)"
    if re.search(_CHECKED_OUT.format(name), text) or re.search(rf"/{name}(?:\.git)?@[0-9a-f]{{7,40}}\b", text):
        yield Pin(None, bounded=True)
        return
    for match in re.finditer(rf"{asked}|(?<![\w.]){name}(?:\.git)?@v?(\d[\w.]*)", text):
        if match[2] is not None:
            yield Pin(match[2], bounded=True)
            continue
        parts = re.findall(r"(===?|~=|[<>!]=?|\^|=)[ \t]*v?(\d[\w.*+]*)", match[1])
        exact = [version for operator, version in parts if operator in ("==", "===", "=") and "*" not in version]
        upper = any(operator in ("<", "<=", "~=", "^") or "*" in version for operator, version in parts)
        if parts:
            yield Pin(exact[0] if exact else None, bool(exact) or upper)
