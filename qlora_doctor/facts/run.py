"""A training as it really ran (stage ``run``)."""

from pydantic import Field

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
    """``building the trainer``, ``loading``, ``attaching the adapter``, ``preparing the data``, ``forward``,
    ``backward``, ``optimizer``, ``evaluation``, ``save``, or None where it is not known."""
    speaks_of_it: str | None = None
    """The rule whose page speaks of such a message, with its name."""
    rank: int | None = None
    step: int | None = None
    """Optimizer steps that were done by then, as far as they were counted."""
    batch: int | None = None
    sequence: int | None = None
    """Shape of the batch that was under way."""
    asked_bytes: int | None = None
    """Out of memory: what was asked for at that moment."""
    allocated_bytes: int | None = None
    """What PyTorch had allocated by then."""
    idle_bytes: int | None = None
    """What it had reserved and not allocated: memory in pieces that are too small."""
    card_bytes: int | None = None
    """The card's whole memory, as the error says it."""


class Emptied(Fact):
    """A step of the data's preparation that was given rows and left none."""

    rows: int
    """Rows that went in."""
    by: str
    """The call, where its function is, and what it says of itself."""
    reason: str | None = None
    """What holds of all the rows that were looked at."""


class Difference(Fact):
    """Where the run does something else than a file says."""

    name: str
    """As ``ConfigFacts`` has it."""
    pointer: str
    file: str
    """What the file says, as text."""
    run: str
    """What the run does."""


class TrainingTokenizer(Fact):
    """The tokenizer of a training, as far as serving must have it alike, and the base beneath."""

    template_digest: str | None = None
    """SHA-256 of the chat template; ``none`` where there is none."""
    special_tokens: dict[str, str | None] = Field(default_factory=dict)
    """``bos_token``, ``eos_token``, ``pad_token``, ``unk_token``, as far as known; None where it is not set."""
    stop_ids: list[int] | None = None
    """``eos_token_id`` of the model's generation config."""
    base_commit: str | None = None
    """Commit on the hub that the base was loaded from."""


class KeptOutputs(Fact):
    """What the trained model says to a few fixed tokens, in evaluation mode and with its adapter."""

    step: int
    """Optimizer steps that were done."""
    folder: str | None = None
    """Where the model was saved at that moment; None at the end of the training."""
    ids: list[int]
    """The tokens that it was given."""
    likeliest: list[list[int]]
    """After each token but the last, the likeliest next ones."""
    log_probabilities: list[list[float]]
    """Of these, in nats."""
    loss: float
    """Mean loss of the given tokens."""
    adapter_norm: float | None = None
    """Norm of all lora_A and lora_B together, by which a file of another moment is distinguished."""


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
    """Micro-batches to a step as the arguments have it; of a loop, as its variables or accelerate's state name it."""
    accumulation_ignored: bool | None = None
    """True where several are asked for and every step holds one."""
    tokens_per_update: int | None = None
    """Labels that count in one optimizer step, over all ranks; that of the last watched one."""
    rows_per_update: int | None = None
    watching_seconds: float | None = None
    """What the watching took of the training's time."""
    watching_parts: dict[str, float] | None = None
    """The same by what it was spent on."""

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
    unshifted_loss: bool | None = None
    """True where the loss is that of each token at its own place: nothing moved the labels by one."""
    sums_over_tokens: bool | None = None
    """True where it is the sum over the tokens, and not their mean."""
    divided_by: int | None = None
    """What the loss of a step of one micro-batch is divided by, as if there were more; 1 where it is not."""
    loss_factor: float | None = None
    """What the mean loss of a step is multiplied with before it goes backward, the same in every watched step, where
    none of the fields above says why; 1 where it is not, None where the losses do not show it."""
    gradient_broke_first: bool | None = None
    """True where a watched step had a finite loss and a gradient that was not, before any loss that was not."""
    loss_negated: bool | None = None
    """True where every watched step went backward with the mean loss and the other sign."""
    own_compute_loss: bool | None = None
    """Whether the trainer's class has a ``compute_loss`` of its own."""
    loss_takes_count: bool | None = None
    """Whether the trainer hands num_items_in_batch to compute_loss and leaves the division to it."""

    gradient_norm_backward: float | None = None
    """Norm of the gradients of the last watched step as backward gave them, the gradient scaler's factor taken out."""
    gradient_norm_step: float | None = None
    """Norm of the same gradients when the optimizer stepped."""
    gradient_cosine: float | None = None
    """Cosine between the gradients of a few tensors as backward made them and as the optimizer steps with them."""
    gradient_growth: float | None = None
    """The largest norm of these gradients on their way over what backward made; a scaler's factor counts as made."""
    gradients_gone: int | None = None
    """Tensors whose gradient was there after backward, where none was left when the optimizer stepped; else 0."""
    gradients_gone_as: str | None = None
    """``removed`` (None) or ``zero``."""
    cleared_within: bool | None = None
    """True where gradients are cleared between the micro-batches of one step."""
    gradients_left: float | None = None
    """Norm of the gradients that a watched step began with, left by the step before; 0 where it left none."""
    clipped_away: bool | None = None
    """True where less than a millionth of the gradients' norm reaches the optimizer."""
    clipping: str | None = None
    """When every watched step clips its gradients: ``in place`` (after its last backward, before the optimizer's step),
    ``before its last backward``, ``after the optimizer's step``, ``of tensors that do not train`` or have no gradient;
    ``never`` where a trainer is asked to and what reaches the optimizer is above the limit. None: nothing is."""
    clip_limit: float | None = None
    """The norm that they are clipped to."""
    gradient_scale: float | None = None
    """Factor of the gradient scaler; 1 without one."""
    clipped_while_scaled: bool | None = None
    """True where the gradients were clipped while they still had the scaler's factor."""
    never_unscaled: bool | None = None
    """True where the optimizer stepped with gradients that still had it."""
    scaled_twice: bool | None = None
    """True where the loss was multiplied with it twice."""
    scaler_without_float16: bool | None = None
    """True where a gradient scaler is on and the forward computes in bfloat16."""

    training_rows: int | None = None
    """Rows of the training data, where no step was made."""
    emptied: Emptied | None = None
    """What left no row of it."""
    loader_batches: int | None = None
    """0 where no step was made and a loader gives no batch."""
    loader_batch_size: int | None = None
    loader_drops_last: bool | None = None
    backwards_without_step: int | None = None
    """Backward passes of a run in which no optimizer stepped and no trainable tensor moved."""
    packed_layers: int | None = None
    """4-bit layers that bitsandbytes packed for inference on a CPU: no gradient passes through them."""
    began_late: bool | None = None
    """True where no training forward was seen, so that the model was looked at when the process ended."""
    forward_without_gradients: bool | None = None
    """True where a forward in training mode ran under ``torch.no_grad``."""
    evaluation_mode_since: int | None = None
    """The watched step, from 1, from which on training forwards ran in evaluation mode though earlier ones did not; 0
    where there is none."""
    frozen_later: list[str] | None = None
    """Tensors that trained in the watched steps and whose gradient was switched off later in the run."""
    frozen_since: int | None = None
    """The step at which that was seen first; 0 where it was not."""
    adapter_merged_since: int | None = None
    """The step, after the watched ones, from which on the adapter is merged into the base; 0 where there is none."""
    optimizer_steps_counted: int | None = None
    """Steps that the optimizer's own state counts since the first watched one, after ``watched_steps``; None where it
    counts none."""
    float16_without_scaler: bool | None = None
    """True where a loop's forward runs in float16 and no gradient scaler is there."""
    adapter_off_since: int | None = None
    """The step, after the watched ones, from which on no layer uses the adapter; 0 where there is none."""
    steps_skipped: int | None = None
    """Steps that the gradient scaler left out while two were waited for."""
    evaluates_training_rows: float | None = None
    """Share of the evaluation's rows that are training rows too, in the first rows; None where they cannot be read."""
    rows_sorted: bool | None = None
    """True where the rows are taken in their own order, and that goes by their length."""
    precision_asked: str | None = None
    """``bfloat16``, ``float16`` or ``float32``: what the trainer's arguments ask the forward to run in."""
    precision_missing: bool | None = None
    """True where they ask for autocast and the watched forwards ran without it."""

    adapters_trainable: list[str] | None = None
    adapters_active: list[str] | None = None
    """Adapters that the forward uses."""
    adapters_idle: list[str] | None = None
    """Adapters with trainable tensors that the forward does not use."""
    optimizer_holds: list[str] | None = None
    """Adapters whose tensors the optimizer holds, or ``the base``."""
    optimizer_elsewhere: bool | None = None
    """True where none of the adapters that train is among them."""
    nonfinite_trainable: list[str] | None = None
    """Trainable tensors with NaN or infinite values before the first step."""
    nonfinite_layer: str | None = None
    """The first layer whose output was not finite in a watched forward; an empty text where all were."""
    adapter_loaded: str | None = None
    """The folder that the adapter was loaded from."""
    adapter_loaded_differs: list[str] | None = None
    """Tensors of it that are not what the file holds when the training begins."""

    idle_groups: list[str] | None = None
    """What the groups of the optimizer hold whose rate is zero while another group's is not."""
    rates_zero: bool | None = None
    """True where every group's rate was zero in every watched step."""
    scheduler_elsewhere: bool | None = None
    """True where the schedulers of the process drive other optimizers than the one that steps."""
    learning_rate_real: float | None = None
    """The highest rate that the groups are scheduled to have, as they say themselves (``initial_lr``)."""
    learning_rate_dropped: bool | None = None
    """True where a rate that the arguments set apart from its default is none of the groups'."""
    betas_asked: list[float] | None = None
    betas_real: list[float] | None = None
    betas_dropped: bool | None = None
    """True where betas that the arguments set apart from their default are none of the groups'."""
    decay_per_step: float | None = None
    """What a step at the highest rate takes off the weights: rate × weight decay; the largest of the groups."""
    weight_decay_real: float | None = None
    """The weight decay of that group."""
    epsilon_real: float | None = None
    """What Adam adds to the root of the squared gradients; of the groups the largest."""
    rate_ratio_asked: float | None = None
    """LoRA+: how many times the rate of lora_A that of lora_B is to be."""
    rate_ratio_real: float | None = None
    sampler_epochs: int | None = None
    """Passes over the data of a sampler whose ``set_epoch`` was never called; 0 where it was, or there is none."""

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
    """Optimizer steps that the training began with, as its trainer says; 0 where it began again."""
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
    adapter_rewritten: str | None = None
    """What became of that file after it was saved, as the process ended: ``cannot be read``, ``holds other values``."""
    steps_unsaved: int | None = None
    """Steps after the last save, where the process ended with another adapter in memory than in the file."""
    adapter_saved_differs: list[str] | None = None
    """Tensors that are missing from the saved adapter, or hold other values than the adapter in memory."""
    tokenizer: TrainingTokenizer | None = None
    kept_outputs: list[KeptOutputs] | None = None
    """Of the last saves and of the end, for ``adapter DIR --load``."""
    differences: list[Difference] | None = None
    """Where the run does something else than the file of --config says."""
    troubles: list[str] | None = None
    """What failed in the watching itself."""
