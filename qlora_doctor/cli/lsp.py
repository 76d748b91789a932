"""``qlora-doctor lsp``"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import click

from ..core.errors import UsageError
from ..engine.rule import Profile
from ..run.session import CheckOptions
from ._help import examples
from ._options import profile, settings


@click.command("lsp", epilog=examples("lsp", "lsp --profile strict"))
@profile("Which rules judge. Default: the settings', or recommended.")
@settings("a config")
@click.option("--stdio", is_flag=True, help="Speak over stdin and stdout, which is what it does anyway.")
def command(profile: Profile | None, settings: Path | None, stdio: bool) -> None:
    """Serve an editor over stdin and stdout: problems, hovers and fixes of the config stage while you type.

    It speaks the Language Server Protocol. Editors start it; docs/editors.md has their settings.
    """
    if find_spec("pygls") is None:
        raise UsageError(
            "The language server needs pygls, which is not installed.", remedy="pip install 'qlora-doctor[lsp]'"
        )
    from ..editor.server import serve
    from ._settings import Judging, with_settings

    judging = Judging(profile=profile, settings=settings)

    def options_of(path: Path) -> CheckOptions:
        return with_settings(CheckOptions(stages=("config",), offline=True), judging, path)

    serve(options_of)
