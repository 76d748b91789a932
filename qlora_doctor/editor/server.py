"""The language server: open files in, problems, hovers and fixes out. Speaks over stdin and stdout."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .._version import __version__
from .actions import Action, actions, fix_all
from .analysis import Analysis, Analyst, OptionsOf, Problem
from .hover import hover
from .ranges import Range

WAIT = 0.25
"""Seconds without a keystroke after which a file is looked at again."""
SUFFIXES = frozenset({".yaml", ".yml", ".json", ".jsonc", ".toml", ".sh", ".bash", ".py"})
FIX_ALL = "source.fixAll.qlora-doctor"


def serve(options_of: OptionsOf) -> None:
    """Serve one editor until it hangs up.

    Args:
        options_of: how to check a file.
    """
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # a library that prints would end the conversation
    make_server(options_of).start_io(source, sink)


def make_server(options_of: OptionsOf) -> Any:
    """A server that speaks over whatever it is started on; needs pygls (the extra ``lsp``)."""
    from lsprotocol import types
    from pygls.lsp.server import LanguageServer

    server = LanguageServer("qlora-doctor", __version__)
    desk = _OpenFiles(server, Analyst(options_of), types)
    kinds = [types.CodeActionKind.QuickFix, FIX_ALL]
    server.feature(types.INITIALIZED)(_free(desk.initialized))
    server.feature(types.TEXT_DOCUMENT_DID_OPEN)(_free(desk.opened))
    server.feature(types.TEXT_DOCUMENT_DID_CHANGE)(_free(desk.changed))
    server.feature(types.TEXT_DOCUMENT_DID_SAVE)(_free(desk.saved))
    server.feature(types.TEXT_DOCUMENT_DID_CLOSE)(_free(desk.closed))
    server.feature(types.TEXT_DOCUMENT_HOVER)(_free(desk.hover))
    server.feature(types.TEXT_DOCUMENT_CODE_ACTION, types.CodeActionOptions(code_action_kinds=kinds))(
        _free(desk.actions)
    )
    return server


def _free(method: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[Any]]:
    """A method as a function: pygls sets attributes on what it calls, and a method has none."""

    async def handler(params: Any) -> Any:
        return await method(params)

    return handler


class _OpenFiles:
    """The open files and what is known of them; one worker looks at one text at a time."""

    def __init__(self, server: Any, analyst: Analyst, types: Any) -> None:
        self.server, self.analyst, self.types = server, analyst, types
        self.known: dict[str, tuple[int | None, Analysis]] = {}
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="look")
        self._waiting: dict[str, asyncio.Task[None]] = {}

    async def initialized(self, params: Any) -> None:
        root = self.server.workspace.root_path
        self.analyst.root = Path(root) if root else None

    async def opened(self, params: Any) -> None:
        self._soon(params.text_document.uri, 0)

    async def changed(self, params: Any) -> None:
        self._soon(params.text_document.uri, WAIT)

    async def saved(self, params: Any) -> None:
        self._soon(params.text_document.uri, 0)

    async def closed(self, params: Any) -> None:
        uri = params.text_document.uri
        if (task := self._waiting.pop(uri, None)) is not None:
            task.cancel()
        if self.known.pop(uri, None) is not None:
            self._publish(uri, None, [])

    def _soon(self, uri: str, wait: float) -> None:
        if (task := self._waiting.pop(uri, None)) is not None:
            task.cancel()
        self._waiting[uri] = asyncio.ensure_future(self._look(uri, wait))

    async def _look(self, uri: str, wait: float) -> None:
        await asyncio.sleep(wait)
        document = self.server.workspace.get_text_document(uri)
        path = _path_of(document)
        if path is None:
            return
        version, source = document.version, document.source
        loop = asyncio.get_running_loop()
        analysis = await loop.run_in_executor(self._worker, self.analyst.look, path, source)
        self._waiting.pop(uri, None)
        before = self.known.get(uri)
        self.known[uri] = (version, analysis)
        if analysis.trouble is not None:
            self._log(analysis.trouble)
        if analysis.problems or (before is not None and before[1].problems) or analysis.setup is not None:
            self._publish(uri, version, analysis.problems)

    async def _current(self, uri: str) -> Analysis | None:
        """What is known of the text as it stands; waits for the look that is under way."""
        task = self._waiting.get(uri)
        if task is not None:
            await asyncio.wait({task})
        known = self.known.get(uri)
        return known[1] if known is not None else None

    async def hover(self, params: Any) -> Any:
        types = self.types
        analysis = await self._current(params.text_document.uri)
        if analysis is None:
            return None
        try:
            found = hover(analysis, params.position.line, params.position.character)
        except Exception as error:  # a hover less, and no more
            self._log(f"hover: {type(error).__name__}: {error}")
            return None
        if found is None:
            return None
        markdown, place = found
        content = types.MarkupContent(kind=types.MarkupKind.Markdown, value=markdown)
        return types.Hover(contents=content, range=self._range(place) if place is not None else None)

    async def actions(self, params: Any) -> Any:
        types = self.types
        uri = params.text_document.uri
        analysis = await self._current(uri)
        if analysis is None:
            return None
        start, end = params.range.start, params.range.end
        only = params.context.only
        found = []
        try:
            if _asked(only, types.CodeActionKind.QuickFix):
                spots = ((start.line, start.character), (end.line, end.character))
                found = [self._action(uri, each, types.CodeActionKind.QuickFix) for each in actions(analysis, *spots)]
            if only is not None and _asked(only, FIX_ALL) and (every := fix_all(analysis)) is not None:
                found.append(self._action(uri, every, FIX_ALL))
        except Exception as error:
            self._log(f"code actions: {type(error).__name__}: {error}")
        return found

    def _action(self, uri: str, action: Action, kind: str) -> Any:
        types = self.types
        edit = types.TextEdit(range=self._range(action.range), new_text=action.new)
        return types.CodeAction(
            title=action.title,
            kind=kind,
            is_preferred=action.preferred or None,
            diagnostics=[self._diagnostic(problem) for problem in action.problems] or None,
            edit=types.WorkspaceEdit(changes={uri: [edit]}),
        )

    def _publish(self, uri: str, version: int | None, problems: list[Problem]) -> None:
        diagnostics = [self._diagnostic(problem) for problem in problems]
        params = self.types.PublishDiagnosticsParams(uri=uri, version=version, diagnostics=diagnostics)
        self.server.text_document_publish_diagnostics(params)

    def _diagnostic(self, problem: Problem) -> Any:
        types = self.types
        severities = {
            "error": types.DiagnosticSeverity.Error,
            "warning": types.DiagnosticSeverity.Warning,
            "info": types.DiagnosticSeverity.Information,
        }
        return types.Diagnostic(
            range=self._range(problem.range),
            message=problem.message,
            severity=severities[problem.severity],
            code=problem.code,
            code_description=types.CodeDescription(href=problem.url) if problem.url else None,
            source="qlora-doctor",
        )

    def _range(self, place: Range) -> Any:
        types = self.types
        (line, column), (end_line, end_column) = place
        return types.Range(start=types.Position(line, column), end=types.Position(end_line, end_column))

    def _log(self, text: str) -> None:
        types = self.types
        self.server.window_log_message(types.LogMessageParams(type=types.MessageType.Warning, message=text))


def _asked(only: list[str] | None, kind: str) -> bool:
    """Whether a kind of action was asked for; a kind includes those that start with it and a dot."""
    return only is None or any(kind == each or kind.startswith(f"{each}.") for each in only)


def _path_of(document: Any) -> Path | None:
    """The file behind a document; None for what is no file, or has no config's ending."""
    if not document.uri.startswith("file:") or not document.path:
        return None
    path = Path(document.path)
    return path if path.suffix.lower() in SUFFIXES else None
