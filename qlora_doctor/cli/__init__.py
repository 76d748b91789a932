"""The command line. Commands are imported when they are called, so that ``--help`` and ``explain`` stay fast."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any, NoReturn

import click

from .._version import __version__
from ..core.closest import closest
from ..core.errors import NEW_ISSUE, DoctorError

_COMMANDS = (
    "check", "run", "log", "adapter", "plan", "cure", "data", "explain", "rules", "env", "init", "demo", "report",
    "compare", "convert", "schema", "lsp",
)  # fmt: skip


class _Doctor(click.Group):
    """Loads a command's module by its name; ends every error in one sentence and the documented exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = import_module(f".{cmd_name}", __name__).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            raise click.UsageError(error.message + _closest_command(args[0]), ctx) from None

    def main(self, *args: Any, **extra: Any) -> Any:
        _start_fast()
        if len(args) < 2:
            extra["prog_name"] = self.name  # also for `python -m qlora_doctor`
        extra["standalone_mode"] = False
        try:
            result = super().main(*args, **extra)
        except click.exceptions.Abort:
            click.echo("Interrupted.", err=True)
            sys.exit(3)
        except click.ClickException as error:
            error.show()
            sys.exit(error.exit_code)
        except DoctorError as error:
            from ._terminal import show_error

            show_error(error)
            sys.exit(error.exit_code)
        except Exception as error:
            _unexpected(error)
        sys.exit(result if isinstance(result, int) else 0)


def _start_fast() -> None:
    """Spare a short command what only long-running programs need."""
    import gc
    import os

    gc.set_threshold(
        200_000
    )  # imports make objects that stay; looking through them for garbage is a tenth of the start
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # else every installed package is looked through


def _closest_command(name: str) -> str:

    close = closest(name, _COMMANDS)
    return f" Did you mean {close[0]}?" if close else ""


def _unexpected(error: Exception) -> NoReturn:
    """A fault of the tool itself: one sentence, and the traceback only for who asked for it."""
    context = click.get_current_context(silent=True)
    if "--debug" in sys.argv or (context is not None and context.params.get("debug")):
        raise error
    what = " ".join(str(error).split())[:200]
    click.echo(f"error: qlora-doctor failed: {type(error).__name__}{': ' + what if what else ''}", err=True)
    click.echo(f"  help: {NEW_ISSUE}", err=True)
    sys.exit(3)


@click.command(
    "qlora-doctor", cls=_Doctor, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="qlora-doctor")
def main() -> None:
    """Tells what is wrong with a QLoRA setup before the run."""


__all__ = ["main"]
