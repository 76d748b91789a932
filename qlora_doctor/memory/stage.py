"""Stage ``memory``: the predicted peak of a setup's step, held against the card that it is meant for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..core.numbers import size
from ..facts import Facts, MemoryFacts
from ..facts.memory import Saving as SavingFact
from ..setup.resolved import Taken
from ..tables.cards import Card, UnknownCard, card_for_memory, find_card, match_device, parse_memory
from . import UNFINISHED, Progress, Tell, tell_nobody
from .kernel_switches import Unsloth

if TYPE_CHECKING:
    from ..facts.environment import Gpu
    from ..setup.setup import Setup
    from .cure import Room
    from .kept import Outline
    from .machine import Machine
    from .predict import Prediction, Saving
    from .traced_once import TracedOnce


FULL = 0.8
"""Share of the card from which it matters what a change would save; working it out takes as long as the prediction."""
STAND_IN = "RTX 4090"
"""The card whose kernels are predicted where no card is known: the most common one of 24 GB."""


def target_card(setup: Setup, facts: Facts) -> Card | None:
    """The card that the run is meant for: the one that the config names, else the one that is here, else None.

    Raises:
        UnknownCard: the config names a card that the table does not know, and no memory with it.
    """
    hardware = setup.hardware
    memory = None if hardware.memory is None else parse_memory(hardware.memory)
    if hardware.gpu is not None:
        try:
            card = find_card(hardware.gpu)
        except UnknownCard:
            if memory is None:
                raise
            return replace(card_for_memory(memory), name=hardware.gpu)
        return card if memory is None else replace(card, memory_bytes=memory, usable_bytes=memory)
    if memory is not None:
        return card_for_memory(memory)
    gpus = facts.environment.gpus if facts.environment is not None else None
    return _present_card(gpus[0]) if gpus else None


def _present_card(gpu: Gpu) -> Card:
    known = match_device(gpu.name, gpu.memory_bytes)
    if known is not None:
        return known
    card = replace(card_for_memory(gpu.memory_bytes), name=gpu.name)
    if gpu.capability is None:
        return card
    major, minor = divmod(round(gpu.capability * 10), 10)
    return replace(card, compute_capability=(major, minor))


def look_at_memory(
    setup: Setup,
    facts: Facts,
    progress: Progress,
    tell: Tell = tell_nobody,
    *,
    offline: bool = True,
    architecture: Any = None,
    known: TracedOnce | None = None,
    with_savings: bool = True,
) -> MemoryFacts:
    """Predict the peak of the run and hold it against the card.

    The prediction is reported as soon as it is known, where savings are still to be worked out. Where the kind of run
    is not modelled, or a step cannot be traced, the facts say why, and what is certain all the same.

    Raises:
        StageError: the model cannot be built; see ``qlora_doctor.pipeline``.
    """
    from .predict import PredictionError, certain_bytes, lasting_bytes, saved_bytes
    from .scope import unmodelled, unmodelled_model
    from .subject import subject_of_setup
    from .traced_once import TracedOnce

    card, unknown = _card_or_reason(setup, facts)
    machine = machine_for(setup, card)
    held = _held_against(card)
    reason = unmodelled(setup, facts)
    progress("tracing a step without weights" if reason is None else "building the model without weights")
    subject = subject_of_setup(setup, architecture=architecture, offline=offline)
    reason = reason or unmodelled_model(subject.model, setup)
    if reason is not None:
        return _unpredicted(setup, held, reason, certain_bytes(subject.model))
    known = known or TracedOnce(setup, architecture, offline=offline)
    floor = None if is_sharded(setup) else lasting_bytes(subject.model)
    saving = saving_of(setup)
    try:
        tapes = known.tapes(setup, machine, evaluation_batch_of(facts), subject)
        prediction = tapes.prediction(machine, None if saving is None else saved_bytes(subject, saving))
    except PredictionError as error:
        return _unpredicted(setup, held, error.message, error.certain_bytes, error.refusal)
    held |= _told(prediction, subject.outline, card, unknown, setup, facts)
    if room_for(facts, card).is_below(floor):
        held["certain_bytes"] = floor
        prediction.assumptions.append(
            f"The base alone takes {size(floor)} or more, with any change of the training; no change was looked at."
        )
    elif with_savings and _is_full(prediction, held.get("predicted_ratio"), facts):
        tell(unfinished(held, prediction))
        held |= _savings(setup, machine, prediction, facts, progress, known, offline=offline, architecture=architecture)
    elif with_savings:
        prediction.assumptions.append(
            f"What changes would save is worked out only for a peak above {FULL:.0%} of the card or above the budget."
        )
    return MemoryFacts.model_validate(held | {"predicted": prediction.picture()})


def _unpredicted(
    setup: Setup, held: dict[str, Any], reason: str, certain: int | None, refusal: str | None = None
) -> MemoryFacts:
    """What is said where there is no prediction: why, and what is certain of one card that holds all."""
    known = {"prediction_failure": reason, "refusal": refusal, "certain_bytes": None if is_sharded(setup) else certain}
    return MemoryFacts.model_validate(held | known)


def recalled_memory(setup: Setup, facts: Facts) -> MemoryFacts | None:
    """The prediction from traces that come with the package, without torch; None where they do not tell it.

    What a trainer saves takes the card no more than a step does: the adapter alone.
    """
    from .predict import prediction_of
    from .replay import replay
    from .scope import unmodelled
    from .shipped import shipped_tape

    saving = saving_of(setup)
    if evaluation_batch_of(facts) is not None or (saving is not None and saving.loads_best):
        return None
    if unmodelled(setup, facts) is not None:
        return None
    card, unknown = _card_or_reason(setup, facts)
    machine = machine_for(setup, card)
    found = shipped_tape(setup, machine)
    if found is None:
        return None
    outline, tape = found
    prediction = prediction_of(outline, machine, replay(tape, machine))
    prediction.assumptions.append("It follows from traces that come with qlora-doctor; check traces the model here.")
    held = _told(prediction, outline, card, unknown, setup, facts)
    return MemoryFacts.model_validate(held | {"predicted": prediction.picture()})


def _told(
    prediction: Prediction, outline: Outline, card: Card | None, unknown: str | None, setup: Setup, facts: Facts
) -> dict[str, Any]:
    """The facts of a prediction, the picture itself left out; what is taken as given is put with it."""
    if unknown is not None:
        prediction.assumptions.append(unknown)
    elif card is None:
        prediction.assumptions.append(
            f"No card is named and none is here: kernels are those of the {STAND_IN}, and no card is held against it."
        )
    prediction.assumptions += allocator_assumptions(setup)
    prediction.assumptions += assumed_of_cards(setup, facts)
    prediction.assumptions += assumed_of_evaluation(setup, facts)
    return described(prediction, outline, card) | {"margin_ratio": prediction.margin}


def unfinished(held: dict[str, Any], prediction: Prediction) -> MemoryFacts:
    """What is known of a setup before the changes of it are looked at, and that this is not all."""
    picture = prediction.picture()
    assumptions = [*(picture.assumptions or []), UNFINISHED]
    told = {"margin_ratio": prediction.margin, "predicted": picture.model_copy(update={"assumptions": assumptions})}
    return MemoryFacts.model_validate(held | told)


def room_for(facts: Facts, card: Card | None) -> Room:
    """What the run may take: the card and the budget."""
    from .cure import Room
    from .plan import capacity

    budget = facts.config.budget_peak_memory_bytes if facts.config is not None else None
    return Room(None if card is None else capacity(card), budget)


def sequence_of(setup: Setup) -> int:
    """Tokens of a full sample as far as the config alone says."""
    from ..setup.resolved import Resolved

    return int(Resolved(setup)["training.max_length"] or 512)


def machine_for(setup: Setup, card: Card | None) -> Machine:
    """The machine that the run is meant for; where no card is known the :data:`STAND_IN`."""
    from .machine import Machine, allocator_settings, has_cuda_12

    told = setup.hardware.expandable_segments
    settings = allocator_settings()
    if told is None or (settings and not _says_itself(setup)):
        told = settings.get("expandable_segments", "").casefold() == "true"
    return Machine(card or find_card(STAND_IN), expandable_segments=told, cudnn_attention=not has_cuda_12())


def _says_itself(setup: Setup) -> bool:
    """Whether the file, not its trainer's default, tells the allocator about expandable segments."""
    origin = setup.origins.get("hardware.expandable_segments")
    return setup.hardware.expandable_segments is not None and (origin is None or origin.source == "explicit")


def allocator_assumptions(setup: Setup) -> list[str]:
    """What the environment tells the allocator, as far as a prediction hears it or does not; one sentence each."""
    from .machine import allocator_settings

    settings = allocator_settings()
    said = []
    by_trainer = setup.hardware.expandable_segments and not settings and not _says_itself(setup)
    if by_trainer:
        by = "Unsloth" if Unsloth.of(setup) is not None else setup.dialect_version
        said.append(f"The allocator has expandable_segments:True, which {by} sets.")
    if by_trainer and machine_for(setup, None).torch < (2, 9):
        said.append("With this torch it also sets roundup_power2_divisions:16, which is not part of the prediction.")
    if not _says_itself(setup) and "expandable_segments" in settings:
        said.append(
            f"The allocator has expandable_segments:{settings['expandable_segments']}, as in the environment here."
        )
    unheard = sorted(set(settings) & {"max_split_size_mb", "roundup_power2_divisions", "garbage_collection_threshold"})
    if unheard:
        said.append(f"The allocator's {', '.join(unheard)} of the environment here is not part of the prediction.")
    return said


def described(prediction: Prediction, outline: Outline, card: Card | None) -> dict[str, Any]:
    """The facts of a prediction held against a card, the picture itself left out."""
    return _held_against(card) | _of_prediction(prediction, outline, card)


def _card_or_reason(setup: Setup, facts: Facts) -> tuple[Card | None, str | None]:
    """The card, or None and why a named one is not known."""
    try:
        return target_card(setup, facts), None
    except UnknownCard as error:
        return None, f"{error} Kernels are those of the {STAND_IN}, and the peak is held against no card."
    except ValueError as error:
        return None, f"{error} The peak is held against no card."


def _held_against(card: Card | None) -> dict[str, Any]:
    if card is None:
        return {}
    from .plan import capacity

    return {"card": card.name, "card_bytes": capacity(card), "context_bytes": card.context_overhead_bytes}


def _of_prediction(prediction: Prediction, outline: Outline, card: Card | None) -> dict[str, Any]:
    from .plan import capacity

    peak, parts = prediction.step_allocated_bytes, prediction.step_breakdown
    logits = parts.get("logits_and_loss", 0)
    with_or_without = "with_checkpointing_bytes" if outline.checkpointing else "without_checkpointing_bytes"
    return {
        "predicted_ratio": None if card is None else prediction.peak_reserved_bytes / capacity(card),
        "step_ratio": None if card is None else prediction.step_reserved_bytes / capacity(card),
        "step_peak_bytes": peak,
        "logits_bytes": logits,
        "logits_ratio": logits / peak,
        "activations_ratio": parts.get("activations", 0) / peak,
        "peak_phase": prediction.peak_phase,
        "load_peak_bytes": prediction.run["load"][0],
        "evaluation_peak_bytes": prediction.run["evaluation"][0] if "evaluation" in prediction.run else None,
        with_or_without: peak,
    }


def is_sharded(setup: Setup) -> bool:
    """Whether a card holds only a part of the weights, or may."""
    return bool(setup.training.fsdp or setup.training.deepspeed) or isinstance(setup.model.device_map, dict)


def assumed_of_cards(setup: Setup, facts: Facts) -> list[str]:
    """How several cards share the work; one sentence."""
    from .scope import seen_cards

    count, seen = Taken(setup)["hardware.count"], seen_cards(setup, facts)
    if seen is not None and seen > 1 and setup.traits.own_loop is None:
        return [
            f"Each process sees one card. Without a launcher the first of this machine's {seen} cards takes the "
            "batches of all under transformers' Trainer, and trl's trainers stop; CUDA_VISIBLE_DEVICES=0 shows one."
        ]
    if count < 2:
        return []
    if setup.training.deepspeed:
        return [
            f"The figures are those of one of {count} ranks, each with its part of gradients and optimizer, as "
            "DeepSpeed's ZeRO-2 makes them."
        ]
    if setup.training.fsdp:
        config = facts.config
        version = 1 if config is not None and config.distributed == "fsdp1" else 2
        return [
            f"The figures are those of one of {count} ranks, each with its shards, as FSDP {version} of accelerate "
            "makes them."
        ]
    return ["Each card holds the whole model and buckets for its gradients, as DistributedDataParallel does."]


def saving_of(setup: Setup) -> Saving | None:
    """How the run saves; None where it does not."""
    from .predict import Saving

    training = setup.training
    if str(training.save_strategy).casefold() in ("no", "none") and training.save_strategy is not None:
        return None
    return Saving(loads_best=bool(training.load_best_model_at_end))


def evaluation_batch_of(facts: Facts) -> int | None:
    """Samples of an evaluation batch where the run is known to evaluate."""
    config = facts.config
    return config.eval_batch if config is not None and config.evaluates else None


def assumed_of_evaluation(setup: Setup, facts: Facts) -> list[str]:
    """What is taken as given of evaluation; one sentence each."""
    from .kept_outputs import kept_outputs_of

    batch, kept = evaluation_batch_of(facts), kept_outputs_of(setup)
    if batch is not None and kept is not None:
        at_once = kept.batches(batch)
        return [f"An evaluation keeps the outputs of {at_once:,} batches of {batch} at a time, for compute_metrics."]
    if batch is not None:
        return ["An evaluation keeps its loss alone, as without compute_metrics, on samples as long as in training."]
    if facts.config is not None and facts.config.evaluates is None:
        return ["Whether training is interrupted by evaluations is not known; none is part of the prediction."]
    return []


def _savings(
    setup: Setup, machine: Machine, prediction: Prediction, facts: Facts, progress: Progress,
    known: TracedOnce, *, offline: bool, architecture: Any,
) -> dict[str, Any]:  # fmt: skip
    """What changes would save where the card is nearly full or the budget is exceeded."""
    from .savings import savings

    progress("predicting what changes would save")
    evaluation_batch = evaluation_batch_of(facts)
    found = savings(
        setup, machine, prediction, evaluation_batch, architecture=architecture, offline=offline, known=known
    )
    told: dict[str, Any] = {
        "savings": [
            SavingFact(
                change=each.change[:1].upper() + each.change[1:],
                pointer=each.pointer,
                value=_as_text(each.value),
                peak_allocated_bytes=each.peak_allocated_bytes,
                saved_bytes=each.saved_bytes,
            )
            for each in found
        ]
    }
    for each in found:
        if each.pointer == "/training/gradient_checkpointing":
            told["with_checkpointing_bytes"] = each.peak_allocated_bytes
    return told | _cures(setup, prediction, facts, progress, architecture, offline, known)


def _cures(
    setup: Setup,
    prediction: Prediction,
    facts: Facts,
    progress: Progress,
    architecture: Any,
    offline: bool,
    known: TracedOnce,
) -> dict[str, Any]:
    """Combinations of changes with which a run fits that does not, and that leave what is learned as it is."""
    from .levers import levers_of
    from .searching import in_order, named, search_for

    card, _ = _card_or_reason(setup, facts)
    search = search_for(
        setup,
        facts,
        card,
        machine_of=machine_for,
        evaluation_batch=evaluation_batch_of(facts),
        architecture=architecture,
        offline=offline,
        progress=progress,
        known=known,
    )
    if search is None or search.room.holds(prediction, margin=0.0):
        return {}
    found = search.found(levers_of(setup, evaluation_batch_of(facts)), "closest", alone=True)
    cures = in_order(search.tried.values(), found)
    return {"cure": found, "cures": cures, "cure_changes": None if found is None else named(found)}


def _is_full(prediction: Prediction, ratio: float | None, facts: Facts) -> bool:
    budget = facts.config.budget_peak_memory_bytes if facts.config is not None else None
    over = budget is not None and prediction.peak_allocated_bytes > budget
    return over or (ratio is not None and ratio > FULL)


def _as_text(value: Any) -> str:
    """As it would stand in a config."""
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
