"""``examine``: the same probes and rules on objects that a training script has already built."""

from __future__ import annotations

from typing import Any

from ..core.report import Report, StageRecord
from .observer import Observer
from .session import CheckOptions, Session


def examine(
    model: Any,
    optimizer: Any = None,
    batch: Any = None,
    *,
    fail_on: str = "error",
    selection: Any = None,
    **known: Any,
) -> Report:
    """Judge live objects: a (PEFT) model, its optimizer and a batch, as a training script holds them.

    With a batch a real step is taken and undone: model, optimizer, gradients and random state are left as they were
    found. Without one only what stands still is looked at. Of a model that is sharded over several processes (FSDP 2,
    DTensors) the shards of this one are looked at and no step is taken; flat parameters (FSDP 1, ZeRO-3) are declined.
    Either is said as the reason of the stages, and no other process is asked for anything.

    Args:
        model: a ``torch.nn.Module``, usually what get_peft_model returned.
        optimizer: the ``torch.optim.Optimizer`` that will train it, or None.
        batch: a mapping of tensors as the data loader yields it, ``input_ids`` and ``labels`` at least, or None.
        fail_on: the least severity that makes ``report.exit_code`` 1.
        selection: an ``engine.Selection``; None selects the recommended rules.
        known: fields of ``ConfigFacts`` that objects do not show, such as ``learning_rate`` or ``fp16``.
    """
    from ..core.assets import asset_folder
    from ..engine import load_rules
    from ..probes.environment import look_at_environment
    from ..probes.live.config import live_config
    from ..probes.live.objects import examine_objects
    from ..probes.live.sharding import sharding_of
    from .cache import cache_folder, pages_folder

    rules = load_rules(asset_folder("rules"), kept_in=pages_folder(cache_folder()))
    options = CheckOptions(selection=selection, fail_on=fail_on)  # type: ignore[arg-type]
    session = Session(rules, options, Observer())
    seen = examine_objects(model, optimizer=optimizer, batch=batch)
    config = live_config(model, optimizer, batch).model_copy(update=known)
    session.facts = seen.model_copy(update={"environment": look_at_environment(), "config": config})
    sharding = sharding_of(model)
    session.stages["config"] = StageRecord(name="config", status="done")
    for name in ("structure", "load"):
        session.stages[name] = _record(name, sharding.look, sharding.remedy)
    session.stages["step"] = _record("step", sharding.step, sharding.remedy) if batch is not None else _no_batch()
    session.judge()
    return session.report()


def _record(name: str, declined: str | None, remedy: str | None) -> StageRecord:
    if declined is None:
        return StageRecord(name=name, status="done")
    return StageRecord(name=name, status="skipped", reason=declined, remedy=remedy)


def _no_batch() -> StageRecord:
    remedy = "examine(model, optimizer, batch)"
    return StageRecord(name="step", status="skipped", reason="No batch was given.", remedy=remedy)
