"""Answers that a model writes itself in a step: transformers' own ``generate``, of which few tokens are traced.

Each further token does what the one before it did, with a cache that is one token longer, so two of them tell all. At
most :data:`STEPS` of them are written to the tape, evenly spread; the longest cache is always among them.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch

from .operators import SAMPLED
from .tape import ALLOC, FREE, OPEN, Kernel, Tape
from .trace import Recorder

TRACED = 6
"""Tokens that are really written; the first ones and the last do not end as those between them do."""
STEPS = 48
"""Tokens more that are written to the tape at most."""


class NotRegular(RuntimeError):
    """Two tokens in a row did not do the same."""


@contextmanager
def short_answers(model: Any, recorder: Recorder, tokens: int) -> Iterator[None]:
    """Within, ``model.generate`` gives answers of ``tokens`` tokens each, most of them without running the model.

    Raises:
        NotRegular: by ``generate``, where two tokens in a row do not take the same course.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    original, forward = model.generate, base.forward

    def generate(*args: Any, generation_config: Any = None, **kwargs: Any) -> torch.Tensor:
        places: list[int] = []

        @functools.wraps(forward)  # ``generate`` asks for its signature
        def counted(*given: Any, **named: Any) -> Any:
            places.append(len(recorder.tape.events))
            return forward(*given, **named)

        settings = copy.deepcopy(generation_config)
        settings.max_new_tokens = min(tokens, TRACED)
        settings.min_new_tokens = None
        with patch.object(base, "forward", counted):
            out: torch.Tensor = original(*args, generation_config=settings, **kwargs)
        if tokens > TRACED:
            write_more(recorder.tape, (places[-3], places[-2], places[-1]), tokens - TRACED)
        rows, length = int(out.shape[0]), int(kwargs["input_ids"].shape[1])
        return whole(recorder, kwargs["input_ids"], rows, length + tokens)

    with patch.object(model, "generate", generate):
        yield


def whole(recorder: Recorder, prompts: torch.Tensor, rows: int, length: int) -> torch.Tensor:
    """Prompts and answers as ``generate`` returns them, their values known."""
    out = torch.empty((rows, length), dtype=torch.int64, device=prompts.device)
    known = recorder.values.get(prompts)
    value = torch.full((rows, length), SAMPLED)
    if known is not None:
        value[:, : known.shape[1]] = known
    if out.device.type == "meta":
        recorder.values.know(out, value)
        return out
    return value


def write_more(tape: Tape, begins: tuple[int, int, int], tokens: int) -> None:
    """Write what ``tokens`` further tokens take before the last one that was traced.

    Args:
        begins: where the last three tokens begin in the tape's events.

    Raises:
        NotRegular: the first two of them do not do the same.
    """
    before, last, end = begins
    one, two = tape.events[before:last], tape.events[last:end]
    first, second = _allocations(one), _allocations(two)
    kernels_one, kernels_two = _kernels(one), _kernels(two)
    alike = [event & 3 for event in one] == [event & 3 for event in two]
    if not alike or len(first) != len(second) or len(kernels_one) != len(kernels_two):
        raise NotRegular("tokens that are generated do not take the same course")
    earlier = {index: place for place, index in enumerate(first)}
    own = {index: place for place, index in enumerate(second)}
    kernel_places = {index: place for place, index in enumerate(kernels_two)}
    current = list(second)
    written: list[int] = []
    for token in _spread(tokens):
        previous, current = current, []
        for event in two:
            kind, index = event & 3, event >> 2
            if kind == ALLOC:
                grown = tape.sizes[index] - tape.sizes[first[own[index]]]
                made = len(tape.sizes)
                tape.sizes.append(tape.sizes[index] + grown * token)
                tape.categories.append(tape.categories[index])
                if index in tape.streams:
                    tape.streams[made] = tape.streams[index]
                current.append(made)
                written.append(made << 2 | ALLOC)
            elif kind == FREE:
                if index in own:
                    written.append(current[own[index]] << 2 | FREE)
                elif index in earlier:
                    written.append(previous[earlier[index]] << 2 | FREE)
                # What came before both tokens is gone already.
            else:
                place = kernel_places[index]
                if kind == OPEN:
                    was, now = tape.kernels[kernels_one[place]], tape.kernels[index]
                    shape = tuple(b + (b - a) * token for a, b in zip(was.shape, now.shape, strict=True))
                    tape.kernels.append(Kernel(now.rule, shape))
                written.append((len(tape.kernels) - 1) << 2 | kind)
    # What the last traced token left behind is what the last written one leaves.
    renamed = {index: current[place] for index, place in own.items()}
    rest = [
        (renamed.get(event >> 2, event >> 2) << 2 | FREE) if event & 3 == FREE else event for event in tape.events[end:]
    ]
    tape.events[end:] = [*written, *rest]
    tape.phases = [(place + len(written) if place > end else place, name) for place, name in tape.phases]


def _spread(tokens: int) -> list[int]:
    """Which of so many tokens are written, counted from those that were traced; the last is always among them."""
    if tokens <= STEPS:
        return list(range(1, tokens + 1))
    return sorted({-(-tokens * step // STEPS) for step in range(1, STEPS + 1)})


def _allocations(events: list[int]) -> list[int]:
    return [event >> 2 for event in events if event & 3 == ALLOC]


def _kernels(events: list[int]) -> list[int]:
    return [event >> 2 for event in events if event & 3 == OPEN]
