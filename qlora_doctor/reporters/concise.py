"""A line a finding, as compilers print them: for an editor, a problem matcher, ``grep``.

``configs/qlora.yaml:12:3: error QD301 target_modules match nothing``; ``docs/ci/problem-matcher.json`` reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..core.report import Report
from . import _words as words
from ._places import file_of
from .verdict import counting, gaps


def render(report: Report) -> str:
    """A line for each finding that counts, then one for each stage that failed; nothing where there is neither."""
    return render_all([report])


def render_all(reports: Sequence[Report]) -> str:
    """The same of several reports."""
    return "".join(f"{line}\n" for report in reports for line in _lines(report))


def _lines(report: Report) -> Iterator[str]:
    for found in counting(report):
        place = found.location
        # Every reader of such lines wants both numbers; what stands nowhere in the file is put at its beginning.
        where = f"{words.one_line(file_of(report, found) or 'setup')}:{place.line or 1}:{place.column or 1}"
        yield f"{where}: {found.severity} {words.one_line(found.rule)} {words.one_line(found.message)}"
    for gap in gaps(report):
        if gap.status == "failed":
            told = words.one_line(gap.reason or "No reason was given.")
            yield f"{words.one_line(file_of(report) or 'setup')}:1:1: error {', '.join(gap.stages)} failed: {told}"
