"""How a script is started: the command lines in the shell scripts, Makefiles and launch.json files of its project."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

from ...core.place import Place
from .neighbours import Neighbours

MOST_STARTERS = 40
"""Files that are looked into for one script."""
MOST_STARTS = 16
_MOST_TEXT = 128 * 1024
_SUBFOLDERS = (".", "scripts", "bin", "run", ".vscode")
_SCRIPTS = re.compile(r"(?:.*\.(?:sh|bash|mk)|makefile|justfile|launch\.json)\Z", re.IGNORECASE)
_READMES = re.compile(r"(?:readme.*\.(?:md|markdown)|.*\.ipynb)\Z", re.IGNORECASE)
"""Where a start is shown to a reader: asked where no file of its own starts the script."""
_VARIABLE = re.compile(r"^(\w+)\s*[:?]?=\s*(.*?)\s*$", re.MULTILINE)
_COMMENT = re.compile(r"^\s*//[^\n]*$|/\*.*?\*/", re.MULTILINE | re.DOTALL)
_TRAILING = re.compile(r",(\s*[}\]])")


class Argument(NamedTuple):
    """A word of a command line.

    Attributes:
        text: None where it is not known what it becomes.
        place: where it is written.
    """

    text: str | None
    place: Callable[[], Place | None]


class Start(NamedTuple):
    """One command line that starts the script."""

    file: str
    words: tuple[Argument, ...]


def starts_of(neighbours: Neighbours) -> list[Start]:
    """The command lines of the project that start this script, as far as they are written out."""
    script = neighbours.script
    if script is None or script.suffix.lower() == ".ipynb":
        return []
    for kind in (_SCRIPTS, _READMES):
        found: list[Start] = []
        for file in _starters(neighbours, kind):
            text = _text_of(file)
            if script.stem in text:
                found += _starts_in(file, script, neighbours)
        if found:
            return found[:MOST_STARTS]
    return []


def starters(neighbours: Neighbours) -> list[Path]:
    """The files of the project that may start something: those that are run, else those that tell how."""
    return [*_starters(neighbours, _SCRIPTS), *_starters(neighbours, _READMES)]


def commands_in(file: Path) -> str:
    """The shell commands of such a file, each on the line where it stands."""
    text = _text_of(file)
    if file.suffix == ".json":
        return _of_launch_json(text)
    if _READMES.match(file.name):
        return _of_notebook(text) if file.suffix == ".ipynb" else _of_markdown(text)
    return text if file.suffix in (".sh", ".bash") else _of_makefile(text)


def _starters(neighbours: Neighbours, kind: re.Pattern[str]) -> list[Path]:
    found: list[Path] = []
    for folder in neighbours.folders:
        for name in _SUBFOLDERS:
            try:
                inner = _named(folder / name, kind, (folder / name).stat().st_mtime_ns)
            except OSError:
                continue
            found += [path for path in inner if path not in found and neighbours.may_read(path)]
    return found[:MOST_STARTERS]


@lru_cache(maxsize=256)
def _named(folder: Path, kind: re.Pattern[str], changed: int) -> list[Path]:
    """The files of these names in a folder, while no file comes or goes.

    Raises:
        OSError: it is no folder, or cannot be read.
    """
    return sorted(path for path in folder.iterdir() if kind.match(path.name))


def _text_of(file: Path) -> str:
    try:
        with file.open(encoding="utf-8", errors="replace") as opened:
            text = opened.read(_MOST_TEXT + 1)
    except OSError:
        return ""
    return text if len(text) <= _MOST_TEXT else ""


def _starts_in(file: Path, script: Path, neighbours: Neighbours) -> Iterator[Start]:
    from ..dialects.shell import runs_in
    from ..shell import read_script

    text = commands_in(file)
    shell = read_script(text)
    for run in runs_in(text):
        if run.program != "python" or not _is_this(run.action, file, script, neighbours):
            continue
        words = []
        for word in run.arguments:
            shown = str(neighbours.shown(file))
            place = partial(_place, shown, *shell.place(word.start), shell.line)
            place = partial(Place, file=shown) if file.suffix == ".json" else place
            words.append(Argument(word.text if word.known else None, place))
        yield Start(file.name, tuple(words))


def _place(file: str, line: int, column: int, line_of: Callable[[int], str]) -> Place:
    return Place(file=file, line=line, column=column, excerpt=line_of(line)[:400])


def _of_makefile(text: str) -> str:
    """A Makefile's recipes as a shell would get them, on their own lines; everything else is left out."""
    variables = dict(_VARIABLE.findall(text))
    rows: list[str] = []
    continued = False
    for row in text.split("\n"):
        recipe = row[:1] == "\t" or row[:2] == "  " or continued
        continued = recipe and row.rstrip().endswith("\\")
        row = re.sub(r"\$[({](\w+)[)}]", lambda match: variables.get(match[1], match[0]), row)
        rows.append(row.lstrip().lstrip("@-").replace("$$", "$") if recipe else "")
    return "\n".join(rows)


def _of_markdown(text: str) -> str:
    """The fenced blocks of a README, each line where it was."""
    rows: list[str] = []
    inside = False
    for row in text.split("\n"):
        fence = row.lstrip().startswith(("```", "~~~"))
        rows.append(row.removeprefix("$ ") if inside and not fence else "")
        inside = inside is not fence
    return "\n".join(rows)


def _of_notebook(text: str) -> str:
    """A notebook's shell commands."""
    found = re.findall(r'^\s*"\s*!(.*?)(?:\\n)?",?\s*$', text, re.MULTILINE)
    return "\n".join(row.replace('\\"', '"').replace("\\\\", "\\") for row in found)


def _of_launch_json(text: str) -> str:
    """The configurations of an editor's launch.json as command lines; it has comments and commas before brackets."""
    try:
        data = json.loads(_TRAILING.sub(r"\1", _COMMENT.sub("", text)))
    except (ValueError, RecursionError):
        return ""
    listed = data.get("configurations") if isinstance(data, dict) else None
    lines = []
    for each in listed if isinstance(listed, list) else ():
        each = each if isinstance(each, dict) else {}
        program, module, words = each.get("program"), each.get("module"), each.get("args", [])
        if not isinstance(program or module, str) or not isinstance(words, list):
            continue
        if isinstance(program, str):
            program = program.replace("${workspaceFolder}/", "").replace("${workspaceRoot}/", "")
        started = ["-m", module] if not program else [program] if program.endswith(".py") else None
        command = ["python", *started] if started is not None else [program]
        lines.append(" ".join(_quoted(str(word)) for word in [*command, *words]))
    return "\n".join(lines)


def _quoted(word: str) -> str:
    """A word for the shell; what the editor fills in stays a variable."""
    return '"' + word.replace('"', "") + '"' if "${" in word else shlex.quote(word)


def _is_this(action: str, file: Path, script: Path, neighbours: Neighbours) -> bool:
    """True where what is started is this script: by its path from some folder of the project, else by its name."""
    written = action if action.endswith(".py") else action.replace(".", "/") + ".py"
    if Path(written).name != script.name:
        return False
    folders = [file.parent, *neighbours.folders]
    there = [folder / written for folder in folders if (folder / written).is_file()]
    return any(each.resolve() == script.resolve() for each in there) if there else True
