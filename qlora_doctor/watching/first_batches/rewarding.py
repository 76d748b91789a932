"""A script's own reward functions, called on made-up completions of its own prompts (GRPO, RLOO)."""

from __future__ import annotations

import asyncio
import inspect
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from .completing import completions_for

_PROMPTS = 3
_NONE = "none"
_PROCESSES = ("subprocess.Popen", "os.fork", "os.posix_spawn", "os.exec", "os.system")


@dataclass
class Rewarded:
    """What the functions did: sentences by kind."""

    names: list[str] = field(default_factory=list)
    raises: list[str] = field(default_factory=list)
    raises_on: list[str] = field(default_factory=list)
    counts: list[str] = field(default_factory=list)
    unusable: list[str] = field(default_factory=list)
    unscored: list[str] = field(default_factory=list)

    @property
    def facts(self) -> dict[str, Any]:
        """The sentences, as fields of ``DataFacts``."""
        return {
            "reward_functions": self.names,
            "reward_raises": _joined(self.raises),
            "reward_raises_on": _joined(self.raises_on),
            "reward_counts": _joined(self.counts),
            "reward_unusable": _joined(self.unusable),
            "reward_unscored": _joined(self.unscored),
        }

    @property
    def all_well(self) -> bool:
        """Whether no function did anything wrong."""
        return not (self.raises or self.raises_on or self.counts or self.unusable or self.unscored)


def reward_facts(
    trainer: Any,
    rows: Sequence[Any],
    tokenizer: Any,
    named: Callable[[Any], str | None],
    sentence: Callable[[BaseException], str],
    asked: Sequence[str],
) -> dict[str, Any]:
    """Fields of ``DataFacts``; nothing where the trainer takes no rewards, or a function needs what is not here.

    Args:
        trainer: one of trl; its ``_calculate_rewards`` says what a function is called with (trl from 0.20).
        rows: of its loader.
        named, sentence: words for a function and for an exception.
        asked: hosts that were asked for, which grows.
    """
    functions = getattr(trainer, "reward_funcs", None)
    rows = _different(rows)[:_PROMPTS]
    if not functions or not rows or getattr(trainer, "environments", None) is not None:
        return {}
    if not hasattr(trainer, "_calculate_rewards"):
        return {}
    away: list[str] = []
    sys.addaudithook(lambda event, given: away.append(event) if event in _PROCESSES else None)
    groups = [completions_for(row, functions) for row in rows]
    found = Rewarded()
    everything_heard = True
    total = [0.0] * sum(map(len, groups))
    scored = [False] * len(total)
    weights = _weights(trainer, len(functions))
    for function, weight in zip(functions, weights, strict=True):
        heard = _heard(trainer, function, rows, groups, tokenizer, found, named, sentence, asked)
        if heard is None:
            everything_heard = False
            continue
        for place, reward in enumerate(heard):
            if not math.isnan(reward):
                total[place] += weight * reward
                scored[place] = True
    if not found.names:
        return {}
    if any(scored):
        found.unscored.clear()
    known = found.facts | {"reward_completions": len(total)}
    if everything_heard and found.all_well and not asked and not away:
        known["reward_spread"] = _spread(total, groups)
        known["reward_sample"] = total[0]
    return known


def _heard(
    trainer: Any,
    function: Any,
    rows: Sequence[Mapping[str, Any]],
    groups: Sequence[Sequence[str]],
    tokenizer: Any,
    found: Rewarded,
    named: Callable[[Any], str | None],
    sentence: Callable[[BaseException], str],
    asked: Sequence[str],
) -> list[float] | None:
    """The rewards of one function, NaN where it gave None; None where nothing can be said or something is wrong."""
    from torch import nn

    if isinstance(function, nn.Module):  # a reward model has no weights here
        return None
    name = named(function) or "the reward function"
    pairs = [(row, text) for row, texts in zip(rows, groups, strict=True) for text in texts]
    hosts = len(asked)
    try:
        given = _call(trainer, function, pairs, tokenizer)
    except Exception as error:
        if len(asked) > hosts or is_not_here(error):
            return None
        found.names.append(name)
        stops: list[tuple[str, BaseException]] = []
        for row, text in pairs:
            try:
                _call(trainer, function, [(row, text)], tokenizer)
            except Exception as again:
                stops.append((text, again))
        if len(stops) in (0, len(pairs)):
            found.raises.append(f"{name}: {sentence(error)}")
        else:
            text, first = stops[0]
            shown = repr(text if len(text) <= 80 else text[:77] + "...")
            found.raises_on.append(f"{name} on {len(stops)} of {len(pairs)}, first on {shown}: {sentence(first)}")
        return None
    found.names.append(name)
    return _rewards(given, len(pairs), name, found)


def _call(trainer: Any, function: Any, pairs: Sequence[tuple[Mapping[str, Any], str]], tokenizer: Any) -> Any:
    """What a function returns when it is called as the trainer does it."""
    inputs = [dict(row) for row, _ in pairs]
    prompts = [row.get("prompt") for row in inputs]
    talk = isinstance(prompts[0], list)
    answers: list[Any] = [[{"role": "assistant", "content": text}] if talk else text for _, text in pairs]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] if tokenizer else [0] for _, text in pairs]
    arguments: dict[str, Any] = {}

    def listens(**given: Any) -> list[float]:
        arguments.update(given)
        return [0.0] * len(prompts)

    own = trainer.reward_funcs, trainer.reward_processing_classes, trainer.reward_func_names
    trainer.reward_funcs, trainer.reward_processing_classes, trainer.reward_func_names = [listens], [None], ["listens"]
    try:
        trainer._calculate_rewards(inputs, prompts, answers, ids)
    finally:
        trainer.reward_funcs, trainer.reward_processing_classes, trainer.reward_func_names = own
    made = function(**arguments)
    if not inspect.isawaitable(made):
        return made
    with ThreadPoolExecutor(1) as thread:  # this one may have a loop that runs
        return thread.submit(asyncio.run, _awaited(made)).result()


async def _awaited(made: Any) -> Any:
    return await made


def _rewards(given: Any, count: int, name: str, found: Rewarded) -> list[float] | None:
    try:
        rewards = list(given)
    except TypeError:
        found.unusable.append(f"{name} returns {_kind(given)}, no list of rewards")
        return None
    if len(rewards) != count:
        found.counts.append(f"{name} returns {len(rewards)} for {count}")
        return None
    numbers: list[float] = []
    for reward in rewards:
        if reward is None:
            numbers.append(math.nan)
            continue
        try:
            if isinstance(reward, str):
                raise TypeError
            number = float(reward)
        except (TypeError, ValueError):
            found.unusable.append(f"{name} returns {_kind(reward)} as a reward")
            return None
        if math.isinf(number):
            found.unusable.append(f"{name} returns infinity as a reward")
            return None
        numbers.append(number)
    if all(map(math.isnan, numbers)):
        found.unscored.append(name)
    return numbers


def _kind(value: Any) -> str:
    shown = repr(value)
    return f"{type(value).__name__} {shown[:40]}"


def is_not_here(error: BaseException) -> bool:
    """Whether code failed for what this process has not: weights, a GPU, the network."""
    seen: BaseException | None = error
    while seen is not None:
        text = f"{type(seen).__name__} {seen}".lower()
        if isinstance(seen, OSError | ImportError | MemoryError) or any(
            word in text for word in ("meta tensor", "cuda", "network", "offline", "connection", "api_key", "api key")
        ):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _spread(total: Sequence[float], groups: Sequence[Sequence[str]]) -> float:
    """The widest distance between two rewards of one prompt."""
    widest, at = 0.0, 0
    for group in groups:
        part = total[at : at + len(group)]
        widest, at = max(widest, max(part) - min(part)), at + len(group)
    return widest


def _weights(trainer: Any, count: int) -> list[float]:
    weights = getattr(trainer, "reward_weights", None)
    try:
        found = [float(each) for each in weights] if weights is not None else []
    except (TypeError, ValueError):
        found = []
    return found if len(found) == count else [1.0] * count


def _different(rows: Sequence[Any]) -> list[Mapping[str, Any]]:
    """Rows without the repetitions that the trainer's sampler makes of a prompt."""
    kept: list[Mapping[str, Any]] = []
    for row in rows:
        if isinstance(row, Mapping) and "prompt" in row and row not in kept[-8:]:
            kept.append(row)
    return kept


def _joined(sentences: Sequence[str]) -> str:
    return "; ".join(each.rstrip(".") for each in sentences) if sentences else _NONE
