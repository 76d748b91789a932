"""Run the step that the trainer would run, on the meta device, and write the tape of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch

from ..pipeline.batches import synthetic_labels
from .as_on_cuda import as_on_cuda
from .autocast import Autocast
from .engine_options import FlatOptions, ZeroOptions
from .first_gradient import learn_counts
from .fsdp1 import ShardedFlat
from .fsdp2 import ShardedByTensor
from .images import Pictures
from .kept_outputs import KeptOutputs
from .kernel_switches import LigerKernels, LoraKernels
from .liger import put_into, rotating
from .load import LoadOptions, write_load
from .lora_kernels import put_into as put_lora_kernels_into
from .machine import Machine
from .offloading import Offloading
from .operators import register_bitsandbytes
from .optimizers import Optimizer
from .owners import Owners
from .sharding import DIVIDED, Sharding
from .tape import Tape
from .trace import Recorder
from .trl_step import has_fused_head, prepare_for_sft, sft_loss, without_triton
from .zero import Zero2


@dataclass(frozen=True)
class StepOptions:
    """How the trainer runs a step."""

    batch: int
    sequence: int
    precision: str = "bf16"
    optim: str = "adamw_torch_fused"
    gradient_accumulation_steps: int = 1
    max_grad_norm: float = 1.0
    trainer: str = "transformers"
    packing: bool = False
    padded: bool = False
    checkpointing: bool = True
    flash: bool = False
    """Whether attention is the flash-attn package's, whatever the card would take by itself."""
    neftune_alpha: float | None = None
    data_parallel: bool = False
    """Whether DistributedDataParallel keeps buckets for the gradients, each card with the whole model."""
    engine: Literal["fsdp2"] | FlatOptions | ZeroOptions | None = None
    """What divides the model, or its optimizer, over the ranks: FSDP 2, or FSDP 1 or ZeRO-2 by their options."""
    ranks: int = 1
    """Ranks of the engine."""
    offloads_activations: bool = False
    """Whether trl moves what the forward pass saves to the host (``activation_offloading``)."""
    liger: LigerKernels | None = None
    """Liger's kernels in the model."""
    lora_kernels: LoraKernels | None = None
    """axolotl's LoRA kernels in the model."""
    pictures: Pictures | None = None
    """Images in the batches."""
    kept: KeptOutputs | None = None
    """What evaluations keep beside their loss."""
    evaluation_tokens: int | None = None
    """Tokens of the answers that evaluations write."""


class Program(Protocol):
    """What a trainer of its own kind does in a step; plain fine-tuning has none."""

    def prepare(self, recorder: Recorder, model: Any, options: StepOptions) -> None:
        """What the trainer changes in the model before the first step."""

    def batch(self, recorder: Recorder, options: StepOptions) -> dict[str, torch.Tensor]:
        """A batch on the meta device."""

    def loss(
        self, model: Any, forward: Callable[..., Any], inputs: dict[str, torch.Tensor], items: torch.Tensor
    ) -> torch.Tensor:
        """The loss of a batch; ``forward`` is the model's as accelerate wraps it."""


def trace_steps(
    model: Any,
    options: StepOptions,
    machine: Machine,
    load: LoadOptions | None = None,
    program: Program | None = None,
) -> Tape:
    """The tape of loading ``model`` and of its first optimizer step.

    ``model`` is a PEFT model on the meta device in training mode. Phases: ``load``, then per micro-batch ``forward``
    and ``backward``, then ``optimizer``; storages that outlive the step (the optimizer's state) are the ones that a
    second step does not take again.
    """
    register_bitsandbytes()
    learn_counts()
    tape = Tape()
    recorder = Recorder(tape, vocabulary=vocabulary_of(model))
    recorder.owners = Owners(model, tape.owners)
    write_load(recorder, model, load or LoadOptions())
    with (
        as_on_cuda(machine, options.flash),
        without_triton() if options.trainer == "trl" else nullcontext(),
        rotating(model, options.liger),
        recorder.owners.watching(),
        recorder,
    ):
        _run_step(model, options, recorder, program)
    tape.phase("end")
    recorder.close()
    return tape


def vocabulary_of(model: Any) -> int:
    head = model.get_output_embeddings()
    weight = getattr(head, "weight", None)
    return int(weight.shape[0]) if weight is not None else 0


def _run_step(model: Any, options: StepOptions, recorder: Recorder, program: Program | None) -> None:
    tape = recorder.tape
    make_ready(recorder, model, options, program)
    if recorder.owners is not None:
        recorder.owners.learn(model, recorder.index_of)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if options.neftune_alpha:
        add_noise(model, options.neftune_alpha)
    if options.data_parallel:
        recorder.keep(gradient_buckets(recorder, parameters))
    divided = divided_over_ranks(recorder, model, options)
    tape.step_start = len(tape.events)
    embeddings = (module for module in model.modules() if isinstance(module, torch.nn.Embedding))
    optimizer = Optimizer(options.optim, recorder, frozenset(id(module.weight) for module in embeddings))
    if divided is not None:
        divided.start(optimizer)
    forward = prepared_forward(model, options)
    if options.gradient_accumulation_steps < 1:
        raise ValueError(f"gradient_accumulation_steps is {options.gradient_accumulation_steps}, below 1")
    batches = [batch_of(recorder, model, options, program) for _ in range(options.gradient_accumulation_steps)]
    # The first micro-batch makes the gradients, the second adds to them; the others do what the second does.
    waiting, batches = batches[2:], batches[:2]
    items = torch.zeros((), dtype=torch.int64, device="meta")
    offloading = Offloading(recorder, model) if options.offloads_activations else nullcontext
    while batches:
        inputs = batches.pop(0)
        tape.phase("forward")
        with offloading():
            loss = loss_of(model, forward, inputs, items, options, program)
            del inputs
            tape.phase("backward")
            recorder.in_backward = True
            if divided is not None:
                divided.syncs = not batches
                divided.before_backward()
            loss.backward()
            recorder.in_backward = False
        if divided is not None:
            divided.after_backward()
        for parameter in parameters:
            if parameter.grad is not None:
                recorder.recategorise(parameter.grad, "gradients")
        kept = loss.detach()
        del loss
    tape.phase("optimizer")
    with_gradient = [parameter for parameter in parameters if parameter.grad is not None]
    if divided is not None:
        with_gradient = divided.trained()
    _clip(with_gradient, options.max_grad_norm)
    optimizer.step(with_gradient)
    model.zero_grad(set_to_none=True)
    for parameter in with_gradient:
        parameter.grad = None
    del kept, waiting
    recorder.keep([optimizer, divided])


def divided_over_ranks(recorder: Recorder, model: Any, options: StepOptions) -> Sharding | None:
    """The model divided over ranks, where it is; of one that is, the tape changes."""
    if options.engine is None:
        return None
    if model in DIVIDED:
        DIVIDED[model].play_on(recorder)
    else:
        DIVIDED[model] = _engine(recorder, model, options)
    return DIVIDED[model]


def _engine(recorder: Recorder, model: Any, options: StepOptions) -> Sharding:
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(options.precision)
    if isinstance(options.engine, ZeroOptions):
        return Zero2(recorder, model, options.ranks, dtype or torch.float32, options.engine)
    if isinstance(options.engine, FlatOptions):
        return ShardedFlat(recorder, model, options.ranks, dtype, options.engine)
    reads_head = options.trainer == "trl" and has_fused_head()
    return ShardedByTensor(recorder, model, options.ranks, reads_head)


def add_noise(model: Any, alpha: float) -> None:
    """NEFTune as transformers' Trainer adds it: a hook on the embeddings, at work while the model trains."""
    from transformers.integrations.neftune import neftune_post_forward_hook

    embeddings = model.get_input_embeddings()
    embeddings.neftune_noise_alpha = alpha
    embeddings.register_forward_hook(neftune_post_forward_hook)


BUCKET_BYTES = (1 << 20, 25 << 20)
"""Sizes from which DistributedDataParallel closes its first and every later bucket (``bucket_cap_mb``)."""


def gradient_buckets(recorder: Recorder, parameters: list[torch.nn.Parameter]) -> list[torch.Tensor]:
    """DistributedDataParallel's flat copies of the gradients, last parameters first; they stay for the whole run.

    Source: ``torch/csrc/distributed/c10d/reducer.cpp`` (``compute_bucket_assignment_by_size``,
    ``initialize_buckets``); without ``gradient_as_bucket_view`` the gradients exist beside them.
    """
    buckets: list[torch.Tensor] = []
    waiting: dict[torch.dtype, int] = {}
    for parameter in reversed(parameters):
        dtype = parameter.dtype
        waiting[dtype] = waiting.get(dtype, 0) + parameter.numel()
        if waiting[dtype] * dtype.itemsize >= BUCKET_BYTES[bool(buckets)]:
            buckets.append(torch.empty(waiting.pop(dtype), dtype=dtype, device="meta"))
    buckets += [torch.empty(count, dtype=dtype, device="meta") for dtype, count in waiting.items()]
    for bucket in buckets:
        recorder.recategorise(bucket, "gradients")
    return buckets


def prepared_forward(model: Any, options: StepOptions) -> Callable[..., Any]:
    """accelerate's ``prepare_model``: autocast inside, 16-bit outputs turned to float32 outside.

    DeepSpeed's engine casts the model instead.
    """
    precision = options.precision
    if precision == "no" or isinstance(options.engine, ZeroOptions):
        return model.forward  # type: ignore[no-any-return]
    from accelerate.utils.operations import convert_outputs_to_fp32

    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    return convert_outputs_to_fp32(Autocast("cuda", dtype=dtype)(model.forward))  # type: ignore[no-any-return]


def make_ready(recorder: Recorder, model: Any, options: StepOptions, program: Program | None) -> None:
    """What the trainer changes in the model before its first step."""
    if program is not None:
        program.prepare(recorder, model, options)
    elif options.trainer == "trl":
        prepare_for_sft(recorder, model, options.checkpointing)
    if options.liger is not None:
        put_into(model, options.liger)
    if options.lora_kernels is not None:
        put_lora_kernels_into(model, options.lora_kernels)


def batch_of(recorder: Recorder, model: Any, options: StepOptions, program: Program | None) -> dict[str, torch.Tensor]:
    """A batch on the meta device whose values are known."""
    return _batch(recorder, model, options) if program is None else program.batch(recorder, options)


def loss_of(
    model: Any,
    forward: Callable[..., Any],
    inputs: dict[str, torch.Tensor],
    items: torch.Tensor,
    options: StepOptions,
    program: Program | None,
) -> torch.Tensor:
    """The loss that the trainer computes of a batch."""
    if program is not None:
        return program.loss(model, forward, inputs, items)
    return _loss(model, forward, inputs, items, options)


def _batch(recorder: Recorder, model: Any, options: StepOptions) -> dict[str, torch.Tensor]:
    """A batch as the collator makes it: full samples, or where ``padded`` the first one half as long.

    Packing puts a batch into one row without a mask; where each sample starts, its position is 0 again.
    """
    batch, sequence = options.batch, options.sequence
    shape = (1, batch * sequence) if options.packing else (batch, sequence)
    # No id pads: with zero as padding a classifier would find no last token.
    pad = getattr(model.config.get_text_config(), "pad_token_id", None)
    ids = torch.full(shape, 1 if pad == 0 else 0, dtype=torch.int64)
    values = {"input_ids": ids, "labels": synthetic_labels(model, ids).clone()}
    if options.packing:
        # flash-attn is given where samples begin; PyTorch's own attention is given a mask, made from positions.
        positions = torch.arange(batch * sequence) if options.flash else torch.arange(sequence).repeat(batch)
        values["position_ids"] = positions[None]
    else:
        values["attention_mask"] = torch.ones(shape, dtype=torch.int64)
    if options.padded and not options.packing:
        values["attention_mask"][0, sequence // 2 :] = 0
        if values["labels"].shape == ids.shape:
            values["labels"][0, sequence // 2 :] = -100
    if options.pictures is not None:
        values |= options.pictures.put_into(values)
    metas = {}
    for name, value in values.items():
        metas[name] = torch.empty(value.shape, dtype=value.dtype, device="meta")
        recorder.values.know(metas[name], value)
    if options.pictures is not None:
        metas["pixel_values"] = options.pictures.pixels(batch)
    return metas


def _loss(
    model: Any, forward: Callable[..., Any], inputs: dict[str, torch.Tensor], items: torch.Tensor, options: StepOptions
) -> torch.Tensor:
    if options.trainer == "trl":
        fused = {"fused_lm_head": True} if has_fused_head() else {"num_items_in_batch": items}
        return sft_loss(forward(**inputs, use_cache=False, **fused), items)
    more: dict[str, Any] = {"num_items_in_batch": items} if takes_loss_arguments(model) else {}
    if options.liger is not None and options.liger.fused_linear_cross_entropy and not model.training:
        more["skip_logits"] = True  # ``Trainer.prediction_step`` where only the loss is kept
    outputs = forward(**inputs, **more)
    loss: torch.Tensor = outputs["loss"] if isinstance(outputs, dict) else outputs[0]
    return loss


def takes_loss_arguments(model: Any) -> bool:
    """Whether the trainer tells the model how many labels a step has (``Trainer.model_accepts_loss_kwargs``)."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    told = getattr(base, "accepts_loss_kwargs", None)
    if told is not None:
        return bool(told)
    parameters = inspect.signature(base.forward).parameters.values()
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)


def _clip(parameters: list[torch.nn.Parameter], max_norm: float) -> None:
    """``torch.nn.utils.clip_grad_norm_`` on CUDA: one float a tensor and chunk of 65,536 elements, one a tensor.

    Source: ``ATen/native/cuda/ForeachReduceOp.cu`` (``foreach_tensor_norm_cuda``); measured 20,500 bytes for 41 tensors
    of at most 125 chunks. The gradients are scaled in place.
    """
    if not parameters or max_norm <= 0:
        return
    chunks = max(-(-parameter.numel() // 65536) for parameter in parameters)
    per_chunk = torch.empty(len(parameters) * chunks, device="meta")
    norms = [torch.empty((), device="meta") for _ in parameters]
    del per_chunk
    stacked = torch.empty(len(parameters), device="meta")
    total = torch.empty((), device="meta")
    del stacked, norms, total
