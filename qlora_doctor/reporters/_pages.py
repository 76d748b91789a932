"""The prose of rule pages, as HTML that is safe to show and as Markdown: a page may be from somebody else's pack."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

from ..core.assets import asset_folder
from ..core.report import Confidence, Severity

_ID = re.compile(r"[A-Z]{1,8}\d{1,5}")
_FRONT = re.compile(r"\A---\r?\n(.*?)\r?\n---\r?\n(.*)\Z", re.DOTALL)
_SCROLL = '<div class="scroll" role="group" tabindex="0" aria-label="Table">'
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_LEFT_OUT = ("Examples",)
"""Sections that are the rule's tests; a reader of a report has the real thing before him."""


@dataclass(frozen=True)
class RulePage:
    """What a report shows of a rule page.

    Attributes:
        title: what is true where the rule passes.
        sections: heading and safe HTML, in the page's order.
        references: https addresses.
    """

    title: str | None
    sections: tuple[tuple[str, Markup], ...]
    references: tuple[str, ...]


@dataclass(frozen=True)
class PageText:
    """What a machine-read format takes of a rule page; the empty one stands for a page that is not at hand.

    Attributes:
        about: the first paragraph of "What it checks" on one line.
        markdown: the body without the examples.
    """

    title: str | None = None
    severity: Severity | None = None
    confidence: Confidence | None = None
    tags: tuple[str, ...] = ()
    about: str | None = None
    markdown: str | None = None


def page_text(rule: str, folder: Path | None = None) -> PageText | None:
    """The Markdown of a rule's page by id; None where this installation has none."""
    path = _paths(folder or _rules()).get(rule)
    return _read_text(path) if path is not None else None


def rule_page(rule: str, folder: Path | None = None) -> RulePage | None:
    """The page of a rule by id; None where this installation has none."""
    path = _paths(folder or _rules()).get(rule)
    return _read(path) if path is not None else None


def rule_title(rule: str, folder: Path | None = None) -> str | None:
    """What is true where the rule passes."""
    path = _paths(folder or _rules()).get(rule)
    return _title(path) if path is not None else None


def _rules() -> Path:
    return asset_folder("rules")


@cache
def _paths(folder: Path) -> dict[str, Path]:
    found = {path.name.split("-", 1)[0]: path for path in sorted(folder.glob("*-*.md"))}
    return {rule: path for rule, path in found.items() if _ID.fullmatch(rule)}


@cache
def _title(path: Path) -> str | None:
    """Reads the one line only: a report names every rule, and YAML is slow."""
    front = _FRONT.match(path.read_text(encoding="utf-8"))
    line = re.search(r"^title:.*$", front.group(1), re.MULTILINE) if front else None
    title = yaml.safe_load(line.group(0))["title"] if line else None
    return str(title) if title is not None else None


@cache
def _read(path: Path) -> RulePage | None:
    match = _FRONT.match(path.read_text(encoding="utf-8"))
    if match is None:
        return None
    front: dict[str, Any] = yaml.safe_load(match.group(1)) or {}
    references = tuple(str(url) for url in front.get("references") or () if _is_https(str(url)))
    return RulePage(_title(path), tuple(_sections(match.group(2))), references)


@cache
def _read_text(path: Path) -> PageText | None:
    match = _FRONT.match(path.read_text(encoding="utf-8"))
    if match is None:
        return None
    front: dict[str, Any] = yaml.load(match.group(1), Loader=_LOADER) or {}
    sections = re.split(r"^## (.+)\n", match.group(2), flags=re.MULTILINE)
    kept = [(h.strip(), t.strip()) for h, t in zip(sections[1::2], sections[2::2], strict=True)]
    kept = [(heading, text) for heading, text in kept if heading not in _LEFT_OUT and text]
    return PageText(
        title=front.get("title"),
        severity=front.get("severity"),
        confidence=front.get("confidence"),
        tags=tuple(str(tag) for tag in front.get("tags") or ()),
        about=" ".join(kept[0][1].split("\n\n")[0].split()) if kept else None,
        markdown="\n\n".join(f"## {heading}\n\n{text}" for heading, text in kept) + "\n" if kept else None,
    )


def _sections(body: str) -> list[tuple[str, Markup]]:
    """Cut the body at its second-level headings; headings inside a section are one level below the report's own."""
    markdown = _markdown()
    tokens = markdown.parse(body)
    starts = [i for i, token in enumerate(tokens) if token.type == "heading_open" and token.tag == "h2"]
    sections = []
    for start, end in zip(starts, [*starts[1:], len(tokens)], strict=True):
        heading = tokens[start + 1].content
        if heading not in _LEFT_OUT:
            inner = [_lowered(token) for token in tokens[start + 3 : end]]
            sections.append((heading, Markup(markdown.renderer.render(inner, markdown.options, {}))))
    return sections


def _lowered(token: Token) -> Token:
    if token.type in ("heading_open", "heading_close"):
        token.tag = "h5"
    return token


def _markdown() -> MarkdownIt:
    """CommonMark and tables without raw HTML, images and any link but https."""
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    markdown.disable(["image", "html_block", "html_inline"])
    markdown.validateLink = _is_https  # type: ignore[method-assign]
    markdown.add_render_rule("link_open", _link_open)
    markdown.add_render_rule("table_open", lambda *_: f"{_SCROLL}<table>")
    markdown.add_render_rule("table_close", lambda *_: "</table></div>")
    markdown.add_render_rule("th_open", lambda *_: '<th scope="col">')
    markdown.add_render_rule("td_open", lambda *_: "<td>")
    return markdown


def _link_open(renderer: Any, tokens: list[Token], index: int, options: Any, env: Any) -> str:
    tokens[index].attrSet("rel", "noopener noreferrer")
    return str(renderer.renderToken(tokens, index, options, env))


def _is_https(url: str) -> bool:
    return re.match(r"https://[\w.-]+(/|$)", url) is not None
