"""``-o FORMAT=PATH``: looked at before a probe is paid for, written beside and renamed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import quote

from ..core.errors import UsageError
from ..core.files import write_whole
from ..core.report import Report


@dataclass(frozen=True)
class Output:
    """One document to write; ``{name}`` in the path stands for the config's name.

    ``index``: write a page that lists all reports also where there is only one (the path named a folder).
    """

    format: str
    path: str
    index: bool = False

    def path_for(self, report: Report, taken: set[Path]) -> Path:
        """The path of one report's document."""
        file = (report.setup or {}).get("file")
        name = Path(str(file)).stem if file else "report"
        path = Path(self.path.replace("{name}", name))
        number = 2
        while path in taken:
            path = Path(self.path.replace("{name}", f"{name}-{number}"))
            number += 1
        taken.add(path)
        return path


def split_output(text: str, formats: Collection[str]) -> tuple[str, str]:
    """``html=report.html`` → (format, path).

    Raises:
        UsageError: the form or the format is wrong.
    """
    format, _, path = text.partition("=")
    if not path or not format:
        raise UsageError(f"-o takes FORMAT=PATH, found {text!r}.", remedy="-o html=report.html")
    check_format(format, formats)
    return format, path


def parse_outputs(written: Sequence[str], reports: int, formats: Collection[str]) -> list[Output]:
    """Each ``html=report.html`` as an Output, after a look at the folder.

    Args:
        reports: how many reports a document may have to hold.
        formats: those that can be written.

    Raises:
        UsageError: the form or the format is wrong, or nothing can be written there.
    """
    from ..reporters import PICTURES, TOGETHER

    outputs: list[Output] = []
    for text in written:
        format, path = split_output(text, formats)
        if format in PICTURES:
            _must_be_drawn(path)
        folder = format == "html" and (path.endswith(("/", os.sep)) or Path(path).is_dir())
        if folder:
            _make_folder(Path(path))
            outputs.append(Output(format, str(Path(path) / "{name}.html"), index=True))
            continue
        if reports > 1 and format not in TOGETHER and "{name}" not in path:
            remedy = f"-o {format}={Path(path).stem}-{{name}}{Path(path).suffix}"
            remedy += f", or -o html={Path(path).stem}/ for a page each and an index" if format == "html" else ""
            raise UsageError(f"One {format} file holds one report, and {reports} configs are given.", remedy=remedy)
        if any(other.path == path for other in outputs):
            raise UsageError(f"Two outputs are to be written to {path}.")
        _must_be_writable(Path(path))
        outputs.append(Output(format, path))
    return outputs


def check_format(format: str, formats: Collection[str]) -> None:
    """Look whether a format exists.

    Raises:
        UsageError: it does not.
    """
    if format not in formats:
        raise UsageError(f"There is no format {format!r}; the formats are {', '.join(formats)}.")


def write_outputs(outputs: Sequence[Output], reports: Sequence[Report]) -> list[Path]:
    """Write the documents; returns their paths. One that cannot be written does not keep the others from it.

    Raises:
        UsageError: the disk is full, or the folder is gone.
    """
    paths: list[Path] = []
    failed: UsageError | None = None
    taken: set[Path] = set()
    for output in outputs:
        for path, document in _documents(output, reports, taken):
            try:
                paths.append(write_file(path, document()))
            except UsageError as error:
                failed = failed or error
    if failed is not None:
        raise failed
    return paths


def _documents(output: Output, reports: Sequence[Report], taken: set[Path]) -> Iterator[tuple[Path, Callable[[], str]]]:
    """What an output consists of: one document, or one for each report, with an index of the pages of HTML."""
    from ..reporters import html, render
    from ..reporters.html.index import render_index

    if "{name}" not in output.path:
        whole = reports if len(reports) > 1 else reports[0]
        yield Path(output.path), partial(render, whole, output.format)
        return
    if output.format != "html" or (len(reports) == 1 and not output.index):
        for report in reports:
            yield output.path_for(report, taken), partial(render, report, output.format)
        return
    index = Path(output.path.replace("{name}", "index"))
    taken.add(index)  # a config of that name gets another page
    pages = [output.path_for(report, taken) for report in reports]
    for page, report in zip(pages, reports, strict=True):
        yield page, partial(html.render, report, index=quote(index.name))
    yield index, partial(render_index, reports, [quote(page.name) for page in pages])


def write_file(path: Path, text: str) -> Path:
    """Write a file whole or not at all.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        if path.exists() and not path.is_file():  # /dev/stdout, a pipe: nothing to rename over
            path.write_text(text, encoding="utf-8")
            return path
        write_whole(path, _encoded(path, text))
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}.") from error
    return path


def _encoded(path: Path, text: str) -> bytes:
    """A document's bytes: of a drawing whose file is a PNG, that."""
    if path.suffix.lower() == ".png":
        from ..reporters.card import png

        return png(text)
    return text.encode()


def _must_be_drawn(path: str) -> None:
    """Look whether a drawing can be written under this name, before it is paid for.

    Raises:
        UsageError: its ending is of another kind, or a package is missing.
    """
    from ..reporters.card import png

    suffix = Path(path).suffix.lower()
    if suffix == ".png":
        png('<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>')
    elif suffix not in (".svg", ""):
        raise UsageError(f"A drawing is an SVG or a PNG, not {suffix!r}.", remedy="-o card=fit.svg")


def append_summary(reports: Sequence[Report]) -> None:
    """Add the Markdown to the job's summary: a workflow's step has one file for it, and others write there as well.

    Raises:
        UsageError: it cannot be written.
    """
    from ..reporters import render

    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if not summary:
        return
    try:
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(render(reports, "markdown"))
    except OSError as error:
        raise UsageError(f"{summary} cannot be written: {error.strerror or error}.") from error


def _make_folder(folder: Path) -> None:
    """A folder for pages, which is made where there is none."""
    try:
        folder.mkdir(exist_ok=True)
    except FileExistsError:
        raise UsageError(f"{folder} is no folder.", remedy="Name a folder, or a file without the slash.") from None
    except OSError as error:
        raise UsageError(f"The folder {folder} cannot be made: {error.strerror or error}.") from error
    _must_be_writable(folder / "index.html")


def _must_be_writable(path: Path) -> None:
    folder = path.parent
    if path.is_dir():
        raise UsageError(f"{path} is a folder.", remedy="Name a file in it.")
    if not folder.is_dir():
        raise UsageError(f"The folder {folder} does not exist, so {path.name} cannot be written.")
    if path.exists() and not path.is_file():
        return
    if path.exists() and not os.access(path, os.W_OK):
        raise UsageError(f"{path} cannot be written: permission denied.")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}.") from error
