"""Tables of predicted peaks for the cards that were asked for, as facts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ..facts import Facts, MemoryFacts
from ..facts.memory import CardPlan, PlanCell, PlanPoint, SufficientCard
from ..tables.cards import Card, UnknownCard, card_for_memory, find_card, parse_memory

if TYPE_CHECKING:
    from ..setup.setup import Setup
    from .machine import Machine
    from .plan import Plan, Planner
    from .predict import Prediction

Tell = Callable[[str], None]

MOST_TOKENS = 131_072
"""Tokens at which the search for the longest sequence ends where the model sets no end."""


class Request(Protocol):
    """What is asked for (``probes.child.job.PlanRequest``)."""

    @property
    def cards(self) -> tuple[str, ...]: ...
    @property
    def batches(self) -> tuple[int, ...] | None: ...
    @property
    def sequences(self) -> tuple[int, ...] | None: ...


def card_named(text: str) -> Card:
    """A card by name, or one of which only the memory is known.

    Raises:
        UnknownCard: it is neither a known name nor a memory size.
    """
    try:
        return find_card(text)
    except UnknownCard:
        try:
            return card_for_memory(parse_memory(text))
        except ValueError:
            pass
        raise


def look_at_plan(
    setup: Setup, facts: Facts, request: Request, progress: Tell, *, offline: bool = True, architecture: Any = None
) -> MemoryFacts:
    """The tables, and the prediction of the setup's own batch and length on the first card.

    Where the step cannot be traced the facts say why, and what is certain all the same.

    Raises:
        StageError: the model cannot be built; see ``qlora_doctor.pipeline``.
    """
    from ..pipeline.batches import context_length
    from .plan import BATCHES, Planner, lengths_for
    from .predict import PredictionError, certain_bytes
    from .scope import unmodelled, unmodelled_model
    from .stage import (
        STAND_IN,
        allocator_assumptions,
        assumed_of_cards,
        assumed_of_evaluation,
        described,
        evaluation_batch_of,
        is_sharded,
        machine_for,
        target_card,
    )
    from .subject import subject_of_setup

    cards: list[Card | None] = [card_named(name) for name in request.cards] or [target_card(setup, facts)]
    machines = [machine_for(setup, card) for card in cards]
    progress("building the model without weights")
    subject = subject_of_setup(setup, architecture=architecture, offline=offline)
    reason = unmodelled(setup, facts) or unmodelled_model(subject.model, setup)
    if reason is not None:
        certain = None if is_sharded(setup) else certain_bytes(subject.model)
        return MemoryFacts(prediction_failure=reason, certain_bytes=certain)
    makers = [subject]

    def make() -> Any:
        return makers.pop() if makers else subject_of_setup(setup, architecture=architecture, offline=offline)

    limit = context_length(subject.model.config)
    own = subject.step.batch, subject.step.sequence
    planner = Planner(
        make,
        request.batches or _around(BATCHES, own[0]),
        request.sequences or _around(lengths_for(limit), own[1]),
        progress,
        evaluation_batch_of(facts),
    )
    try:
        prediction = planner.prediction(machines[0], *own)
        plans = [_card_plan(planner, machine, card, own, limit) for machine, card in zip(machines, cards, strict=True)]
    except PredictionError as error:
        return MemoryFacts(prediction_failure=error.message, refusal=error.refusal, certain_bytes=error.certain_bytes)
    prediction.assumptions += [*allocator_assumptions(setup), *assumed_of_cards(setup), *assumed_of_evaluation(facts)]
    if cards[0] is None:
        prediction.assumptions.append(
            f"No card is named and none is here: kernels are those of the {STAND_IN}, and no card is held against it."
        )
    tables = [table for table, _ in plans]
    return MemoryFacts.model_validate(
        described(prediction, planner.tracer.subject, cards[0])
        | {
            "predicted": prediction.picture(),
            "margin_ratio": prediction.margin,
            "plan": plans[0][1].cells,
            "plans": [fact for _, fact in plans],
            "plan_traces": planner.traces,
            "plan_verified_ratio": max(
                (table.verified for table in tables if table.verified is not None), default=None
            ),
            "plan_notes": _notes(tables, limit, planner.sequences),
            "sufficient_cards": _sufficient(prediction, prediction.margin),
        }
    )


def _card_plan(
    planner: Planner, machine: Machine, card: Card | None, own: tuple[int, int], limit: int | None
) -> tuple[Plan, CardPlan]:
    batch, sequence = own
    table = planner.table(machine, held=card is not None)
    space = table.capacity_bytes
    largest = planner.largest_batch(machine, sequence, space) if space is not None else None
    longest = planner.longest_sequence(machine, batch, space, limit or MOST_TOKENS) if space is not None else None
    fact = CardPlan(
        card=machine.card.name,
        card_bytes=space,
        bf16=None if card is None else card.bf16,
        cells=[
            PlanCell(
                batch=cell.batch,
                sequence=cell.sequence,
                peak_allocated_bytes=cell.peak_allocated_bytes,
                peak_reserved_bytes=cell.peak_reserved_bytes,
                fits=cell.fits,
                traced=cell.traced,
            )
            for cell in table.cells
        ],
        frontier=[PlanPoint(batch=each, sequence=length) for each, length in sorted(table.frontier.items())],
        largest_batch=None if largest is None else PlanPoint(batch=largest, sequence=sequence),
        longest_sequence=None if longest is None else PlanPoint(batch=batch, sequence=longest),
    )
    return table, fact


def _around(usual: Sequence[int], own: int) -> tuple[int, ...]:
    """The usual values, the nearest of them replaced by the setup's own."""
    if own in usual:
        return tuple(usual)
    nearest = min(usual, key=lambda value: abs(value - own))
    return tuple(sorted(own if value == nearest else value for value in usual))


def _notes(tables: Sequence[Plan], limit: int | None, sequences: Sequence[int]) -> list[str]:
    notes = list(dict.fromkeys(note for table in tables for note in table.notes))
    if limit is not None and max(sequences) > limit:
        notes.append(f"The model has positions for {limit:,} tokens; longer samples need a change of its config.")
    return notes


def _sufficient(prediction: Prediction, margin: float) -> list[SufficientCard]:
    from .plan import capacity, cards_that_fit

    reserved = prediction.peak_reserved_bytes
    return [
        SufficientCard(card=card.name, card_bytes=capacity(card), bf16=card.bf16, share=reserved / capacity(card))
        for card in cards_that_fit(round(reserved * (1 + margin)))
    ]
