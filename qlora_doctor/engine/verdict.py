"""What findings and stages add up to."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.report import RANK, FailOn, Finding, Read, RuleOutcome, StageRecord, Summary
from ..facts import Facts

_NOT_FOUND = ("missing-config", "no-such-model")


def exit_code(
    findings: Sequence[Finding], stages: Sequence[StageRecord], fail_on: FailOn = "unknown", read: Read | None = None
) -> int:
    """0 clean; 1 findings at or above ``fail_on``; 3 what was asked for did not complete, or the run is not all known.

    3 wins over 1 where the stage was asked for by name: the findings of an incomplete check are not all there are.
    Where no stage was named, every stage that can run is asked for: one that failed, and no error says why (it was
    killed, ran out of time or memory), leaves the check unsettled, which is not 0. Neither is a run of which not all is
    known that decides it, unless ``fail_on`` is ``error`` or ``never``.
    """
    if any(stage.requested and stage.status != "done" for stage in stages):
        return 3
    if any(stage.status == "failed" for stage in stages) and not any(f.severity == "error" for f in counted(findings)):
        return 3
    if any(RANK[finding.severity] >= RANK[fail_on] for finding in counted(findings)):
        return 1
    return 3 if is_partly_read(read) and fail_on not in ("error", "never") else 0


def is_partly_read(read: Read | None) -> bool:
    """True where something that decides the run is unknown."""
    return read is not None and read.known < read.of


def read_of(facts: Facts) -> Read | None:
    """How much of what decides the run is known; a model that is not at hand is not, whatever its name."""
    config = facts.config
    if config is None or config.decided_by is None or config.undecided is None:
        return None
    why = {each.path: f"{_where(each.path, each.line)}: {each.why or 'It is not known.'}" for each in config.undecided}
    model = "model.name_or_path"
    if model in config.decided_by and config.model_closest is not None:
        why.setdefault(model, f"{model}: no model {config.model!r} is known here.")
    if model in config.decided_by and facts.model is not None and facts.model.build_error_kind in _NOT_FOUND:
        why.setdefault(model, f"{model}: {facts.model.build_error or 'The model is not at hand.'}")
    unknown = [path for path in config.decided_by if path in why]
    of = len(config.decided_by)
    stops_at = why[unknown[0]] if unknown else None
    return Read.model_construct(known=of - len(unknown), of=of, unknown=unknown, stops_at=stops_at)


def _where(path: str, line: int | None) -> str:
    return f"line {line} ({path})" if line is not None else path


def summarise(findings: Sequence[Finding], outcomes: Sequence[RuleOutcome], facts: Facts | None = None) -> Summary:
    """Counts by severity of the findings that count, of the rules that could not be evaluated, and of what was read."""
    levels = [finding.severity for finding in counted(findings)]
    return Summary.model_construct(  # counts of our own need no validator, which is one more to build
        read=read_of(facts) if facts is not None else None,
        error=levels.count("error"),
        warning=levels.count("warning"),
        info=levels.count("info"),
        skipped=sum(outcome.status == "skipped" for outcome in outcomes),
    )


def counted(findings: Sequence[Finding]) -> list[Finding]:
    """The findings that were not suppressed."""
    return [finding for finding in findings if finding.suppressed is None]
