"""A training step in plain terms, and what the predictor makes of it: the cases of the truth files, and of tests.

``subject_of_setup`` makes the same of a config; here nothing of a config has a part in it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class StepCase:
    """All that decides a step's memory. Names are those of transformers, peft and bitsandbytes."""

    config: Any
    """A transformers PretrainedConfig."""
    batch: int = 1
    sequence: int = 512
    r: int = 16
    lora_alpha: float = 32
    lora_dropout: float = 0.05
    target_modules: str | list[str] | None = "all-linear"
    use_dora: bool = False
    use_rslora: bool = False
    modules_to_save: list[str] | None = None
    lora_options: dict[str, Any] = field(default_factory=dict)
    quant_type: str = "nf4"
    double_quant: bool = True
    compute_dtype: str = "bfloat16"
    dtype: str = "bfloat16"
    prepare_for_kbit_training: bool = True
    gradient_checkpointing: bool = True
    use_reentrant: bool = False
    gradient_accumulation_steps: int = 1
    optim: str = "adamw_torch_fused"
    max_grad_norm: float = 1.0
    precision: Literal["bf16", "fp16", "no"] = "bf16"
    attn_implementation: str = "sdpa"
    trainer: Literal["transformers", "trl"] = "transformers"
    packing: bool = False
    padded: bool = False
    """Whether samples of a batch differ in length, so that there is a mask."""
    flash: bool = False
    """Whether attention is the flash-attn package's (built as ``sdpa`` here, where that package is missing)."""
    from_checkpoint: bool = False
    """Loaded with from_pretrained from a checkpoint, not quantized layer by layer."""


def build_model(case: StepCase) -> Any:
    """The PEFT model of a case on the meta device, its 4-bit weights packed, ready to train."""
    import torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig
    from transformers.integrations import replace_with_bnb_linear
    from transformers.quantizers.auto import AutoHfQuantizer

    from qlora_doctor.pipeline.base import dtype_argument

    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=case.quant_type,
        bnb_4bit_use_double_quant=case.double_quant,
        bnb_4bit_compute_dtype=getattr(torch, case.compute_dtype),
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            case.config,
            **{dtype_argument(): getattr(torch, case.dtype)},
            attn_implementation=case.attn_implementation,
        )
        quantizer = AutoHfQuantizer.from_config(quantization, pre_quantized=False)
        skip = quantizer.get_modules_to_not_convert(model, None, getattr(model, "_keep_in_fp32_modules", None))
        model = replace_with_bnb_linear(model, modules_to_not_convert=skip, quantization_config=quantization)
        pack_weights(model, case.double_quant, case.quant_type, getattr(torch, case.dtype))
        model.tie_weights()
        model.config.use_cache = False
        model.is_loaded_in_4bit = True
        model.hf_quantizer = quantizer
        checkpointing = {"use_reentrant": case.use_reentrant}
        if case.prepare_for_kbit_training:
            model = prepare_model_for_kbit_training(
                model,
                use_gradient_checkpointing=case.gradient_checkpointing,
                gradient_checkpointing_kwargs=checkpointing,
            )
        else:
            for parameter in model.parameters():
                parameter.requires_grad_(False)
        lora = LoraConfig(
            r=case.r,
            lora_alpha=case.lora_alpha,
            lora_dropout=case.lora_dropout,
            target_modules=case.target_modules,
            use_dora=case.use_dora,
            use_rslora=case.use_rslora,
            modules_to_save=case.modules_to_save,
            task_type="CAUSAL_LM",
            **case.lora_options,
        )
        model = get_peft_model(model, lora)
        if case.gradient_checkpointing:
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable(checkpointing)
    model.train()
    return model


def pack_weights(model: Any, double_quant: bool, quant_type: str, dtype: Any) -> None:
    """Give every 4-bit layer a packed weight and its statistics, in the shapes bitsandbytes' quantize_4bit returns."""
    import torch
    from bitsandbytes.functional import QuantState
    from bitsandbytes.nn import Params4bit

    for module in model.modules():
        weight = module._parameters.get("weight")
        if not isinstance(weight, Params4bit):
            continue
        shape = torch.Size((module.out_features, module.in_features))
        count, block = shape.numel(), weight.blocksize
        packed = torch.empty(((count + 1) // (2 * weight.quant_storage.itemsize), 1), dtype=weight.quant_storage)
        blocks = -(-count // block)
        state2 = None
        if double_quant:
            absmax = torch.empty(blocks, dtype=torch.uint8)
            state2 = QuantState(
                absmax=torch.empty(-(-blocks // 256)), code=torch.empty(256), blocksize=256, dtype=torch.float32
            )
        else:
            absmax = torch.empty(blocks)
        state = QuantState(
            absmax=absmax,
            shape=shape,
            dtype=dtype,
            blocksize=block,
            code=torch.empty(16),
            quant_type=quant_type,
            offset=torch.empty(()) if double_quant else None,
            state2=state2,
        )
        new = Params4bit(
            packed,
            requires_grad=False,
            quant_state=state,
            blocksize=block,
            compress_statistics=double_quant,
            quant_type=quant_type,
            quant_storage=weight.quant_storage,
            bnb_quantized=True,
        )
        module._parameters["weight"] = new
        module.quant_state = state
        new.module = module


def subject_of_case(case: StepCase) -> Any:
    """The subject of a case."""
    import torch

    from qlora_doctor.memory.load import LoadOptions
    from qlora_doctor.memory.step import StepOptions
    from qlora_doctor.memory.subject import Subject

    model = build_model(case)
    load = LoadOptions(
        dtype=getattr(torch, case.dtype), prepared=case.prepare_for_kbit_training, warm_up=case.from_checkpoint
    )
    step = StepOptions(
        batch=case.batch,
        sequence=case.sequence,
        precision=case.precision,
        optim=case.optim,
        gradient_accumulation_steps=case.gradient_accumulation_steps,
        max_grad_norm=case.max_grad_norm,
        trainer=case.trainer,
        packing=case.packing,
        padded=case.padded,
        checkpointing=case.gradient_checkpointing,
        flash=case.flash,
    )
    return Subject(model, load, step)
