"""A training as it really ran (stage ``run``)."""

from .base import Fact


class ParameterGroup(Fact):
    """One group of an optimizer."""

    parameters: int
    elements: int
    learning_rate: float | None = None
    weight_decay: float | None = None
    kinds: list[str] | None = None
    """What the tensors are, by the last part of their names (``lora_A``, ``lora_B``, ``bias``)."""


class RankFacts(Fact):
    """One process of the training."""

    rank: int
    device: str | None = None
    steps: int | None = None
    batches: list[str] | None = None
    """A digest of each batch of the watched steps."""
    trainable: str | None = None
    """A digest of all trainable tensors after the watched steps, where the ranks hold them whole."""
    peak_allocated_bytes: int | None = None
    peak_reserved_bytes: int | None = None
    loss: float | None = None
    """Mean loss of the last watched step."""
    backward_loss: float | None = None
    mean_loss: float | None = None
    mean_of_means: float | None = None
    """Mean over the micro-batches of that step of their mean losses."""
    trained_tokens: int | None = None
    """Labels that count in that step."""
    ended: str | None = None


class RunFailure(Fact):
    """How a run ended early."""

    kind: str
    """``none`` where it ended well; else as ``LoadFailure``, or ``exit`` (a code other than 0), ``signal``."""
    signal: str | None = None
    """Name of the signal that ended it."""
    message: str
    phase: str | None = None
    """``forward``, ``backward``, ``optimizer``, ``evaluation``, ``save``, or None where it is not known."""
    rank: int | None = None
    step: int | None = None
    """Optimizer steps that were done by then, as far as they were counted."""
    batch: int | None = None
    sequence: int | None = None
    """Shape of the batch that was under way."""
    asked_bytes: int | None = None
    """Out of memory: what was asked for at that moment."""
    allocated_bytes: int | None = None


class Difference(Fact):
    """Where the run does something else than a file says."""

    name: str
    """As ``ConfigFacts`` has it."""
    pointer: str
    file: str
    """What the file says, as text."""
    run: str
    """What the run does."""


class RunFacts(Fact):
    """What was seen of the run beside the facts of its model, its steps and its batches."""

    command: str | None = None
    kind: str | None = None
    """``trainer`` (transformers' Trainer, or a class built on it) or ``loop``."""
    trainer: str | None = None
    """Class of the trainer, with its library: ``trl.SFTTrainer``."""
    exit_code: int | None = None
    ended: str | None = None
    """``well``, ``stopped`` (by --stop-after or --abort-on), ``failed``, ``killed``, ``running``."""
    failure: RunFailure | None = None
    trainings: int | None = None
    """Trainings that one process began, one after the other."""
    training: int | None = None
    """Which of them this is, from 1."""

    world_size: int | None = None
    ranks: list[RankFacts] | None = None
    ranks_differ: list[int] | None = None
    """Ranks whose trainable tensors are not those of rank 0 after the watched steps; None where they are sharded."""
    ranks_same_batch: list[int] | None = None
    """Ranks that were given the very batches of another rank."""
    ranks_behind: list[int] | None = None
    """Ranks that did fewer steps than others."""
    parallel: str | None = None
    """``none``, ``ddp``, ``fsdp``, ``fsdp2``, ``deepspeed``."""

    watched_steps: int | None = None
    """Optimizer steps that were looked at closely."""
    steps: int | None = None
    """Optimizer steps in all, as far as a trainer counted them."""
    max_steps: int | None = None
    micro_batches: list[int] | None = None
    """Backwards of each watched step."""
    accumulation_asked: int | None = None
    tokens_per_update: int | None = None
    """Labels that count in one optimizer step, over all ranks; that of the last watched one."""
    rows_per_update: int | None = None
    watching_seconds: float | None = None
    """What the watching took of the training's time."""

    training_mode: bool | None = None
    """Whether every watched forward ran in training mode."""
    dropout_idle: bool | None = None
    """True where dropout was asked for and the model was in evaluation mode."""
    checkpointing_asked: bool | None = None
    checkpointing_active: bool | None = None
    """Whether layers were really computed again in the backward."""

    backward_loss: float | None = None
    """Sum of the losses that one optimizer step went backward with, the gradient scaler taken out."""
    mean_loss: float | None = None
    """Mean loss of a trained token in the same step, computed from the logits of its batches."""
    loss_scale: float | None = None
    """backward_loss / mean_loss: 1 where gradients are a mean over the step."""
    sums_over_accumulation: bool | None = None
    """True where a step's gradients are the sum of its micro-batches' in place of their mean."""
    divides_twice: bool | None = None
    """True where they are the mean divided once more by the number of micro-batches."""
    own_compute_loss: bool | None = None
    """Whether the trainer's class has a ``compute_loss`` of its own."""
    loss_takes_count: bool | None = None
    """Whether the trainer hands num_items_in_batch to compute_loss and leaves the division to it."""

    scheduler_steps: float | None = None
    """Steps of the learning rate scheduler for each optimizer step; None where there is none."""
    scheduler_per_micro_batch: bool | None = None
    """True where the scheduler steps with every micro-batch of an optimizer step that has several."""
    learning_rate_asked: float | None = None
    weight_decay_asked: float | None = None
    groups: list[ParameterGroup] | None = None
    decayed_ratio: float | None = None
    """Share of the trainable elements that have weight decay."""
    rates_during_warmup: bool | None = None
    """True where the watched steps had less than half the rate that was asked for."""

    resumed_step: int | None = None
    """Optimizer steps that the training began with, as its trainer says; 0 where it began anew."""
    resumed_done: bool | None = None
    """True where a resumed training had no step left to do."""
    resumed_without_optimizer: bool | None = None
    """True where a resumed training began with an optimizer that has no state."""
    resumed_without_schedule: bool | None = None
    """True where a resumed training began its schedule again from the first step."""
    nonfinite_step: int | None = None
    """The first step at whose logging a trainable tensor or a logged value was not finite; 0 where none was."""
    nonfinite_tensors: list[str] | None = None
    """Trainable tensors with NaN or infinite values at that moment."""
    telling_warnings: list[str] | None = None
    """Warnings of the libraries that say that something of the setup has no effect or another one than meant."""

    base_changed_at_end: list[str] | None = None
    """Base tensors that are not what they were before the first step, when the run ended."""
    adapter_saved: str | None = None
    """The folder that the adapter was saved to last."""
    adapter_saved_differs: list[str] | None = None
    """Tensors that are missing from the saved adapter, or hold other values than the adapter in memory."""
    differences: list[Difference] | None = None
    """Where the run does something else than the file of --config says."""
    troubles: list[str] | None = None
    """What failed in the watching itself."""
