"""What a prediction is made of: a model on the meta device, how it is loaded, how it is trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from ..setup.changed import with_value
from ..setup.distribution import fsdp_settings, zero_settings
from ..setup.resolved import Taken
from ..setup.setup import SUPERVISED
from .engine_options import FlatOptions, ZeroOptions
from .generated_evaluation import generated_tokens
from .kept import Outline
from .kept_outputs import kept_outputs_of
from .kernel_switches import AXOLOTL, LIGER, UNSLOTH, LigerKernels, LoraKernels, Unsloth
from .load import LoadOptions
from .step import Program, StepOptions
from .trl_step import has_fused_head

if TYPE_CHECKING:
    from ..setup.setup import Setup
    from .images import Pictures


@dataclass
class Subject:
    """A PEFT model on the meta device, in training mode, with what its trainer will do.

    A trace changes the model (trl casts the adapter), so a subject serves one trace; build another for the next.

    Attributes
    ----------
    program: what the trainer does in a step, where that is not plain fine-tuning.
    assumptions: what was taken as given because nothing says it; one sentence each.
    """

    model: Any
    load: LoadOptions
    step: StepOptions
    program: Program | None = None
    assumptions: list[str] = field(default_factory=list)

    @property
    def outline(self) -> Outline:
        """What a prediction needs of it beside its tape."""
        from ..pipeline.architecture import context_length

        return Outline(
            batch=self.step.batch,
            sequence=self.step.sequence,
            optim=self.step.optim,
            checkpointing=self.step.checkpointing,
            head=_largest_head(self.model.config.get_text_config()),
            limit=context_length(self.model.config),
            assumptions=tuple(self.assumptions),
            kinds=tuple(self._kinds()),
        )

    def _kinds(self) -> Iterator[str]:
        """What the run is beyond plain fine-tuning on one card."""
        step = self.step
        if step.liger is not None:
            yield "liger"
        if step.pictures is not None:
            yield "images"
        if step.offloads_activations:
            yield "offloading"
        if step.data_parallel:
            yield "data parallel"
        if step.engine is not None:
            yield "sharded"
        if getattr(self.program, "generates", False):
            yield "generation"


def _largest_head(config: Any) -> int:
    """Elements of a head; of a model whose layers differ in it (Gemma 4) the largest."""
    layers = config.per_layer_config if getattr(config, "is_heterogeneous", False) else [config]
    return max(
        int(getattr(each, "head_dim", None) or each.hidden_size // (getattr(each, "num_attention_heads", None) or 1))
        for each in layers
    )


def subject_of_setup(
    setup: Setup,
    *,
    architecture: Any = None,
    batch: int | None = None,
    sequence: int | None = None,
    offline: bool = True,
) -> Subject:
    """The subject of a setup, built by the pipeline; ``batch`` and ``sequence`` stand in for the setup's own.

    Raises:
        StageError: the model cannot be built, or PEFT refuses the adapter; see ``qlora_doctor.pipeline``.
    """
    from ..pipeline import attach, build_base, prepare
    from ..pipeline.failures import as_stage_error
    from ..pipeline.preparing import is_prepared

    if Unsloth.of(setup) is not None:
        setup = with_value(setup, "training.prepare_for_kbit_training", False)  # it leaves what is frozen as it is
    base = build_base(setup, "meta", architecture=architecture, offline=offline)
    prepared = is_prepared(setup, base.model)
    prepare(base, setup)
    try:
        model = attach(base, setup)
    except Exception as error:  # PEFT's own words for an adapter that does not fit, of whatever class
        raise as_stage_error(error, "attaching the adapter") from error
    step, assumptions = _step_options(setup, model)
    step = replace(step, batch=batch or step.batch, sequence=sequence or step.sequence)
    if step.checkpointing:
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable(setup.training.gradient_checkpointing_kwargs)
    model.config.use_cache = False
    model.train()
    if not base.dtype_known:
        assumptions.append("The checkpoint's dtype is not known here; bfloat16 is assumed.")
    load = LoadOptions(dtype=base.dtype, prepared=prepared, warm_up=True)
    program, said = program_of(setup)
    return Subject(model, load, step, program, [*assumptions, *said, *base.notes])


def program_of(setup: Setup) -> tuple[Program | None, list[str]]:
    """What the trainer of the setup's method does in a step, and what is taken as given of it."""
    from .scope import METHODS
    from .trl_methods import TrlMethod

    unsloth = Unsloth.of(setup)
    if unsloth is not None:
        from .unsloth import UnslothStep

        return UnslothStep(unsloth), [
            f"Unsloth's code is that of version {UNSLOTH}, with PyTorch's own attention; all samples of a batch are as "
            "long as the longest."
        ]
    method = setup.training.method
    if method not in METHODS or method in SUPERVISED:
        return None, []
    program = TrlMethod(setup, method)
    said = "Prompts and answers fill half of the length each, and values that the trainer logs are made up."
    if program.generates:
        said = "Prompts fill the length that is set, answers max_completion_length, and their rewards are made up."
    return program, [said]


def _step_options(setup: Setup, model: Any) -> tuple[StepOptions, list[str]]:
    from ..pipeline import sequence_length

    training, values = setup.training, Taken(setup)
    assumptions = []
    length = sequence_length(setup, model.config)
    prompts = training.extra.get("max_prompt_length")
    if training.method in ("grpo", "rloo") and isinstance(prompts, int):
        length = prompts
    if setup.is_unknown("training.max_length"):
        assumptions.append(f"The length of the samples is not known here; {length} tokens are assumed.")
    elif training.max_length is None and values.trainer != "trl":
        assumptions.append(f"No length of a sample is set; {length} tokens are assumed.")
    if not training.packing:
        assumptions.append("Every sample of the batch is as long as the longest, so no mask is needed.")
    flash = str(setup.model.attn_implementation or "").startswith("flash_attention")
    if flash:
        assumptions.append("Attention is predicted as PyTorch's own copy of flash attention.")
    precision = values.precision
    ranks = values["hardware.count"]
    kernels = LigerKernels.of(setup, fuses_head=values.trainer == "trl" and has_fused_head())
    if kernels is not None:
        assumptions.append(f"Liger's kernels are those of version {LIGER}.")
    lora_kernels = LoraKernels.of(setup)
    if lora_kernels is not None:
        assumptions.append(f"axolotl's LoRA kernels are those of version {AXOLOTL}.")
    pictures = _pictures(setup, model)
    if pictures is not None:
        assumptions.append(pictures.said)
    step = StepOptions(
        batch=values["training.per_device_train_batch_size"],
        sequence=length,
        precision=precision,
        optim=values["training.optim"],
        gradient_accumulation_steps=values["training.gradient_accumulation_steps"],
        max_grad_norm=values["training.max_grad_norm"],
        trainer=values.trainer,
        packing=bool(values["training.packing"]),
        checkpointing=bool(values.trainer_checkpoints),
        flash=flash,
        neftune_alpha=training.neftune_noise_alpha,
        data_parallel=ranks > 1 and not training.fsdp and not training.deepspeed,
        engine=_engine(values),
        ranks=ranks,
        offloads_activations=values.trainer == "trl" and bool(training.extra.get("activation_offloading")),
        liger=kernels,
        lora_kernels=lora_kernels,
        pictures=pictures,
        kept=kept_outputs_of(setup),
        evaluation_tokens=generated_tokens(model, setup),
    )
    return step, assumptions


def _engine(values: Taken) -> Literal["fsdp2"] | FlatOptions | ZeroOptions | None:
    """What divides the run over its ranks; which engines are modelled is said in :mod:`.scope`."""
    setup = values.setup
    if setup.training.fsdp:
        settings = fsdp_settings(setup) or {}
        return FlatOptions.of(settings) if values.fsdp_version(settings) == 1 else "fsdp2"
    return ZeroOptions.of(zero_settings(setup)) if setup.training.deepspeed else None


def _pictures(setup: Setup, model: Any) -> Pictures | None:
    """The images in the batches of a model that takes some; None of one that does not, or where none can be made."""
    from .images import NoPictures, pictures_of

    if setup.data.format is not None:
        return None
    try:
        return pictures_of(model, setup)
    except NoPictures:
        return None
