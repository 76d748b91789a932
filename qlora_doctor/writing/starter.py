"""A commented config to start from, for a chosen model and card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import UsageError
from ..setup.paths import looks_like_path
from ..tables.architectures import closest_architectures, find_architecture
from ..tables.cards import UnknownCard, find_card
from .edit import yaml_scalar

if TYPE_CHECKING:
    from ..setup.setup import Setup

_TEMPLATE = """\
# A QLoRA setup: the base in 4-bit and frozen, a small adapter that learns.
# Check it:  qlora-doctor check {file}

model: {model}  # hub id or folder{known}

quantization:  # BitsAndBytesConfig's names
  load_in_4bit: true
  bnb_4bit_quant_type: nf4  # the library's default is fp4, which is less accurate
  bnb_4bit_use_double_quant: true  # saves about 0.4 bits per parameter
  bnb_4bit_compute_dtype: {dtype}  # {dtype_why}

lora:  # LoraConfig's names
  r: 16
  lora_alpha: 32
  lora_dropout: {dropout}
  target_modules: all-linear  # every linear layer but the head, as in the QLoRA paper
  task_type: CAUSAL_LM

training:  # TrainingArguments' and SFTConfig's names
  trainer: transformers  # or trl
  prepare_for_kbit_training: true
  per_device_train_batch_size: 1
  gradient_accumulation_steps: 16
  learning_rate: 0.0002  # not 2e-4: YAML reads that as a text
  lr_scheduler_type: constant_with_warmup
  warmup_steps: 50
  max_grad_norm: 0.3
  optim: paged_adamw_8bit  # its state may move to host memory when the card is full
  {precision}: true
  gradient_checkpointing: true
  gradient_checkpointing_kwargs:
    use_reentrant: false
  max_length: 1024
  num_train_epochs: 1

# data:
#   train: train.jsonl  # JSONL, JSON, CSV or Parquet
#   format: messages  # or text, prompt-completion
{hardware}"""


def starter_config(model: str, gpu: str | None = None, *, file: str = "config.yaml", schema: str | None = None) -> str:
    """The text of a YAML config.

    Args:
        model: hub id or folder of the base.
        gpu: the card that the run is meant for; None leaves it to the machine where it is checked.
        file: the name it will be saved under, for the comment at its top.
        schema: address of the JSON schema, for a comment that editors read; None leaves it out.

    Raises:
        UsageError: the card is not known, or the model's name is empty.
    """
    if not model.strip():
        raise UsageError("The model has no name.", remedy="qlora-doctor init --model meta-llama/Llama-3.1-8B")
    card = None
    if gpu is not None:
        try:
            card = find_card(gpu)
        except UnknownCard as error:
            hint = f"Closest are {', '.join(error.closest)}." if error.closest else None
            raise UsageError(f"{gpu!r} is not a known card.", remedy=hint) from None
    has_bf16 = card is None or card.bf16
    if has_bf16:
        why = "needs Ampere or newer (compute capability 8.0)"
    else:
        why = "this card has no bfloat16 arithmetic"
    hardware = f"\nhardware:\n  gpu: {yaml_scalar(card.name)}\n" if card is not None else ""
    for_editors = f"# yaml-language-server: $schema={schema}\n" if schema is not None else ""
    return for_editors + _TEMPLATE.format(
        file=file,
        model=yaml_scalar(model),
        known=_remark(model),
        dropout="0.0  # adapters on experts that are one tensor take none" if _has_experts(model) else "0.05",
        dtype="bfloat16" if has_bf16 else "float16",
        dtype_why=why,
        precision="bf16" if has_bf16 else "fp16",
        hardware=hardware,
    )


def starter_setup(model: str, gpu: str | None = None) -> Setup:
    """The setup of that config, for a question without a file.

    Raises:
        UsageError: as :func:`starter_config`.
    """
    from ..reading.document import document_of
    from ..reading.native import setup_from_mapping

    data = document_of(Path("config.yaml"), starter_config(model, gpu)).data
    assert isinstance(data, dict)
    return setup_from_mapping(data)


def _has_experts(model: str) -> bool:
    """Whether a known model is a mixture of experts: PEFT refuses dropout on parameters (``lora.ParamWrapper``)."""
    found = find_architecture(model)
    config = {} if found is None else found.config.get("text_config", found.config)
    return any("expert" in name and value for name, value in config.items())


def _remark(model: str) -> str:
    """What is worth knowing of the model's name; comments of one line."""
    if looks_like_path(model) or find_architecture(model) is not None:
        return ""
    closest = closest_architectures(model)
    return f"; known names like this: {', '.join(closest)}" if closest else ""
