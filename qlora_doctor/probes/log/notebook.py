"""What a notebook's cells have printed and shown, as the text that a terminal would have had."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from typing import Any

_ROW_ENDS, _CELL_ENDS, _TAG = re.compile(r"</?(?:tr|table)\b[^>]*>"), re.compile(r"</t[dh]\s*>"), re.compile(r"<[^>]*>")


def printed(text: str) -> str | None:
    """The outputs of an .ipynb file, one after another; None where it is none."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or not isinstance(document.get("cells"), list):
        return None
    return "\n".join(part for cell in document["cells"] if isinstance(cell, dict) for part in _outputs(cell))


def _outputs(cell: dict[str, Any]) -> Iterator[str]:
    for output in cell.get("outputs") or []:
        if not isinstance(output, dict):
            continue
        data = output.get("data")
        data = data if isinstance(data, dict) else {}
        if "text/html" in data:
            yield _as_rows(_joined(data["text/html"]))
        elif output.get("output_type") == "error":
            yield f"Traceback (most recent call last)\n{output.get('ename')}: {output.get('evalue')}"
        else:
            yield _joined(output.get("text") or data.get("text/plain"))


def _joined(text: Any) -> str:
    return "".join(map(str, text)) if isinstance(text, list) else str(text or "")


def _as_rows(markup: str) -> str:
    """A table as lines with tabs."""
    flat = _ROW_ENDS.sub("\0", _CELL_ENDS.sub("\t", " ".join(markup.split())))
    return "\n".join(line.strip(" ") for line in html.unescape(_TAG.sub("", flat)).split("\0"))
