"""The user's trainer, transformers' or the one of trl's methods, with its own arguments, for a run of a few steps."""

from __future__ import annotations

import dataclasses
import tempfile
import warnings
from typing import Any

import torch

from ..core.errors import StageError
from ..setup.resolved import Taken
from ..setup.setup import Setup
from .batches import Batches
from .failures import as_stage_error
from .methods import METHODS, arguments_of_method, classes_of_method, options_of_method

# Training names that are the doctor's own or are read elsewhere in the pipeline.
_NOT_ARGUMENTS = {"trainer", "method", "kernels", "prepare_for_kbit_training", "max_steps", "num_train_epochs"}
# What the run of a probe replaces: it saves, reports and resumes nothing, and its two steps are steps at the rate
# that the setup names, not the first two of a warm-up.
_REPLACED = {
    "output_dir",
    "save_strategy",
    "report_to",
    "logging_steps",
    "eval_strategy",
    "resume_from_checkpoint",
    "lr_scheduler_type",
    "warmup_ratio",
    "warmup_steps",
    "dataloader_num_workers",
}
STAND_IN = "adamw_torch"
"""Steps for an optimizer that does not run on the CPU; of its updates nothing can be said."""
# One process on one device: what spreads or compiles the model is left out, and reported.
_LEFT_OUT = ("fsdp", "fsdp_config", "deepspeed", "ddp_find_unused_parameters", "torch_compile")
_DATA_ARGUMENTS = {"max_length", "dataset_text_field", "completion_only_loss"}


def make_trainer(
    setup: Setup,
    model: Any,
    batches: Batches,
    device: str | torch.device,
    *,
    steps: int = 2,
    callbacks: list[Any] | None = None,
    notes: list[str] | None = None,
) -> Any:
    """The trainer that will take ``steps`` optimizer steps: transformers' Trainer (Seq2SeqTrainer for a model with an
    encoder and a decoder), trl's SFTTrainer, or the trainer of the method that the batches are made for.

    It keeps its files in a temporary folder that goes with it.

    Args:
        model: what ``attach`` returned.
        device: ``cpu`` or ``cuda``; the model is there already.
        notes: is given what the run does otherwise than the setup says; one sentence each.

    Raises:
        StageError: the arguments are not valid for the installed version, or trl is not installed.
    """
    notes = notes if notes is not None else []
    device = torch.device(device)
    # TemporaryDirectory: removed when the trainer is.
    folder = tempfile.TemporaryDirectory(prefix="qlora-doctor-", ignore_cleanup_errors=True)
    method = METHODS.get(str(batches.method))
    trainer_class, arguments_class = classes_of_method(method, setup) if method else _classes(setup, model)
    arguments = arguments_of(setup, arguments_class, device, notes) | {"output_dir": folder.name, "max_steps": steps}
    options: dict[str, Any] = {"train_dataset": batches.dataset, "callbacks": callbacks}
    if method is not None:
        arguments = arguments_of_method(method, arguments, notes)
        options |= {"processing_class": batches.tokenizer, **options_of_method(method, arguments)}
    elif Taken(setup).trainer == "trl":
        options["processing_class"] = batches.tokenizer
        if Taken(setup).cuts_nothing:
            arguments["max_length"] = None
        if batches.samples is not None and batches.samples.format == "text":
            arguments["dataset_text_field"] = batches.samples.text_field
    if batches.collator is not None:
        options["data_collator"] = batches.collator
    trainer = _built(trainer_class, arguments_class, arguments, model=model, **options)
    if batches.behind is not None:
        trainer.data_collator = batches.behind(trainer.data_collator)
    _silence(trainer)
    trainer.temporary_folder = folder
    trainer.optimizer_stands_in = arguments.get("optim") == STAND_IN and setup.training.optim not in (None, STAND_IN)
    return trainer


def refuse_to_train_on_nothing(trainer: Any, batches: Batches, setup: Setup) -> None:
    """Say that no sample is left, where a sampler would complain about its number of samples.

    trl drops every sample of which truncation leaves only masked labels: ``SFTTrainer._prepare_dataset`` of trl 1.16.

    Raises:
        StageError: the trainer has no sample.
    """
    left = trainer.train_dataset
    if hasattr(left, "__len__") and len(left) == 0:
        raise StageError(
            f"{type(trainer).__name__} keeps none of the {len(batches.dataset)} samples that it was given: no label is "
            "left to learn from.",
            remedy="See what stage data says of the labels; a max_length that cuts every answer off does this.",
            place=setup.place("training.max_length") or setup.place("data"),
        )


def _built(trainer_class: Any, arguments_class: Any, arguments: dict[str, Any], **options: Any) -> Any:
    """The trainer, on one device.

    Raises:
        StageError: its class or that of its arguments refuses.
    """
    try:
        args = arguments_class(**arguments)
        _ = args.device  # sets the devices up; only then can their number be set to one
        args._n_gpu = min(args._n_gpu, 1)
        return trainer_class(args=args, **options)
    except Exception as error:
        raise as_stage_error(error, "building the trainer") from error


def _silence(trainer: Any) -> None:
    """Take off the callback that prints every log line; stdout is not the trainer's here."""
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)


def _classes(setup: Setup, model: Any) -> tuple[Any, Any]:
    if Taken(setup).trainer == "trl":
        try:
            from trl import SFTConfig, SFTTrainer
        except ImportError as error:
            raise StageError(
                "The setup trains with trl, which is not installed.",
                remedy="pip install 'qlora-doctor[trl]'",
                place=setup.place("training.trainer"),
            ) from error
        return SFTTrainer, SFTConfig
    from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer, TrainingArguments

    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return Seq2SeqTrainer, Seq2SeqTrainingArguments
    return Trainer, TrainingArguments


def arguments_of(setup: Setup, arguments_class: Any, device: torch.device, notes: list[str]) -> dict[str, Any]:
    """What the setup says, as far as the installed class knows it, and what a probe's run needs."""
    known = {f.name for f in dataclasses.fields(arguments_class)}
    chosen: dict[str, Any] = {}
    said = setup.training.model_dump(exclude=_NOT_ARGUMENTS | {"extra"}) | setup.training.extra
    for name, value in said.items():
        if value is None or name in _REPLACED:
            continue
        if name in _LEFT_OUT:
            notes.append(f"training.{name} was left out: the step runs in one process on one device, not compiled.")
        elif name == "group_by_length" and name not in known:
            chosen["train_sampling_strategy"] = "group_by_length" if value else "random"
        elif name in known:
            chosen[name] = value
        elif name not in _DATA_ARGUMENTS:
            notes.append(f"training.{name} was left out: the installed {arguments_class.__name__} does not know it.")
    if device.type == "cpu":
        _fit_to_cpu(chosen, notes)
    return chosen | {k: v for k, v in _of_a_probe(device).items() if k in known}


def _of_a_probe(device: torch.device) -> dict[str, Any]:
    return {
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "logging_strategy": "steps",
        "logging_steps": 1,
        # The filter would replace a NaN loss by the mean of the others.
        "logging_nan_inf_filter": False,
        "eval_strategy": "no",
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "push_to_hub": False,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": device.type == "cuda",
        "use_cpu": device.type == "cpu",
    }


def _fit_to_cpu(chosen: dict[str, Any], notes: list[str]) -> None:
    """The CPU has no fp16 training, and not every optimizer runs on it."""
    if chosen.pop("fp16", False):
        notes.append("training.fp16 was left out: mixed precision in float16 needs a GPU.")
    optimizer = str(chosen.get("optim", ""))
    if any(sign in optimizer for sign in ("paged", "8bit", "bnb", "apex", "ademamix")):
        settings: dict[str, Any] = {n: chosen[n] for n in ("learning_rate", "optim_args") if n in chosen}
        unpaged = optimizer.removeprefix("paged_")
        chosen["optim"] = next((each for each in (optimizer, unpaged) if _runs_on_cpu(each, settings)), STAND_IN)
        if chosen["optim"] == STAND_IN:
            notes.append(f"training.optim {optimizer!r} was replaced by {STAND_IN}: it needs a GPU.")
        elif chosen["optim"] != optimizer:
            notes.append(f"training.optim {optimizer!r} was stepped without its paged memory, which needs a GPU.")


def _runs_on_cpu(name: str, settings: dict[str, Any]) -> bool:
    """Whether an optimizer as the Trainer makes it can step on the CPU: bitsandbytes' newer ones do, most of them."""
    from transformers import Trainer, TrainingArguments

    with tempfile.TemporaryDirectory(prefix="qlora-doctor-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            args = TrainingArguments(output_dir=folder, optim=name, use_cpu=True, report_to=[], **settings)
            made, values = Trainer.get_optimizer_cls_and_kwargs(args)
            weight = torch.nn.Parameter(torch.ones(512, 256))  # large enough for 8 bits and for paged memory
            weight.grad = torch.ones_like(weight)
            made([weight], **values).step()
        except Exception:  # whatever it is: on this machine it cannot be stepped
            return False
    return True
