"""Settings of a repository: ``[tool.qlora-doctor]`` of pyproject.toml, or qlora-doctor.toml, nearest above a config.

```toml
[tool.qlora-doctor]
profile = "recommended"        # or min, strict
select = ["QD3"]               # where it is given, only these rules judge
ignore = ["QD208"]
fail-on = "warning"
rules = ["ci/rules"]           # folders with pages of your own, from this file's folder
severity = {QD507 = "error"}
docs = "https://docs.example.org/qlora-doctor"   # the docs site that findings link to
exclude = ["archive", "runs/*/old.yaml"]   # what `check FOLDER` passes over, beside .git, .venv and the like

[tool.qlora-doctor.budgets]
"memory.predicted.peak_allocated_bytes" = {max = "22GiB", level = "error"}

[[tool.qlora-doctor.ignore-findings]]
rule = "QD203"
path = "configs/falcon-*.yaml"
reason = "the head stays in 16-bit on purpose"
until = 2027-01-01
```

``[[ignore]]`` is the same as ``[[ignore-findings]]``; TOML has room for one of the two meanings of ``ignore`` in a
file, a list of rules or tables with reasons.
"""

from __future__ import annotations

import datetime as dt
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ..core.errors import ConfigError
from ..core.place import Place
from ..core.report import FailOn, Severity

OWN_FILE = "qlora-doctor.toml"
_PYPROJECT = "pyproject.toml"


class _Strict(BaseModel):
    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        alias_generator=lambda name: name.replace("_", "-"),
        defer_build=True,  # most configs have no settings
    )


class Limit(_Strict):
    """A budget as it is written; a text is a size (``22GiB``) or a share (``0.5%``)."""

    max: int | float | None = None
    min: int | float | None = None
    level: Literal["error", "warning", "warn"] = "error"

    @field_validator("max", "min", mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError("a truth value is no limit")
        if isinstance(value, str):
            from ..tables.cards import parse_memory

            return float(value[:-1]) / 100 if value.endswith("%") else parse_memory(value)
        return value


class Ignored(_Strict):
    """Findings that do not count, and why."""

    rule: str = Field(min_length=1)
    path: str | None = None
    pointer: str | None = None
    reason: str = Field(min_length=1)
    until: dt.date | None = None


class Settings(_Strict):
    """The settings of one file; None and empty leave it to the command line and its defaults."""

    select: list[str] = Field(default_factory=list)
    ignore: list[str | Ignored] = Field(default_factory=list)
    ignore_findings: list[Ignored] = Field(default_factory=list)
    severity: dict[str, Severity] = Field(default_factory=dict)
    fail_on: FailOn | None = None
    profile: Literal["min", "recommended", "strict"] | None = None
    rules: list[str] = Field(default_factory=list)
    exclude: list[str] = Field(default_factory=list)
    budgets: dict[str, Limit] = Field(default_factory=dict)
    docs: str | None = Field(default=None, pattern=r"^https?://[^\s<>\"'`]+$")

    @field_validator("budgets")
    @classmethod
    def _limited(cls, budgets: dict[str, Limit]) -> dict[str, Limit]:
        for fact, limit in budgets.items():
            if limit.max is None and limit.min is None:
                raise ValueError(f"the budget of {fact} has neither max nor min")
        return budgets

    @property
    def ignored_rules(self) -> list[str]:
        """Rules that do not judge."""
        return [each for each in self.ignore if isinstance(each, str)]

    @property
    def ignored_findings(self) -> list[Ignored]:
        """Findings that do not count."""
        return [each for each in self.ignore if isinstance(each, Ignored)] + self.ignore_findings


@dataclass(frozen=True)
class Found:
    """Settings and the file that they are from; ``file`` is None where there is none."""

    settings: Settings
    file: Path | None = None

    @property
    def rule_folders(self) -> tuple[Path, ...]:
        """Folders with rule pages, from the settings' own folder."""
        return tuple(self.file.parent / folder for folder in self.settings.rules) if self.file else ()


def find_settings(config: Path | None) -> Found:
    """The settings nearest above a config (or the working directory), which are all there are: none add up.

    Raises:
        ConfigError: the file cannot be read or is invalid.
    """
    start = (config.parent if config is not None else Path()).resolve()
    for folder in (start, *start.parents):
        own, shared = folder / OWN_FILE, folder / _PYPROJECT
        if own.is_file():
            return read_settings(own)
        if shared.is_file() and "qlora-doctor" in (_load(shared).get("tool") or {}):
            return read_settings(shared)
    return Found(Settings.model_construct())  # nothing to validate, so that no validator is built


def read_settings(file: Path) -> Found:
    """The settings of one file.

    Raises:
        ConfigError: it cannot be read or is invalid; the message lists every mistake.
    """
    document = _load(file)
    if file.name == _PYPROJECT:
        document = (document.get("tool") or {}).get("qlora-doctor") or {}
    try:
        return Found(Settings.model_validate(document), file)
    except ValidationError as error:
        mistakes = "; ".join(dict.fromkeys(_mistake(each) for each in error.errors()))
        place = Place(file=str(file))
        raise ConfigError(f"The settings in {file} are invalid: {mistakes}.", place=place) from error


def _mistake(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"] if part not in ("str", "Ignored", "int", "float"))
    if error["type"] == "extra_forbidden":
        known = ", ".join(name.replace("_", "-") for name in Settings.model_fields)
        return f"there is no {where}" + (f"; there are {known}" if "." not in where else "")
    return f"{where or 'settings'}: {error['msg']}"


def _load(file: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}.") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} is no TOML: {error}.") from error
