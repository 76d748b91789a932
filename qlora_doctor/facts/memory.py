"""The memory peak of a step, predicted and measured (stage ``memory``; measured in ``load`` and ``step``)."""

from typing import Annotated

from pydantic import AfterValidator

from .base import Fact

Share = Annotated[float, AfterValidator(lambda value: round(value, 4))]
"""A place from 0 to 1, as finely as anything is drawn."""


class PhasePeak(Fact):
    """Highest allocation within a phase."""

    phase: str
    peak_allocated_bytes: int
    peak_reserved_bytes: int | None = None


class TimelinePoint(Fact):
    """Memory in use at one moment; ``at`` runs from 0 to 1 over the recorded steps."""

    at: Share
    allocated_bytes: int
    phase: str


class Saving(Fact):
    """What a change of the setup would save, computed by predicting the changed setup."""

    change: str
    pointer: str | None = None
    """JSON pointer of the key to change, in native names."""
    value: str | None = None
    peak_allocated_bytes: int
    saved_bytes: int


class PlanCell(Fact):
    """One predicted setup of a batch × sequence table."""

    batch: int
    sequence: int
    peak_allocated_bytes: int
    peak_reserved_bytes: int
    fits: bool | None = None
    traced: bool = False
    """True where this cell was traced itself, False where it follows from the traced ones."""


class PlanPoint(Fact):
    """A batch and a sequence length that fit together."""

    batch: int
    sequence: int
    at_least: bool = False
    """Whether the search ended here, and not what fits."""


class Change(Fact):
    """One change of a setup."""

    change: str
    """In words: ``gradient checkpointing``, ``batch 1 with 8 accumulated``."""
    pointer: str
    """JSON pointer of the key to change, in native names."""
    value: str
    """As it would stand in a config."""


class Cure(Fact):
    """A setup that differs from the given one in some changes, predicted as a whole."""

    changes: list[Change]
    peak_allocated_bytes: int
    peak_reserved_bytes: int
    fits: bool | None = None
    """Whether it stays below the card or the budget with the prediction's error band; None where neither is known."""
    speed: float = 1.0
    """Expected time of a step as a multiple of the given setup's; rough, from counts of passes, not measured."""
    speed_note: str | None = None
    """Where the time goes."""
    alters: bool = False
    """Whether it changes what is learned: other samples, another adapter."""
    alters_note: str | None = None


class CardPlan(Fact):
    """A batch × sequence table of predicted peaks, held against one card."""

    card: str
    card_bytes: int | None = None
    """Memory of the card that a process can use; None where no card is meant and nothing is held against it."""
    bf16: bool | None = None
    """Whether the card computes in bfloat16; before compute capability 8.0 it only emulates it."""
    cells: list[PlanCell]
    """Every batch with every sequence."""
    frontier: list[PlanPoint]
    """For each batch of the table that fits at all, the longest sequence of the table that fits."""
    largest_batch: PlanPoint | None = None
    """Most samples a batch at the setup's own length; None where not even one fits."""
    longest_sequence: PlanPoint | None = None
    """Most tokens a sample at the setup's own batch, in steps of 64; None where not even 64 fit."""
    asked: PlanCell | None = None
    """The batch and length that is asked about: the only one of the table, else the setup's own."""
    instead: PlanPoint | None = None
    """Where that does not fit: the same length at a smaller batch, else the longest at batch 1."""
    cure: Cure | None = None
    """Where that does not fit: changes with which it does, that do not change what is learned."""


class SufficientCard(Fact):
    """A card that holds the setup as it is, the prediction's error band included."""

    card: str
    card_bytes: int
    bf16: bool
    share: float
    """Predicted peak reserved as a share of the card."""


class MemoryPicture(Fact):
    """One account of a peak, predicted or measured, in the terms of torch.cuda's counters."""

    peak_allocated_bytes: int | None = None
    peak_reserved_bytes: int | None = None
    breakdown: dict[str, int] | None = None
    """Bytes in use at the moment of the peak, by part: ``base_4bit``, ``quantization_statistics``, ``base_16bit``,
    ``base_32bit``, ``adapter``, ``gradients``, ``optimizer``, ``activations``, ``logits_and_loss``,
    ``dequantized_weights``, ``workspaces``, ``fragmentation``."""
    phases: list[PhasePeak] | None = None
    """The parts of the run: ``load``, ``step`` (before an evaluation), and as far as there are any ``evaluation`` (and
    all after it), ``generation`` (within a step) and ``save``; the peaks are the largest of theirs."""
    step_phases: list[PhasePeak] | None = None
    """The phases within load and step: ``load``, ``prepare``, ``adapter``, ``forward``, ``backward``, ``optimizer``."""
    timeline: list[TimelinePoint] | None = None
    device: str | None = None
    batch: int | None = None
    sequence: int | None = None
    versions: dict[str, str] | None = None
    """The package versions that the picture is for."""
    assumptions: list[str] | None = None
    """What was taken as given because the config does not say it, one sentence each."""


class MemoryFacts(Fact):
    """Predicted and measured peaks, and the card they are held against."""

    predicted: MemoryPicture | None = None
    measured: MemoryPicture | None = None
    prediction_failure: str | None = None
    """Why there is no prediction; what is certain all the same stands in ``certain_bytes``."""
    refusal: str | None = None
    """The exception that the model's own code raises for the batch that its trainer makes; the run would stop at it."""
    certain_bytes: int | None = None
    """A lower bound of the peak: base and adapter as loaded; beside a prediction what the base alone takes with any
    change of the training, where that is more than there is room for. None where a card may hold only a part."""
    card: str | None = None
    card_bytes: int | None = None
    """Memory of the card that a process can use: total less the CUDA context."""
    context_bytes: int | None = None
    predicted_ratio: float | None = None
    """Predicted peak reserved of the whole run as a share of card_bytes."""
    step_ratio: float | None = None
    """Predicted peak reserved of the steps alone, without evaluation, as a share of card_bytes."""
    measured_ratio: float | None = None
    difference_ratio: float | None = None
    """(predicted − measured) / measured of peak allocated."""
    margin_ratio: float | None = None
    """Error band of the prediction."""
    savings: list[Saving] | None = None
    cure: Cure | None = None
    """Where the run does not fit: the closest changes with which it does."""
    cures: list[Cure] | None = None
    """All changes that were predicted, the cure first."""
    cure_changes: str | None = None
    """The changes of the cure as one phrase."""
    plan: list[PlanCell] | None = None
    """Cells of the first card's table (command ``plan``)."""
    plans: list[CardPlan] | None = None
    """A table for each card that was asked for (command ``plan``)."""
    plan_traces: int | None = None
    """How many steps were traced for all tables together."""
    plan_verified_ratio: float | None = None
    """Largest relative difference between a cell of a table and its own trace."""
    plan_notes: list[str] | None = None
    """How the sizes of all cells were found and verified; one sentence each."""
    sufficient_cards: list[SufficientCard] | None = None
    """Known cards that hold the setup's own batch and length, smallest first."""
    load_peak_bytes: int | None = None
    """Predicted highest allocation of from_pretrained itself, for the loader of the versions predicted for."""
    evaluation_peak_bytes: int | None = None
    """Predicted peak allocated of an evaluation at the evaluation batch; None where the config asks for none."""
    step_peak_bytes: int | None = None
    """Predicted peak allocated of the training steps alone."""
    evaluation_logits_bytes: int | None = None
    """Logits that an evaluation holds until its end; 0 where it keeps only the loss."""
    logits_bytes: int | None = None
    """Logits and loss at the predicted peak of a step."""
    logits_ratio: float | None = None
    """Their share of it."""
    activations_ratio: float | None = None
    """Share of the activations in the predicted peak of a step."""
    peak_phase: str | None = None
    """The part of the run that decides how much is reserved: ``load``, ``step``, ``evaluation``, ``generation``."""
    without_checkpointing_bytes: int | None = None
    with_checkpointing_bytes: int | None = None
