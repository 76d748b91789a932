"""The trainer's arithmetic: updates, warm-up, intervals, the checkpoint that a run goes on from.

Read from transformers 5.23: trainer.py (set_initial_training_values, _init_training_state), training_args.py
(get_warmup_steps, __post_init__) and trainer_callback.py (DefaultFlowCallback).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Any

from ...facts.config import ConfigFacts, Remark
from ...facts.schedule import ResumeFacts, ScheduleFacts
from ...setup.paths import resolve, train_data
from ...setup.resolved import Taken
from ...setup.setup import NamedData, Setup

Get = Callable[..., Any]
"""Canonical path, default → value; None where it cannot be known."""
GROUP_METHODS = ("grpo", "rloo")
"""Methods that compare several answers to one prompt."""
_PLAIN = ("sft", "pretrain", "pt", "dpo", "kto", "orpo", "cpo", "simpo", "ipo", "reward", "rm")
"""Methods of which each row is one sample."""
_WARMS_UP = ("linear", "cosine", "polynomial", "constant_with_warmup", "inverse_sqrt", "cosine_with_restarts",
             "cosine_with_min_lr", "warmup_stable_decay")  # fmt: skip
"""Schedules whose rate climbs from zero over the warm-up."""


def schedule_facts(setup: Setup, get: Get, known: ConfigFacts) -> ScheduleFacts | None:
    """The course of a config's run; None for trainers that count otherwise.

    Args:
        get: as ``Get``.
        known: the facts of the config that are known already.
    """
    if setup.traits.own_options:
        return None
    batch, accumulation, ranks = known.batch, known.gradient_accumulation, _ranks(setup, known)
    of_a_rank = batch * accumulation if batch is not None and accumulation is not None else None
    rows = _rows(setup, known)
    runs_alone = setup.dialect == "python" and known.launch in ("alone", "unsaid")
    alone = 1 if ranks is None and runs_alone and (known.visible_cards or 1) < 2 else ranks
    per_epoch = _updates_per_epoch(rows, known.method, batch, accumulation, alone)
    asked_epochs = get("training.num_train_epochs")
    updates = _updates(get, per_epoch, asked_epochs)
    rows_at_most = rows if rows is not None else _rows_at_most(setup, known)
    most = updates
    if most is None:
        most = _updates(
            get, _updates_per_epoch(rows_at_most, known.method, batch, accumulation, ranks or 1), asked_epochs
        )
    warmup = _warmup(setup, get, updates)
    groups = _generations(known.method, get, batch, accumulation, alone)
    return ScheduleFacts(
        effective_batch=of_a_rank * ranks if of_a_rank is not None and ranks is not None else None,
        batch_of_a_rank=of_a_rank,
        rows=rows,
        rows_at_most=rows_at_most,
        epochs=_epochs(get, updates, per_epoch, asked_epochs),
        updates_per_epoch=per_epoch,
        updates=updates,
        updates_at_most=most,
        updates_of_epochs=_updates_of_epochs(setup, get, per_epoch),
        warmup_updates=warmup,
        warmup_unused=_unused_warmup(get),
        peak_rate_share=_peak(get, most, warmup),
        late_intervals=late_intervals(setup, get, most),
        best_model=_best_model(get),
        **_chosen_by(setup, get),
        generations=groups[0],
        generation_batch=groups[1],
        resume=_resume(setup, get, known, updates, most, ranks),
    )


def _resume(
    setup: Setup, get: Get, known: ConfigFacts, updates: int | None, most: int | None, ranks: int | None
) -> ResumeFacts | None:
    if get("training.resume_from_checkpoint", False) is False:
        return ResumeFacts(checkpoint="none", unusable="none")
    from .resume import resume_facts  # lazy: hardly a config resumes a run

    return resume_facts(setup, get, known, updates, most, ranks)


def _ranks(setup: Setup, known: ConfigFacts) -> int | None:
    """Processes that train: as the config says; a trainer's own file leaves it to the one who launches it.

    One process that sees several cards takes as many batches as it sees cards.
    """
    if known.launch == "alone":
        return known.visible_cards
    if setup.hardware.count is not None or setup.dialect != "native":
        return setup.hardware.count
    return 1 if known.distributed == "none" and known.several_processes is False else None


def _rows(setup: Setup, known: ConfigFacts) -> int | None:
    """Rows of a local file that is all the data; packing and what a script does with rows make it unknown."""
    written = setup.data.train
    if written is None or not setup.traits.counts_rows or known.packing is not False:
        return None
    name, _, taken = train_data(setup)
    path = resolve(setup, name)
    if path is None or taken is not None:
        return taken
    from ...core.rows import count_rows  # lazy: most data is not in a file here

    return count_rows(path)


def _rows_at_most(setup: Setup, known: ConfigFacts) -> int | None:
    """Rows of the local files that are named; None where one is not here, or a row may become several samples."""
    named = [each for each in setup.named_data if each.role == "train"]
    counts = [_rows_of(setup, each) for each in named]
    if not counts or None in counts or (known.packing is not False and not setup.traits.row_is_sample):
        return None
    total = sum(count for count in counts if count is not None)
    held_out = named[0].settings.get("val_set_size", named[0].settings.get("val_size"))
    if isinstance(held_out, int | float) and not isinstance(held_out, bool) and 0 < held_out < total:
        total -= math.floor(held_out if held_out >= 1 else total * held_out)
    return total


def _rows_of(setup: Setup, named: NamedData) -> int | None:
    steps, kind = named.settings.get("steps"), str(named.format or named.settings.get("type"))
    if steps is not None:  # what a script does to its rows
        plain = not any(step.get("batched") for step in steps)
    else:
        plain = setup.traits.row_is_sample and kind not in ("None", "pretraining_dataset")
        plain = plain and named.settings.get("stage") != "pt" and named.settings.get("shards") is None
    written = named.files or ([named.name] if named.name else [])
    paths = [resolve(setup, each) for each in written]
    if not plain or not paths:
        return None
    from ...core.rows import count_rows, longest_line  # lazy: most data is not in a file here

    if kind == "completion":  # which divides a text of more tokens than that
        lines, most_tokens = [longest_line(path) for path in paths], named.settings.get("sequence_len", 512)
        if None in lines or not isinstance(most_tokens, int) or max(line or 0 for line in lines) > most_tokens:
            return None
    counts = [count_rows(path) if path is not None else None for path in paths]
    if None in counts:
        return None
    start, end = 0, sum(count for count in counts if count is not None)
    if "[" in (named.split or ""):
        from ...pipeline.forms.files import slice_of

        start, end = slice_of(named.split, end)
    most = named.settings.get("max_samples", named.settings.get("num_samples"))
    return min(end - start, most) if isinstance(most, int) and not isinstance(most, bool) else end - start


def _updates_per_epoch(
    rows: int | None, method: str | None, batch: int | None, accumulation: int | None, ranks: int | None
) -> int | None:
    if not rows or not batch or not accumulation or not ranks or method not in _PLAIN:
        return None
    return max(1, math.ceil(math.ceil(rows / (batch * ranks)) / accumulation))


def _updates(get: Get, per_epoch: int | None, epochs: float | None) -> int | None:
    """``max_steps`` where it is set, else epochs."""
    steps = get("training.max_steps", -1)
    if steps is None:
        return None
    if steps > 0:
        return int(steps)
    return math.ceil(epochs * per_epoch) if epochs is not None and per_epoch is not None else None


def _epochs(get: Get, updates: int | None, per_epoch: int | None, asked: float | None) -> float | None:
    steps = get("training.max_steps", -1)
    if steps is None:
        return None
    if steps <= 0:
        return asked
    return updates / per_epoch if updates is not None and per_epoch else None


def _updates_of_epochs(setup: Setup, get: Get, per_epoch: int | None) -> int | None:
    steps, epochs = get("training.max_steps", -1), get("training.num_train_epochs")
    if steps is None or epochs is None:
        return None
    origins = [setup.origins.get(f"training.{name}") for name in ("max_steps", "num_train_epochs")]
    if steps <= 0 or not all(origin is not None and origin.source == "explicit" for origin in origins):
        return 0
    return math.ceil(epochs * per_epoch) if per_epoch is not None else None


def _warmup(setup: Setup, get: Get, updates: int | None) -> int | None:
    """``warmup_steps`` above 0 counts before ``warmup_ratio``; below 1 it is a share, as from transformers 5 on."""
    steps, share = get("training.warmup_steps", 0), get("training.warmup_ratio", 0.0)
    if setup.training.warmup_steps is not None and steps:
        share = 0.0  # whatever it is: the number of steps counts
    if steps is None or share is None:
        return None
    if setup.training.warmup_steps is None and setup.training.warmup_ratio is None:
        share = share or setup.traits.warmup_ratio
    if steps >= 1:
        return int(steps)
    share = steps or share
    if not share:
        return 0
    return math.ceil(updates * share) if updates is not None else None


def _unused_warmup(get: Get) -> bool | None:
    """transformers' ``constant`` never looks at the warm-up; ``constant_with_warmup`` does (optimization.py)."""
    schedule, steps, share = (get(f"training.{name}") for name in ("lr_scheduler_type", "warmup_steps", "warmup_ratio"))
    if schedule is None:
        return None
    return schedule == "constant" and bool(steps or share)


def _peak(get: Get, updates: int | None, warmup: int | None) -> float | None:
    """The last update of a run that ends inside its warm-up has ``updates - 1`` steps of the climb behind it."""
    if get("training.lr_scheduler_type") not in _WARMS_UP:
        return None
    if updates is None or warmup is None:
        return None
    return 1.0 if warmup < updates or updates == 0 else (updates - 1) / warmup


def late_intervals(setup: Setup, get: Get, updates: int | None) -> list[str] | None:
    """What goes by steps that are more than there are, by the strategies that stand."""
    if updates is None:
        return None
    training = setup.training
    asked = {
        "save": (training.save_strategy or "steps", training.save_steps),
        "evaluation": (Taken(setup)["training.eval_strategy"], training.eval_steps or training.logging_steps),
        "log": (training.logging_strategy or "steps", training.logging_steps),
    }
    return [
        f"{name} every {steps:g}"
        for name, (strategy, steps) in asked.items()
        if strategy == "steps" and steps is not None and steps > updates
    ]


def _best_model(get: Get) -> str | None:
    asked, evaluates = get("training.load_best_model_at_end", False), get("training.eval_strategy")
    if asked is None or (asked and evaluates is None):
        return None
    return "off" if not asked else "nothing" if evaluates == "no" else "chosen"


_GREATER = re.compile(r"(^|_)(acc|accuracy|f1|bleu|rouge\w*|precision|recall|auc|exact_match|em)($|_)", re.I)
_SMALLER = re.compile(r"(^|_)(loss|perplexity|ppl|wer|cer|mse|rmse|mae)$", re.I)


def _chosen_by(setup: Setup, get: Get) -> dict[str, Any]:
    """By which metric the best checkpoint is chosen, and whether that is the wrong way round."""
    chosen = _best_model(get)
    if chosen is None:
        return {}
    metric, greater = (setup.training.extra.get(name) for name in ("metric_for_best_model", "greater_is_better"))
    if chosen != "chosen" or not isinstance(metric, str) or not isinstance(greater, bool):
        return {"worst_is_chosen": False, "best_metric": metric if isinstance(metric, str) else None}
    wrong = bool(_SMALLER.search(metric)) if greater else bool(_GREATER.search(metric))
    return {"worst_is_chosen": wrong, "best_metric": metric}


def _generations(
    method: str | None, get: Get, batch: int | None, accumulation: int | None, ranks: int | None
) -> tuple[int | None, int | None]:
    """(answers to a prompt, answers at a time), as GRPOConfig and RLOOConfig conclude them."""
    count = get("training.num_generations", {"grpo": 8, "rloo": 2}.get(str(method)))
    if count is None or method not in (*GROUP_METHODS, None):
        return None, None
    whole, steps = get("training.generation_batch_size", 0), get("training.steps_per_generation", 0)
    if whole is None or steps is None:
        return count, None
    steps = steps or accumulation
    if not whole and None not in (batch, ranks, steps):
        whole = batch * ranks * steps  # type: ignore[operator]
    return count, whole or None


# -- what the trainers refuse


def refused_by_schedule(setup: Setup, schedule: ScheduleFacts) -> Iterator[Remark]:
    """Where TrainingArguments, GRPOConfig or RLOOConfig stop by their own arithmetic."""
    yield from _refused_best_model(setup)
    yield from _refused_generations(setup, schedule)
    yield from _refused_batch_of_one(setup)


def _refused_best_model(setup: Setup) -> Iterator[Remark]:
    training = setup.training

    def unknown(*names: str) -> bool:
        return any(setup.is_unknown(f"training.{name}") for name in names)

    if not training.load_best_model_at_end or unknown("load_best_model_at_end", "eval_strategy", "save_strategy"):
        return
    evaluation, save = Taken(setup)["training.eval_strategy"], training.save_strategy or "steps"
    if save == "best":
        return
    path, problem = "training.load_best_model_at_end", None
    if evaluation != save:
        kind, path = "best-model-strategies-differ", "training.save_strategy"
        problem = (
            f"needs evaluation and save to go by the same strategy; evaluation goes by {evaluation}, save by {save}"
        )
    elif evaluation == "steps" and not unknown("eval_steps", "save_steps", "logging_steps"):
        kind = "best-model-steps"
        every, saved = training.eval_steps or training.logging_steps or 500, training.save_steps or 500
        if (every < 1) != (saved < 1):
            problem = f"needs both intervals in updates or both as shares; found {every:g} and {saved:g}"
        elif (saved * 1_000_000) % (every * 1_000_000) if every < 1 else saved % every:
            problem = f"needs save_steps to be a multiple of eval_steps; {saved:g} is none of {every:g}"
    if problem is not None:
        note = f"transformers stops: load_best_model_at_end {problem}."
        path = path if path in setup.origins else "training.load_best_model_at_end"
        yield Remark(kind=kind, about="best-model", key=path, note=note)


def _refused_batch_of_one(setup: Setup) -> Iterator[Remark]:
    """trl's KTO estimates its KL term over the other rows of a batch (kto_trainer.py)."""
    training = setup.training
    plain = training.trainer == "trl" and training.method == "kto" and setup.traits.as_written
    if plain and training.loss_type in (None, "kto") and training.per_device_train_batch_size == 1:
        note = "TRL stops: KTO needs a per_device_train_batch_size above 1, whatever the accumulation."
        key = "training.per_device_train_batch_size"
        yield Remark(kind="kto-batch-of-one", about="trainer", key=key, note=note)


def _refused_generations(setup: Setup, schedule: ScheduleFacts) -> Iterator[Remark]:
    count, batch, training = schedule.generations, schedule.generation_batch, setup.training
    if training.trainer not in ("trl", None) or setup.traits.counts_generations:
        return
    key = "training.num_generations"
    if training.generation_batch_size and training.steps_per_generation:
        note = "TRL stops: generation_batch_size and steps_per_generation exclude each other."
        yield Remark(kind="generations-set-twice", about="generations", key="training.steps_per_generation", note=note)
    if count is not None and count < 2:
        note = f"TRL stops: num_generations is {count}, and an answer is rated against the others of its group."
        yield Remark(kind="generations-single", about="generations", key=key, note=note)
    elif count is not None and batch is not None and batch % count:
        ranks = Taken(setup)["hardware.count"]
        where = f"on {ranks} ranks" if ranks > 1 else "on one rank"
        note = (
            f"TRL stops: {batch} answers are generated at a time ({where}), which are no whole groups of "
            f"num_generations {count}."
        )
        yield Remark(kind="generations-not-divisible", about="generations", key=key, note=note)
    evaluated = training.num_generations_eval or count
    eval_batch, strategy = training.per_device_eval_batch_size, training.eval_strategy
    if count is not None and evaluated and eval_batch and strategy not in (None, "no"):
        ranks = Taken(setup)["hardware.count"]
        if (eval_batch * ranks) % evaluated:
            note = (
                f"TRL stops: an evaluation batch of {eval_batch * ranks} over all ranks holds no whole groups of "
                f"{evaluated} answers."
            )
            path = "training.per_device_eval_batch_size"
            yield Remark(kind="evaluation-generations", about="generations", key=path, note=note)
