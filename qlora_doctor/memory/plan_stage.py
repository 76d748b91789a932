"""Tables of predicted peaks for the cards that were asked for, as facts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..facts import Facts, MemoryFacts
from ..facts.memory import CardPlan, Cure, PlanCell, PlanPoint, SufficientCard
from ..tables.cards import Card, UnknownCard, card_for_memory, find_card, parse_memory
from . import Progress, Tell, tell_nobody
from .kept import NotKept, Outline, Traces, folded_for
from .plan import LENGTH_STEP, MOST_BATCHES

if TYPE_CHECKING:
    from ..setup.setup import Setup
    from .few_layers import FewLayers
    from .folded_tapes import FoldedTapes
    from .machine import Machine
    from .plan import Cell, Plan, Planner
    from .predict import Prediction


MOST_TOKENS = 131_072
"""Tokens at which the search for the longest sequence ends where the model sets no end."""


class Request(Protocol):
    """What is asked for (``worker.job.PlanRequest``)."""

    @property
    def cards(self) -> tuple[str, ...]: ...
    @property
    def batches(self) -> tuple[int, ...] | None: ...
    @property
    def sequences(self) -> tuple[int, ...] | None: ...
    @property
    def kept(self) -> str | None: ...


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


def recalled_plan(setup: Setup, facts: Facts, request: Request) -> MemoryFacts | None:
    """The tables from what earlier questions on the same model left, or what comes with the package, without torch.

    None if that is too little.

    Raises:
        UnknownCard: the config names a card that the table does not know.
    """
    from .scope import unmodelled
    from .shipped import shipped_for

    kept = Traces.read(Path(request.kept) if request.kept is not None else None, setup.lora.r)
    if kept.outline is not None:
        kept.folded = folded_for(setup, kept)
        with contextlib.suppress(NotKept):
            return _look(setup, facts, request, lambda text: None, kept, None)
    shipped = shipped_for(setup)
    if shipped is None or unmodelled(setup, facts) is not None:
        return None
    try:
        return _look(setup, facts, request, lambda text: None, Traces(shipped.outline, folded=shipped), None)
    except NotKept:
        return None


def look_at_plan(
    setup: Setup, facts: Facts, request: Request, progress: Progress, tell: Tell = tell_nobody,
    *, offline: bool = True,
) -> MemoryFacts:  # fmt: skip
    """The tables, and the prediction of the batch and length that are asked about on the first card.

    Where the step cannot be traced the facts say why, and what is certain all the same. What was traced is written to
    ``request.kept``.

    Raises:
        StageError: the model cannot be built; see ``qlora_doctor.pipeline``.
    """
    from ..pipeline import load_config
    from .few_layers import FewLayers
    from .predict import PredictionError, certain_bytes
    from .scope import unmodelled, unmodelled_model
    from .stage import is_sharded
    from .subject import subject_of_setup

    progress("building the model without weights")
    architecture = load_config(setup, offline=offline)
    subject = subject_of_setup(setup, architecture=architecture, offline=offline)
    reason = unmodelled(setup, facts) or unmodelled_model(subject.model, setup)
    if reason is not None:
        certain = None if is_sharded(setup) else certain_bytes(subject.model)
        return MemoryFacts(prediction_failure=reason, certain_bytes=certain)
    makers = [subject]

    def make() -> Any:
        return makers.pop() if makers else subject_of_setup(setup, architecture=architecture, offline=offline)

    kept = Path(request.kept) if request.kept is not None else None
    traces = Traces.read(kept, setup.lora.r)
    traces.outline = subject.outline
    traces.folded = folded_for(setup, traces)
    folding = FewLayers(setup, architecture, subject, traces, progress)
    try:
        found = _look(setup, facts, request, progress, traces, make, tell, folding)
    except PredictionError as error:
        return MemoryFacts(prediction_failure=error.message, refusal=error.refusal, certain_bytes=error.certain_bytes)
    if kept is not None:
        with contextlib.suppress(OSError):  # a folder that cannot be written costs the next question its time
            traces.write(kept)
    return found


def _look(
    setup: Setup, facts: Facts, request: Request, progress: Progress, traces: Traces, make: Callable[[], Any] | None,
    tell: Tell = tell_nobody, folding: FewLayers | None = None,
) -> MemoryFacts:  # fmt: skip
    from .plan import BATCHES, Planner, lengths_for
    from .stage import described, evaluation_batch_of, machine_for, target_card, unfinished

    cards: list[Card | None] = [card_named(name) for name in request.cards] or [target_card(setup, facts)]
    machines = [machine_for(setup, card) for card in cards]
    outline = traces.outline
    assert outline is not None
    own = _own(setup, outline, request)
    planner = Planner(
        make,
        request.batches or _around(BATCHES, own[0]),
        request.sequences or _around(lengths_for(outline.limit), own[1]),
        progress,
        evaluation_batch_of(facts),
        traces,
    )
    longest = max(own[1], *planner.sequences)

    def fold(alone: bool) -> None:
        if folding is not None:
            planner.tracer.count += sum(folding.fold(machine, alone, longest) for machine in machines)

    fold(own[0] == 1)
    prediction = planner.prediction(machines[0], *own)
    tell(unfinished(described(prediction, outline, cards[0]), prediction))
    fold(own[0] != 1)
    of_table = planner.traces
    plans = [
        _card_plan(planner, machine, card, own, outline.limit) for machine, card in zip(machines, cards, strict=True)
    ]
    plans = [
        (table, fact.model_copy(update={"cure": _cure(setup, facts, planner, card, fact, progress)}))
        for card, (table, fact) in zip(cards, plans, strict=True)
    ]
    prediction.assumptions += _assumed(setup, facts, cards[0])
    tables = [table for table, _ in plans]
    return MemoryFacts.model_validate(
        described(prediction, outline, cards[0])
        | {
            "predicted": prediction.picture(),
            "margin_ratio": prediction.margin,
            "plan": plans[0][1].cells,
            "plans": [fact for _, fact in plans],
            "plan_traces": of_table if planner.is_one_cell else planner.traces,
            "plan_verified_ratio": max(
                (table.verified for table in tables if table.verified is not None), default=None
            ),
            "plan_notes": _notes(planner, tables, outline.limit, of_table),
            "sufficient_cards": _sufficient(prediction, prediction.margin),
        }
    )


def _assumed(setup: Setup, facts: Facts, card: Card | None) -> Iterator[str]:
    """What is taken as given of the machine and of the evaluation."""
    from .stage import STAND_IN, allocator_assumptions, assumed_of_cards, assumed_of_evaluation

    yield from allocator_assumptions(setup)
    yield from assumed_of_cards(setup, facts)
    yield from assumed_of_evaluation(setup, facts)
    if card is None:
        yield f"No card is named and none is here: kernels are those of the {STAND_IN}, and no card is held against it."


def _own(setup: Setup, outline: Outline, request: Request) -> tuple[int, int]:
    """The batch and length that are asked for, or the setup's own; the outline may be that of one with others."""
    if request.batches and request.sequences and len(request.batches) == len(request.sequences) == 1:
        return request.batches[0], request.sequences[0]
    length = setup.training.max_length
    if length is None:
        length = outline.sequence
    return (
        setup.training.per_device_train_batch_size or outline.batch,
        length if outline.limit is None else min(length, outline.limit),
    )


def _card_plan(
    planner: Planner, machine: Machine, card: Card | None, own: tuple[int, int], limit: int | None
) -> tuple[Plan, CardPlan]:
    table = planner.table(machine, held=card is not None)
    space = table.capacity_bytes
    asked = next((cell for cell in table.cells if (cell.batch, cell.sequence) == own), None)
    points: dict[str, Any] = {}
    if space is not None:
        points = _points(planner, machine, own, space, limit, asked)
    fact = CardPlan(
        card=machine.card.name,
        card_bytes=space,
        bf16=None if card is None else card.bf16,
        cells=[_cell(cell) for cell in table.cells],
        frontier=[PlanPoint(batch=each, sequence=length) for each, length in sorted(table.frontier.items())],
        asked=None if asked is None else _cell(asked),
        **points,
    )
    return table, fact


def _cure(
    setup: Setup, facts: Facts, planner: Planner, card: Card | None, plan: CardPlan, progress: Progress
) -> Cure | None:
    """Changes of what is asked about with which it fits, as far as what is learned stays the same."""
    asked = plan.asked
    if card is None or asked is None or asked.fits is not False or not planner.is_one_cell:
        return None
    traces = planner.tracer.traces
    kept, folded = traces.cures, traces.folded
    key = f"{card.name} r {traces.rank} {asked.batch} × {asked.sequence} {planner.evaluation_batch}"
    if key not in kept and (folded is not None or planner.tracer.make is not None):
        from ..setup.changed import with_value
        from .levers import levers_of
        from .searching import search_for
        from .shipped import shipped_for, signature
        from .stage import machine_for

        meant = with_value(setup, "training.per_device_train_batch_size", asked.batch)
        meant = with_value(meant, "training.max_length", asked.sequence)
        said = signature(meant)

        def folded_of(changed: Setup) -> FoldedTapes | None:
            return folded_for(changed, traces) if signature(changed) == said else shipped_for(changed)

        search = search_for(
            meant,
            facts,
            card,
            machine_of=machine_for,
            evaluation_batch=planner.evaluation_batch,
            architecture=None,
            offline=True,
            progress=progress,
            folded=planner.tracer.make is None,
            folded_of=shipped_for if folded is not None and folded.shipped else folded_of,
        )
        assert search is not None  # there is a card
        found = search.found(levers_of(meant, planner.evaluation_batch), "closest")
        kept[key] = None if found is None else found.model_dump()
    return None if kept.get(key) is None else Cure.model_validate(kept[key])


def _cell(cell: Cell) -> PlanCell:
    return PlanCell(
        batch=cell.batch,
        sequence=cell.sequence,
        peak_allocated_bytes=cell.peak_allocated_bytes,
        peak_reserved_bytes=cell.peak_reserved_bytes,
        fits=cell.fits,
        traced=cell.traced,
    )


def _points(
    planner: Planner, machine: Machine, own: tuple[int, int], space: int, limit: int | None, asked: Cell | None
) -> dict[str, PlanPoint | None]:
    """The ends of what fits around the batch and length that is asked about.

    Where one cell is asked about and fits, its one trace has answered, and the largest batch is reported only as far as
    traces that are there tell it.
    """
    batch, sequence = own
    answered = planner.is_one_cell and asked is not None and bool(asked.fits)
    points: dict[str, PlanPoint | None] = {}
    with planner.tracing(not answered), contextlib.suppress(*[NotKept] if answered else []):
        if planner.is_one_cell and not answered:
            return {"instead": _instead(planner, machine, own, space, limit)}
        largest = planner.largest_batch(machine, sequence, space)
        if largest is not None:
            points["largest_batch"] = PlanPoint(batch=largest, sequence=sequence, at_least=largest == MOST_BATCHES)
        if not planner.is_one_cell:
            points["longest_sequence"] = _longest(planner, machine, batch, space, limit)
    if asked is not None and not asked.fits:
        points["instead"] = points.get("largest_batch") or _instead(planner, machine, own, space, limit)
    return points


def _longest(planner: Planner, machine: Machine, batch: int, space: int, limit: int | None) -> PlanPoint | None:
    """The longest sequence at a batch; at least that where tapes, or the search, end before the model's positions."""
    end = planner.reach(machine, batch, limit or MOST_TOKENS) // LENGTH_STEP
    longest = planner.longest_sequence(machine, batch, space, end * LENGTH_STEP)
    beyond = limit is None or limit // LENGTH_STEP > end
    if longest is None:
        return None
    return PlanPoint(batch=batch, sequence=longest, at_least=beyond and longest == end * LENGTH_STEP)


def _instead(
    planner: Planner, machine: Machine, own: tuple[int, int], space: int, limit: int | None
) -> PlanPoint | None:
    """The same length at a smaller batch, else the longest at batch 1; None where not even 64 tokens fit."""
    batch, sequence = own
    longest = planner.longest_sequence(machine, 1, space, min(limit or MOST_TOKENS, sequence))
    if longest is None:
        return None
    if longest < sequence // LENGTH_STEP * LENGTH_STEP or batch == 1:
        return PlanPoint(batch=1, sequence=longest)
    largest = planner.largest_batch(machine, sequence, space) if batch > 2 else 1
    return PlanPoint(batch=largest or 1, sequence=sequence if largest else longest)


def _around(usual: Sequence[int], own: int) -> tuple[int, ...]:
    """The usual values, the nearest of them replaced by the setup's own."""
    if own in usual:
        return tuple(usual)
    nearest = min(usual, key=lambda value: abs(value - own))
    return tuple(sorted(own if value == nearest else value for value in usual))


def _notes(planner: Planner, tables: Sequence[Plan], limit: int | None, of_table: int) -> list[str]:
    notes = list(dict.fromkeys(note for table in tables for note in table.notes))
    if planner.is_one_cell and planner.traces > of_table:
        notes.append(f"What fits instead took {planner.traces - of_table} more traces.")
    traces = planner.tracer.traces
    if any(traces.pieces.values()):
        notes.append(
            "Sizes follow from traces of few of its layers, which repeat themselves; a deeper stack came out the same."
        )
    if traces.folded is not None and traces.folded.shipped:
        notes.append("All of it follows from traces that come with qlora-doctor; --no-cache traces the model here.")
    elif not planner.traces:
        notes.append("All of it follows from traces that an earlier question on this model left.")
    if limit is not None and max(planner.sequences) > limit:
        notes.append(f"The model has positions for {limit:,} tokens; longer samples need a change of its config.")
    return notes


def _sufficient(prediction: Prediction, margin: float) -> list[SufficientCard]:
    from .plan import capacity, cards_that_fit

    reserved = prediction.peak_reserved_bytes
    return [
        SufficientCard(card=card.name, card_bytes=capacity(card), bf16=card.bf16, share=reserved / capacity(card))
        for card in cards_that_fit(round(reserved * (1 + margin)))
    ]
