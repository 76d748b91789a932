"""mkdocs' hook: adds the pages that follow from the code, and leads links out of docs/ to where they go on the site."""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mkdocs.structure.files import File, InclusionLevel

from qlora_doctor.core.links import REPOSITORY
from tools.docsite import pages

_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(((?:\.\./)+[^)\s]*)\)")
_GENERATED = frozenset(path for path, _ in pages.pages())
_README = {"the-config": "keys.md", "": "index.md"}


def on_files(files: Any, config: Any) -> Any:
    """Add what is generated."""
    for path, make in pages.pages():
        files.append(File.generated(config, path, content=make()))
    for path, source in pages.files():
        files.append(File.generated(config, path, abs_src_path=str(source), inclusion=InclusionLevel.NOT_IN_NAV))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links that leave docs/ go to the site's copy, else to the repository, else nowhere."""
    folder = posixpath.dirname(page.file.src_uri)

    def lead(match: re.Match[str]) -> str:
        text, target = match[1], match[2]
        path, _, anchor = target.partition("#")
        place = posixpath.normpath(posixpath.join("docs", folder, path))
        if place.startswith("docs/"):
            return match[0]
        if place.startswith("reports/examples/") and place.endswith(".html"):
            return f"[{text}]({_relative(place.replace('reports/examples/', 'gallery/'), folder)})"
        if place == "README.md":
            return f"[{text}]({_relative(_README.get(anchor, 'index.md'), folder)})"
        return f"[{text}](https://github.com/{REPOSITORY}/blob/main/{place})" if REPOSITORY else f"{text} (`{place}`)"

    markdown = _LINK.sub(lead, markdown)
    if page.file.src_uri not in _GENERATED and not page.file.src_uri.startswith("rules/own"):
        markdown = pages.linked(markdown, folder=_relative("rules", folder) + "/")
    return markdown.replace("OWNER/qlora-doctor", REPOSITORY) if REPOSITORY else markdown


def _relative(place: str, folder: str) -> str:
    return posixpath.relpath(place, folder or ".")
