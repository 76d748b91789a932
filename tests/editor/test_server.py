"""The language server, asked by a client over stdin and stdout as an editor asks it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pygls")
from lsprotocol import types
from pygls.lsp.client import LanguageClient

ROOT = Path(__file__).resolve().parents[2]
BROKEN = """\
model: meta-llama/Llama-3.1-8B  # \U0001f999 a llama
quantization:
  load_in_4bit: true
lora:
  r: 16
  target_modules: all-linear
training:
  learning_rates: 0.0002
  per_device_train_batch_size: 1
"""
AXOLOTL = """\
base_model: NousResearch/Llama-3.2-1B
load_in_4bit: true
adapter: qlora
lora_r: 32
lora_alpha: 16
lora_target_linear: true
sequence_len: 2048
micro_batch_size: 2
gradient_accumulation_steps: 4
learning_rate: 0.0002
datasets:
  - path: data.jsonl
    type: alpaca
"""


class Editor:
    """A client that keeps the last problems of each file."""

    def __init__(self) -> None:
        self.client = LanguageClient("test", "1")
        self.problems: dict[str, types.PublishDiagnosticsParams] = {}
        self.arrived = asyncio.Condition()

        async def take(params: types.PublishDiagnosticsParams) -> None:
            async with self.arrived:
                self.problems[params.uri] = params
                self.arrived.notify_all()

        self.client.feature(types.TEXT_DOCUMENT_PUBLISH_DIAGNOSTICS)(take)
        self.client.feature(types.WINDOW_LOG_MESSAGE)(lambda params: None)

    async def start(self, folder: Path) -> types.InitializeResult:
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        await self.client.start_io(sys.executable, "-m", "qlora_doctor", "lsp", env={**os.environ, "PYTHONPATH": path})
        params = types.InitializeParams(capabilities=types.ClientCapabilities(), root_uri=folder.as_uri())
        result = await self.client.initialize_async(params)
        self.client.initialized(types.InitializedParams())
        return result

    def open(self, path: Path, text: str, version: int = 1) -> str:
        item = types.TextDocumentItem(uri=path.as_uri(), language_id="yaml", version=version, text=text)
        self.client.text_document_did_open(types.DidOpenTextDocumentParams(item))
        return path.as_uri()

    def change(self, uri: str, text: str, version: int) -> None:
        where = types.VersionedTextDocumentIdentifier(uri=uri, version=version)
        whole = [types.TextDocumentContentChangeWholeDocument(text=text)]
        self.client.text_document_did_change(types.DidChangeTextDocumentParams(where, whole))

    async def seen(self, uri: str, version: int = 1) -> list[types.Diagnostic]:
        async with self.arrived:
            there = lambda: uri in self.problems and (self.problems[uri].version or 0) >= version  # noqa: E731
            await asyncio.wait_for(self.arrived.wait_for(there), 60)
        return list(self.problems[uri].diagnostics)

    async def hover(self, uri: str, line: int, character: int) -> str:
        where = types.HoverParams(types.TextDocumentIdentifier(uri), types.Position(line, character))
        found = await self.client.text_document_hover_async(where)
        return found.contents.value if found is not None else ""

    async def actions(self, uri: str, place: types.Range, only: list[str] | None = None) -> list[types.CodeAction]:
        context = types.CodeActionContext(diagnostics=[], only=only)
        params = types.CodeActionParams(types.TextDocumentIdentifier(uri), place, context)
        return await self.client.text_document_code_action_async(params) or []

    async def stop(self) -> None:
        await self.client.shutdown_async(None)
        self.client.exit(None)
        await asyncio.wait_for(self.client.stop(), 30)


def edit(folder: Path, work: Callable[[Editor], Awaitable[Any]]) -> None:
    async def session() -> None:
        editor = Editor()
        await editor.start(folder)
        try:
            await asyncio.wait_for(work(editor), 120)
        finally:
            await editor.stop()

    # In a thread of its own: a browser's test may have left a loop running in this one.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, session()).result()


def applied(text: str, edit: types.TextEdit) -> str:
    """The edit as an editor makes it: columns are UTF-16 units."""
    lines = [*text.splitlines(keepends=True), ""]

    def offset(position: types.Position) -> int:
        before = lines[position.line].encode("utf-16-le")[: 2 * position.character].decode("utf-16-le")
        return sum(map(len, lines[: position.line])) + len(before)

    return text[: offset(edit.range.start)] + edit.new_text + text[offset(edit.range.end) :]


def test_problems_hover_and_fixes(tmp_path: Path) -> None:
    async def work(editor: Editor) -> None:
        uri = editor.open(tmp_path / "config.yaml", BROKEN)
        problems = {problem.code: problem for problem in await editor.seen(uri)}
        misspelt = next(each for each in problems.values() if "learning_rates" in each.message)
        assert (misspelt.range.start.line, misspelt.range.start.character) == (7, 2)
        assert misspelt.range.end == types.Position(7, 2 + len("learning_rates"))
        assert misspelt.source == "qlora-doctor"

        told = await editor.hover(uri, 4, 3)
        assert "**lora.r**" in told and "Rank" in told and "`16` (written in this file)" in told
        assert "where silent: `8`" in told
        assert str(misspelt.code) in await editor.hover(uri, 7, 5)
        section = await editor.hover(uri, 3, 1)
        assert "**lora**" in section and "- `lora_dropout`" in section

        fixes = await editor.actions(uri, misspelt.range)
        rename = next(fix for fix in fixes if fix.title.startswith(str(misspelt.code)))
        assert rename.kind == types.CodeActionKind.QuickFix and rename.edit is not None
        (change,) = rename.edit.changes[uri]
        after = applied(BROKEN, change)
        assert "  learning_rate: 0.0002\n" in after and "learning_rates" not in after

        editor.change(uri, after, 2)
        assert not [each for each in await editor.seen(uri, 2) if "learning_rates" in each.message]

    edit(tmp_path, work)


def test_the_keys_of_another_dialect(tmp_path: Path) -> None:
    async def work(editor: Editor) -> None:
        uri = editor.open(tmp_path / "axolotl.yaml", AXOLOTL)
        await editor.seen(uri)
        assert "**lora.r**" in await editor.hover(uri, 3, 2)
        assert "`32` (written in this file)" in await editor.hover(uri, 3, 2)
        every = await editor.actions(uri, types.Range(types.Position(0, 0), types.Position(0, 0)), ["source.fixAll"])
        for action in every:
            assert action.kind == "source.fixAll.qlora-doctor"

    edit(tmp_path, work)


def test_what_is_no_config_is_left_alone_and_a_config_that_breaks_says_where(tmp_path: Path) -> None:
    async def work(editor: Editor) -> None:
        other = editor.open(tmp_path / "workflow.yaml", "on: push\njobs:\n  build:\n    runs-on: ubuntu-latest\n")
        broken = editor.open(tmp_path / "never-a-config.yaml", "a: [1\n")
        uri = editor.open(tmp_path / "config.yaml", BROKEN)
        await editor.seen(uri)
        assert other not in editor.problems and broken not in editor.problems
        assert await editor.hover(other, 0, 0) == ""

        editor.change(uri, BROKEN.replace("  r: 16", "  r: [16"), 2)
        (problem,) = await editor.seen(uri, 2)
        assert problem.code == "config" and problem.severity == types.DiagnosticSeverity.Error
        editor.change(uri, BROKEN.replace("  r: 16", "  r: sixteen"), 3)
        (problem,) = await editor.seen(uri, 3)
        assert problem.range.start.line == 4 and "lora.r" in problem.message

    edit(tmp_path, work)


HOSTILE = {
    "deep.json": "[" * 100_000,
    "nul.yaml": "model: x\0y\n",
    "anchors.yaml": "a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\nmodel: *c\n",
    "lone.yaml": "model: \ud83e\nlora:\n  r: \udd99\n",
    "returns.yaml": "model: x/y\rlora:\r  r: 16\r",
    "long.yaml": "model: " + "x" * 300_000 + "\n",
    "many.yaml": "model: x/y\nlora:\n" + "".join(f"  k{number}: 1\n" for number in range(3000)),
    "tag.yaml": "model: !!python/object/apply:os.system [touch owned]\n",
    "empty.yaml": "",
    "script.py": "from peft import LoraConfig\n" + "(" * 5000,
    "table.toml": "[a]\n" * 3000,
}


def test_hostile_texts_end_nothing(tmp_path: Path) -> None:
    async def work(editor: Editor) -> None:
        for name, text in HOSTILE.items():
            # JSON carries half a character as an escape, which Python's decoder lets through.
            uri = editor.open(tmp_path / name, text.encode("utf-16", "replace").decode("utf-16"))
            await editor.hover(uri, 1, 3)
            await editor.actions(uri, types.Range(types.Position(0, 0), types.Position(9**6, 9**6)))
            await editor.hover(uri, 10**6, 10**6)
        uri = editor.open(tmp_path / "config.yaml", BROKEN)
        assert await editor.seen(uri)

    edit(tmp_path, work)
    assert not (tmp_path / "owned").exists()
