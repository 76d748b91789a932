"""What can be changed of a setup so that it needs less memory, and what each change costs.

The factors of speed are counts, not measurements: a step is one forward and one backward pass of about twice its work,
so a second forward pass is a third more (Chen et al. 2016, "Training deep nets with sublinear memory cost"); each
micro-batch dequantizes the whole base again, a few percent where batches are not tiny.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from ..setup.changed import with_value
from ..setup.resolved import Resolved

if TYPE_CHECKING:
    from ..setup.setup import Setup

Prefer = Literal["closest", "quality", "speed", "memory"]

SHORTEST = 128
"""Tokens below which no shorter samples are offered."""


@dataclass(frozen=True)
class Operation:
    """A value at a canonical path."""

    path: str
    value: Any

    @property
    def pointer(self) -> str:
        """Its JSON pointer in native names."""
        return "/" + self.path.replace(".", "/")


@dataclass(frozen=True)
class Lever:
    """One change.

    Attributes:
        kind: levers of one kind exclude each other.
        change: in words.
        speed: expected time of a step as a multiple.
        speed_note: where that time goes.
        rounds: whether numbers come out differently within rounding: other types, other optimizer state.
        alters: what it changes of what is learned; None where it changes nothing of that.
    """

    kind: str
    change: str
    operations: tuple[Operation, ...]
    speed: float = 1.0
    speed_note: str | None = None
    rounds: bool = False
    alters: str | None = None

    def applied(self, setup: Setup) -> Setup:
        """The setup with this change."""
        for operation in self.operations:
            setup = with_value(setup, operation.path, operation.value)
        return setup


Combination = tuple[Lever, ...]


def applied(setup: Setup, levers: Sequence[Lever]) -> Setup:
    """The setup with all of these changes."""
    for lever in levers:
        setup = lever.applied(setup)
    return setup


def levers_of(setup: Setup, evaluation_batch: int | None = None) -> list[Lever]:
    """Every change that could lower the peak and leaves what is learned as it is, those that cost least first."""
    return list(_harmless(setup, Resolved(setup), evaluation_batch))


def altering_levers(setup: Setup, sequence: int) -> list[Lever]:
    """The changes that alter what is learned, the mildest first.

    Args:
        sequence: tokens of a sample as the setup is.
    """
    return list(_altering(setup, Resolved(setup), sequence))


def _harmless(setup: Setup, resolved: Resolved, evaluation_batch: int | None) -> Iterator[Lever]:
    training = setup.training
    plain = resolved.trainer == "transformers"
    if resolved["model.attn_implementation"] == "eager":
        yield Lever("attention", "fused attention (sdpa)", (Operation("model.attn_implementation", "sdpa"),), 0.9)
    if not setup.hardware.expandable_segments:
        yield Lever("segments", "expandable segments", (Operation("hardware.expandable_segments", True),))
    batch = resolved["training.per_device_train_batch_size"] or 1
    if evaluation_batch is not None and evaluation_batch > 1:
        smaller = min(batch, evaluation_batch // 2)
        yield Lever(
            "evaluation",
            f"evaluation batch {smaller}",
            (Operation("training.per_device_eval_batch_size", smaller),),
            speed_note="evaluations take more passes",
        )
    if plain and setup.dialect == "native" and training.method in (None, "sft") and _has_trl():
        loss = (Operation("training.trainer", "trl"),)
        yield Lever("loss", "TRL's loss (holds no logits)", loss, rounds=True)  # its adapter is in 16 bits
    optim = str(resolved["training.optim"] or "adamw_torch")
    if "paged" not in optim and optim.startswith("adamw"):
        yield Lever(
            "optimizer",
            "a paged 8-bit optimizer",
            (Operation("training.optim", "paged_adamw_8bit"),),
            1.02,
            "its state is unpacked in each step",
            rounds="8bit" not in optim,
        )
    checkpoints = resolved["training.gradient_checkpointing"]
    if checkpoints is False:
        yield Lever(
            "checkpointing",
            "gradient checkpointing",
            (
                Operation("training.gradient_checkpointing", True),
                Operation("training.gradient_checkpointing_kwargs", {"use_reentrant": False}),
            ),
            1.33,
            "every forward pass is made twice",
        )
    yield from _micro_batches(batch, resolved["training.gradient_accumulation_steps"] or 1)
    if plain and resolved["training.prepare_for_kbit_training"] and checkpoints is not None:
        operations = [Operation("training.prepare_for_kbit_training", False)]
        if checkpoints:  # it was prepare_model_for_kbit_training that made inputs ask for gradients
            operations += [
                Operation("training.gradient_checkpointing", True),
                Operation("training.gradient_checkpointing_kwargs", {"use_reentrant": False}),
            ]
        yield Lever("float32", "embeddings and norms left in 16 bits", tuple(operations), 0.98, rounds=True)


def _has_trl() -> bool:
    """Whether trl is here, or nothing that trains is: then the training runs elsewhere."""
    return find_spec("trl") is not None or find_spec("torch") is None


def _micro_batches(batch: int, accumulation: int) -> Iterator[Lever]:
    """The same number of samples an update, in smaller batches."""
    for parts in (part for part in range(2, batch + 1) if batch % part == 0):
        yield Lever(
            "batch",
            f"batch {batch // parts} × {accumulation * parts} accumulated instead of {batch} × {accumulation}",
            (
                Operation("training.per_device_train_batch_size", batch // parts),
                Operation("training.gradient_accumulation_steps", accumulation * parts),
            ),
            1 + 0.05 * (parts - 1).bit_length(),
            f"{parts} passes where there was one, each unpacks the base again",
        )


def _altering(setup: Setup, resolved: Resolved, sequence: int) -> Iterator[Lever]:
    for eighths in (7, 6, 5, 4, 3, 2, 1):
        length = sequence * eighths // 8 // 64 * 64
        if length >= SHORTEST:
            yield shorter(sequence, length)
    rank = resolved["lora.r"]
    if isinstance(rank, int) and rank > 8:
        yield Lever(
            "rank",
            f"rank {rank // 2} instead of {rank}",
            (Operation("lora.r", rank // 2),),
            alters="the adapter can learn less",
        )
    if setup.lora.target_modules == "all-linear":
        names = ["q_proj", "k_proj", "v_proj", "o_proj"]
        yield Lever(
            "targets",
            "adapters on the attention projections alone",
            (Operation("lora.target_modules", names),),
            0.95,
            alters="the MLP layers learn nothing",
        )
    smaller = smaller_base(setup.model.name_or_path)
    if smaller is not None:
        yield Lever(
            "base", f"{smaller} as the base", (Operation("model.name_or_path", smaller),), 0.6, alters="another model"
        )


def shorter(sequence: int, length: int) -> Lever:
    """Samples cut at fewer tokens."""
    return Lever(
        "length",
        f"samples of at most {length:,} tokens instead of {sequence:,}",
        (Operation("training.max_length", length),),
        length / sequence,
        "shorter samples",
        alters="longer samples are cut",
    )


def smaller_base(name: str | None) -> str | None:
    """The next smaller model of the same family that is known, by the size in its name; None where there is none."""
    from ..tables.architectures import ARCHITECTURE_IDS

    size = re.search(r"(?<![\d.])(\d+(?:\.\d+)?)[bB](?![a-zA-Z])", name or "")
    if name is None or size is None:
        return None
    form = re.compile(re.escape(name[: size.start()]) + r"(\d+(?:\.\d+)?)[bB]" + re.escape(name[size.end() :]) + "$")
    sizes = [(float(found[1]), each) for each in ARCHITECTURE_IDS if (found := form.match(each))]
    below = [pair for pair in sizes if pair[0] < float(size[1])]
    return max(below)[1] if below else None


def combinations(levers: Sequence[Lever], prefer: Prefer = "closest") -> list[Combination]:
    """All sets of levers with at most one of a kind, the preferred first."""
    kinds: dict[str, list[Lever | None]] = {}
    for lever in levers:
        kinds.setdefault(lever.kind, [None]).append(lever)
    every = [tuple(lever for lever in chosen if lever is not None) for chosen in itertools.product(*kinds.values())]
    return sorted((each for each in every if each), key=lambda each: _cost(each, prefer))


def speed_of(levers: Combination) -> float:
    """Expected time of a step with all of them, as a multiple."""
    product = 1.0
    for lever in levers:
        product *= lever.speed
    return product


def _cost(levers: Combination, prefer: Prefer) -> tuple[float, ...]:
    altering = sum(lever.alters is not None for lever in levers)
    rounds = sum(lever.rounds for lever in levers)
    speed = round(speed_of(levers), 3)
    if prefer == "speed":
        return speed, altering, rounds, len(levers)
    if prefer == "quality":
        return altering, rounds, speed, len(levers)
    if prefer == "memory":
        return altering, -len(levers), -speed  # what saves the most of a kind costs the most time
    return altering, len(levers), rounds, speed
