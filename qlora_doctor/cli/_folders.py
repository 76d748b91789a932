"""Folders among the configs of a command: each stands for the configs in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import UsageError
from ..reporters.overview import told_reasons
from ._settings import found_settings
from ._terminal import one_line, show

if TYPE_CHECKING:
    from ..reading.walk import Walk
    from ..run.settings import Found as Settings
    from ._progress import Told
    from ._settings import Judging
    from ._shown import Shown

_MOST_NAMED = 3


@dataclass
class Found:
    """What the arguments of a command stand for.

    Attributes:
        configs: the files to check; a saved adapter or model is checked as the folder that it is.
        left_out: files of folders that look like configs and are none, with the reason.
    """

    configs: list[Path] = field(default_factory=list)
    left_out: list[tuple[Path, str]] = field(default_factory=list)


def with_folders(
    configs: Sequence[Path], exclude: Sequence[str], dialect: str | None, judging: Judging, shown: Shown, watcher: Told
) -> Found:
    """The files to check. What is passed over in a folder is counted on stderr.

    Args:
        exclude: globs of what is passed over in a folder, beside those of the settings.
        dialect: of all files; None recognises each.

    Raises:
        UsageError: a folder holds no config.
        ConfigError: the settings cannot be read or are invalid.
    """
    from ..reading.dialects import file_of

    found = Found()
    for path in configs:
        if path.is_dir() and file_of(path) == path:
            walk = _walk(path, exclude, dialect, found_settings(path / "any", judging))
            _tell(path, walk, shown, watcher)
            found.configs += [file for file in walk.configs if file not in found.configs and file not in configs]
            found.left_out += [each for each in walk.left_out if each[0] not in configs]
        else:
            found.configs.append(path)
    return found


def _walk(folder: Path, exclude: Sequence[str], dialect: str | None, settings: Settings) -> Walk:
    from ..reading.walk import find_configs

    walk = find_configs(
        folder,
        exclude=(*settings.settings.exclude, *exclude),
        base=settings.file.parent if settings.file else None,
        dialect=dialect,
    )
    if not walk.configs:
        what = f"the configs that it knows ({dialect})" if dialect else "a config that is known here"
        raise UsageError(
            f"{folder} holds no file that is {what}: {_passed_over(walk)}.",
            remedy="Name a file itself to hear what it lacks; --dialect says which dialect a file is in.",
        )
    return walk


def _tell(folder: Path, walk: Walk, shown: Shown, watcher: Told) -> None:
    if walk.unreadable or ((walk.passed_over or walk.left_out) and not shown.quiet):
        with watcher.room():
            show(f"{one_line(str(folder))}: {len(walk.configs)} to check; {_passed_over(walk)}.", err=True)


def _passed_over(walk: Walk) -> str:
    parts = [f"{walk.passed_over} other file{'s are' if walk.passed_over != 1 else ' is'} no config"]
    if walk.left_out:
        parts.append(f"{len(walk.left_out)} left out: {'; '.join(told_reasons(walk.left_out))}")
    if walk.unreadable:
        named = " ".join(one_line(reason, 200) for reason in walk.unreadable[:_MOST_NAMED]).rstrip(".")
        more = f" and {len(walk.unreadable) - _MOST_NAMED} more" if len(walk.unreadable) > _MOST_NAMED else ""
        parts.append(f"{len(walk.unreadable)} cannot be read: {named}{more}")
    return ", ".join(parts)
