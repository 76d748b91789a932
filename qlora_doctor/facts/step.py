"""Two real training steps, seen before and after (stage ``step``, or live objects)."""

from typing import Literal

from .base import Fact
from .load import LoadFailure


class CastTensor(Fact):
    """A base tensor whose dtype changed while its value did not."""

    name: str
    before: str
    after: str


class GradientColumn(Fact):
    """Gradient norms of one projection over the layers: the L2 norm of lora_A's and lora_B's gradients together."""

    projection: str
    layers: list[int]
    norms: list[float | None]


class BranchWithoutGradient(Fact):
    """A part of the model whose trainable tensors all have no gradient."""

    name: str
    tensors: list[str]
    reason: str
    """As the end of a sentence, such as ``the batch has no pixel_values``."""
    by_design: bool
    """True where the model is made so, and a gradient is not to be expected of this batch."""
    cause: Literal["checkpointing", "packed-dtype"] | None = None
    """What cuts the graph, where it is known: reentrant checkpointing around a layer whose inputs carry no gradient, or
    a value that the model casts to the dtype of a packed weight (``integer_inputs``)."""


class OptimizerFacts(Fact):
    """The optimizer's parameters against requires_grad."""

    name: str | None = None
    parameters: int | None = None
    """Number of tensors it holds."""
    elements: int | None = None
    frozen_parameters: list[str] | None = None
    """Tensors it holds that do not require a gradient, by name."""
    missing_parameters: list[str] | None = None
    """Trainable tensors that it does not hold."""
    stale_parameters: int | None = None
    """Tensors it holds that belong to no module of the model (a copy of an older one)."""
    state_bytes: int | None = None
    learning_rates: list[float] | None = None
    maximizes: bool | None = None
    """A group of it has ``maximize=True``."""


class StepFacts(Fact):
    """What a step did to the base and to the adapter."""

    trainer: str | None = None
    method: str | None = None
    """The method whose own trainer stepped (``dpo``, ``grpo``, …); None where it was supervised fine-tuning."""
    device: str | None = None
    data: str | None = None
    """``file`` for the config's own data, ``synthetic`` for random tokens, ``given`` for a batch handed in."""
    batch: int | None = None
    sequence: int | None = None
    steps: int | None = None
    skipped_steps: int | None = None
    """Steps that the gradient scaler skipped because a float16 gradient overflowed; some at the start are usual."""
    seconds: list[float] | None = None

    fingerprinted_tensors: int | None = None
    fingerprinted_bytes: int | None = None
    fingerprint_seconds: float | None = None
    changed_base_tensors: list[str] | None = None
    cast_base_tensors: list[CastTensor] | None = None
    """Told as what it is: bitsandbytes casts a layer's bias in place in its first forward."""
    recomputed_buffers: list[str] | None = None
    """Buffers that no checkpoint holds (rotary frequencies) and that the model computed anew."""

    loss_before: float | None = None
    """Loss of the first batch before any update."""
    loss_expected: float | None = None
    """What the loss of the first batch is where policy and reference are the same model: ln 2 under DPO."""
    loss_off_start: float | None = None
    """How far ``loss_before`` is from that, as a share of it."""
    loss_after: float | None = None
    """Loss of the same batch after the steps."""
    losses: list[float | None] | None = None
    loss_finite: bool | None = None
    loss_moved: bool | None = None
    logits_finite: bool | None = None

    trainable_tensors: int | None = None
    parameters_without_gradient: list[str] | None = None
    """Trainable tensors whose gradient is None after backward."""
    parameters_cut_off: list[str] | None = None
    """Of these, the ones for which that is not by the model's design."""
    branches_without_gradient: list[BranchWithoutGradient] | None = None
    """The parts of the model that the tensors without a gradient make up, and why each has none."""
    integer_inputs: list[str] | None = None
    """Quantized layers that a forward gave integers: the model casts what goes in to the dtype of their weight, and
    packed bytes have uint8."""
    bypassed_modules: list[str] | None = None
    """Of ``adapter.bypassed_modules``, those of which no trainable tensor got a gradient."""
    parameters_zero_gradient: list[str] | None = None
    """Trainable tensors whose gradient is exactly zero and for which that is not by design (lora_A while lora_B is
    zero in the first step is)."""
    parameters_behind_closed_gates: list[str] | None = None
    """Trainable tensors whose gradient is exactly zero because the base multiplies what they compute by zero."""
    closed_gates: list[str] | None = None
    """The frozen parameters of the base that do so."""
    parameters_nonfinite_gradient: list[str] | None = None
    gradients_sound: bool | None = None
    """True where every trainable tensor got a finite gradient that is not zero (none or zero by design aside)."""
    checkpointing_blocks_gradient: bool | None = None
    """True where gradient checkpointing is on and reentrant and what enters the first layer carries no gradient: the
    layers' adapters then get none."""
    parameters_not_updated: list[str] | None = None
    """Trainable tensors that no step changed."""
    parameters_out_of_reach: list[str] | None = None
    """Of these, the ones that have a gradient and that the optimizer, which holds them, leaves as they are even where
    they are set to zero before it is called again: no update reaches them."""
    parameters_below_precision: list[str] | None = None
    """Of these, the ones whose updates are smaller than what changes a value of theirs (half the spacing of their
    dtype at that value)."""
    parameters_too_coarse: list[str] | None = None
    """Of these, the ones of 16 bits that no update at this rate changes: the largest that the optimizer makes of any
    gradient that lasts is smaller than what changes a value. They never move."""
    precision_too_coarse: list[str] | None = None
    """Their dtypes."""
    too_coarse_share: float | None = None
    """That largest update, as a share of what changes a value."""
    parameters_updated_late: list[str] | None = None
    """Of these, the ones that a later call of the optimizer changes: it does not step in every call."""
    update_share: float | None = None
    """Largest update of the tensors below precision, as a share of what changes a value."""
    steps_to_update: int | None = None
    """Steps, about, until the last of the tensors below precision (or updated late) has begun to change; None where
    they do not while their gradients stay as large as they are."""
    update_along_gradient: float | None = None
    """Share of a sample's elements that the last step moved along their gradient and not against it; near 0 where the
    loss is to go down. None for an optimizer that has stepped before."""
    lost_update_ratio: float | None = None
    """Share of the trainable elements with a nonzero gradient in the last step that this step left bit for bit as they
    were: its update was smaller than the spacing of their dtype. None where the optimizer skipped the step."""
    trainable_dtypes: list[str] | None = None
    """Dtypes of the trainable tensors as they were trained (trl casts a quantized model's adapter to bfloat16)."""
    gradient_norm: float | None = None
    gradients: list[GradientColumn] | None = None
    optimizer: OptimizerFacts | None = None

    adapter_identity: bool | None = None
    """True where the output with the untrained adapter equals the base's; None where lora_B is not zero."""
    adapter_identity_difference: float | None = None
    """Largest absolute difference of the logits, adapter on against off, before training."""
    adapter_effective: bool | None = None
    """True where the trained adapter changes the logits."""
    inputs_require_grad: bool | None = None
    """True where what enters the first layer carries a gradient."""
    gradient_checkpointing: bool | None = None
    """As found on the model that was trained."""
    use_reentrant: bool | None = None
    use_cache: bool | None = None
    """Whether a cache was built in the training forward: it costs memory and serves nothing."""
    forward_dtypes: list[str] | None = None
    """Dtypes of the hidden states at the ends of the layers and of the logits."""
    autocast_dtype: str | None = None
    trained_tokens: int | None = None
    """Label positions that count (not -100) in the batches."""
    vocab_rows: int | None = None
    max_token_id: int | None = None
    tokens_out_of_range: int | None = None
    warnings: list[str] | None = None
    """Warnings of the libraries during the steps, each once."""
    failure: LoadFailure | None = None
