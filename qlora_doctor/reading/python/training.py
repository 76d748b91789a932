"""A script's training → ``training`` of a Setup: the trainer's arguments, and what is done to the model before it."""

from __future__ import annotations

import re

from ...setup.defaults import TRL
from ...setup.resolved import Resolved
from ...setup.setup import Setup
from ...tables.conditions import NO_TF32, TF32_REFUSED
from ..dialects.values import switch
from .hf_calls import ADAPTED, RESUMED
from .parts import NUMERICS, TRAINING_ARGUMENTS, mapping_of, place_of
from .setup_builder import SetupBuilder
from .training_script import TrainingScript, adapter_name, argument
from .values import Known, Made, Step, Unknown, Value

METHODS: dict[str, tuple[str, str | None]] = {
    "Trainer": ("transformers", None),
    "Seq2SeqTrainer": ("transformers", None),
    "SFTTrainer": ("trl", "sft"),
    "UnslothTrainer": ("trl", "sft"),
    "DPOTrainer": ("trl", "dpo"),
    "ORPOTrainer": ("trl", "orpo"),
    "KTOTrainer": ("trl", "kto"),
    "CPOTrainer": ("trl", "cpo"),
    "BCOTrainer": ("trl", "bco"),
    "RewardTrainer": ("trl", "reward"),
    "PPOTrainer": ("trl", "ppo"),
    "GRPOTrainer": ("trl", "grpo"),
    "RLOOTrainer": ("trl", "rloo"),
    "GKDTrainer": ("trl", "gkd"),
    "OnlineDPOTrainer": ("trl", "online-dpo"),
    "NashMDTrainer": ("trl", "nash-md"),
    "XPOTrainer": ("trl", "xpo"),
    "PRMTrainer": ("trl", "prm"),
    "GOLDTrainer": ("trl", "gold"),
    "SDFTTrainer": ("trl", "sdft"),
    "SDPOTrainer": ("trl", "sdpo"),
    "TPOTrainer": ("trl", "tpo"),
    "A2POTrainer": ("trl", "a2po"),
    "GMPOTrainer": ("trl", "gmpo"),
    "AsyncGRPOTrainer": ("trl", "grpo"),
    "MiniLLMTrainer": ("trl", "minillm"),
}
_OWN_CODE = "A training loop that was not read decides."
_PLAIN = ("learning_rate", "bf16", "gradient_checkpointing", "per_device_train_batch_size")
"""Arguments of which TrainingArguments' own default counts, where SFTConfig has another."""
_TAKEN_OVER = "default of TrainingArguments, which SFTTrainer takes over"
_CHECKPOINTING = "training.gradient_checkpointing"
_THAWS = re.compile(r"\.requires_grad\s*=(?!=)|\brequires_grad_\(|\bset_adapter\(")
"""Code that may let an adapter train again after it was frozen."""
_KWARGS = "training.gradient_checkpointing_kwargs"
_LENGTH = "training.max_length"
_RESUME = "training.resume_from_checkpoint"
_PREPARE = "training.prepare_for_kbit_training"


def read_training(script: TrainingScript, builder: SetupBuilder) -> None:
    """``training``: what the trainer is given, and what prepare_model_for_kbit_training and the model get."""
    arguments = script.arguments()
    if isinstance(arguments, Made):
        _take_arguments(arguments, builder)
    kind, method = METHODS.get(script.trainer.maker, (None, None)) if script.trainer is not None else (None, None)
    if script.trainer is not None and kind is not None:
        builder.put("training.trainer", kind, script.trainer.node)
        if method is not None:
            builder.put("training.method", method, script.trainer.node)
    _read_length(script, builder, arguments, kind)
    _read_trainers_own(script, builder)
    _read_resume(script, builder)
    _read_reference(script, builder, arguments)
    _read_evaluation(script, builder, kind)
    _read_metrics(script, builder)
    if script.trainer is None and any(kind == "training-loop" for kind, _, _ in script.seen.not_followed):
        _read_own_loop(script, builder)
    _read_checkpointing(script, builder, arguments)
    _read_preparation(script, builder, kind)
    _close(script, builder, arguments, kind, method)


def _take_arguments(arguments: Made, builder: SetupBuilder) -> None:
    builder.head("training", arguments.node)
    for given, value in arguments.arguments.items():
        name = "output_dir" if given == 0 else given  # the first field of TrainingArguments and of all that inherit it
        row = TRAINING_ARGUMENTS.get(name) if isinstance(name, str) else None
        if row:
            path, convert = (row, None) if isinstance(row, str) else row
            if not builder.knows(path):
                builder.take(path, value, place_of(arguments, given), convert)
        elif name in NUMERICS:
            builder.extra("training", str(name), value)
        elif name == "tf32" and isinstance(value, Known) and value.data is True:
            builder.refused(*TF32_REFUSED, "training.tf32", machine=NO_TF32, node=place_of(arguments, name))


def _read_trainers_own(script: TrainingScript, builder: SetupBuilder) -> None:
    """Arguments that SFTTrainer itself took before SFTConfig did."""
    for name, path in (("packing", "training.packing"), ("neftune_noise_alpha", "training.neftune_noise_alpha")):
        value = script.given(name)
        if script.trainer is not None and value is not None and not builder.knows(path):
            builder.take(path, value, place_of(script.trainer, name))


def _read_resume(script: TrainingScript, builder: SetupBuilder) -> None:
    """What train() goes on from; the argument of the same name is only kept for the script to pass on."""
    passed = script.trainer.arguments.get(RESUMED) if script.trainer is not None else None
    if passed is not None:
        builder.take(_RESUME, passed, passed.node)
    elif builder.value(_RESUME):
        builder.unknown(
            _RESUME, "train() is not given it, and TrainingArguments only keeps it for the script to pass on."
        )


def _read_reference(script: TrainingScript, builder: SetupBuilder, arguments: Value | None) -> None:
    """A reference of its own: a second model, or an adapter that is named for it."""
    given = (
        script.given("ref_model", 1) if script.trainer is not None and script.trainer.maker == "DPOTrainer" else None
    )
    given = script.given("ref_model") if given is None or isinstance(given, Made) else given
    named = arguments.arguments.get("ref_adapter_name") if isinstance(arguments, Made) else None
    value = given if given is not None else named
    if value is not None and not (isinstance(value, Known) and value.data is None):
        note = "The trainer is given a reference of its own."
        builder.remark("reference-given", value.node, note)


def _read_evaluation(script: TrainingScript, builder: SetupBuilder, kind: str | None) -> None:
    """An evaluation that is asked for, and no rows for it, at which Trainer stops when it is built."""
    trainer, strategy = script.trainer, builder.value("training.eval_strategy")
    if trainer is None or kind is None or not trainer.exact or strategy not in ("steps", "epoch"):
        return
    by_position = any(isinstance(name, int) and name >= 3 for name in trainer.arguments)
    if script.given("eval_dataset") is None and not by_position:
        note = f"transformers stops: eval_strategy is {strategy} and the trainer is given no eval_dataset."
        builder.refused("evaluation-without-data", note, "training.eval_strategy")


def _read_metrics(script: TrainingScript, builder: SetupBuilder) -> None:
    """Whether an evaluation keeps the logits of all its rows."""
    metrics = script.given("compute_metrics")
    if metrics is not None and script.trainer is not None and script.given("preprocess_logits_for_metrics") is None:
        none = isinstance(metrics, Known) and metrics.data is None
        builder.put("training.compute_metrics", not none, metrics.node)


_OPTIMIZERS = {
    "AdamW": "adamw_torch",
    "AdamW8bit": "adamw_8bit",
    "PagedAdamW": "paged_adamw_32bit",
    "PagedAdamW32bit": "paged_adamw_32bit",
    "PagedAdamW8bit": "paged_adamw_8bit",
    "SGD": "sgd",
    "Adafactor": "adafactor",
}
"""Classes that a loop of its own steps → the name that TrainingArguments has for them."""


def _read_own_loop(script: TrainingScript, builder: SetupBuilder) -> None:
    """A training loop of its own: the rate of its one optimizer, the batch of the loader that shuffles."""
    optimizers = [call for call, _ in script.seen.calls if call.maker.startswith("optimizer:")]
    if len({id(call.node) for call in optimizers}) == 1:
        call = optimizers[0]
        name = _OPTIMIZERS.get(call.maker.partition(":")[2])
        rate = argument(call, "lr", 1)
        if rate is not None:
            builder.take("training.learning_rate", rate, place_of(call, "lr"))
        if name is not None:
            builder.put("training.optim", name, call.node)
        builder.take("training.weight_decay", call.arguments.get("weight_decay"), place_of(call, "weight_decay"))
    loaders = [call for call, _ in script.seen.calls if call.maker == "DataLoader"]
    shuffling = [each for each in loaders if isinstance(s := each.arguments.get("shuffle"), Known) and s.data is True]
    chosen = shuffling or loaders
    if len({id(call.node) for call in chosen}) == 1 and "batch_sampler" not in chosen[0].arguments:
        size = argument(chosen[0], "batch_size", 1)
        if size is not None:
            builder.take("training.per_device_train_batch_size", size, place_of(chosen[0], "batch_size"))
        else:
            builder.default("training.per_device_train_batch_size", 1, "default of DataLoader")


def _read_length(script: TrainingScript, builder: SetupBuilder, arguments: Value | None, kind: str | None) -> None:
    """``max_length``, which older versions of SFTTrainer took themselves and called max_seq_length."""
    if kind == "transformers":
        builder.unknown(_LENGTH, "The script cuts its samples by code of its own.")
        return
    trainer = script.trainer
    written = trainer.arguments.get("max_seq_length") if trainer is not None else None
    if trainer is not None and written is not None and not builder.knows(_LENGTH):
        if isinstance(written, Known) and written.data is None:
            builder.unknown(
                _LENGTH, "max_seq_length is None: TRL's version decides.", place_of(trainer, "max_seq_length")
            )
        else:
            builder.take(_LENGTH, written, place_of(trainer, "max_seq_length"))
    if isinstance(arguments, Made) and not builder.knows(_LENGTH):
        value = arguments.arguments.get("max_length")
        if isinstance(value, Known) and value.data is None:
            builder.silence(_LENGTH, place_of(arguments, "max_length"), "Nothing is cut.")
    load = script.model.load if script.model is not None else None
    if script.is_unsloth and load is not None and not builder.knows(_LENGTH):
        builder.take(_LENGTH, load.arguments.get("max_seq_length"), place_of(load, "max_seq_length"))
        builder.leave(_LENGTH, why="Unsloth decides.")


def _read_checkpointing(script: TrainingScript, builder: SetupBuilder, arguments: Value | None) -> None:
    """Gradient checkpointing: the trainer turns it on, or the model is set to it, or preparation does it."""
    if script.is_unsloth:
        _unsloth_checkpointing(script, builder)
        return
    asked = builder.value(_CHECKPOINTING)
    if builder.knows(_CHECKPOINTING) and asked is None:
        return
    on = _on_the_model(script, _is_quantized(builder))
    if asked:
        _remark_replaced(on, builder)
        return
    if on is None:
        off = [step for step in script.steps if step.kind == "prepare" and step.sure and _checkpoints(step) is False]
        if off and asked is None and not _by_trainer(script):
            call = off[-1].call
            builder.put(_CHECKPOINTING, False, place_of(call, "use_gradient_checkpointing"))
        return
    if not on.sure or _checkpoints(on) is None:
        builder.unknown(_CHECKPOINTING, "Whether it is turned on is decided while the script runs.", on.call.node)
        return
    if asked is None and on.kind == "prepare" and script.trainer is not None:
        _take_kwargs(on, builder)
        return  # silent: preparation turns it on, which is what a silent config stands for
    name = "prepare_model_for_kbit_training" if on.kind == "prepare" else "gradient_checkpointing_enable"
    builder.put(_CHECKPOINTING, True, on.call.node, f"{name} turns it on, whatever the trainer's switch says.")
    _take_kwargs(on, builder)


def _by_trainer(script: TrainingScript) -> bool:
    """True where the trainer's own default may turn checkpointing on."""
    arguments = script.arguments()
    plain = isinstance(arguments, Made) and arguments.maker in ("TrainingArguments", "Seq2SeqTrainingArguments")
    return not plain and script.trainer is not None and script.trainer.maker != "Trainer"


def _is_quantized(builder: SetupBuilder) -> bool | None:
    """Whether the base is loaded in 4 or 8 bits, without which preparation leaves checkpointing alone."""
    bits = ("quantization.load_in_4bit", "quantization.load_in_8bit")
    if any(builder.value(path) for path in bits):
        return True
    return None if any(builder.knows(path) and builder.value(path) is None for path in bits) else False


def _on_the_model(script: TrainingScript, quantized: bool | None) -> Step | None:
    """The last step that turns checkpointing on, or may; None where none does or a later one turns it off."""
    found: Step | None = None
    for step in script.steps:
        prepares = step.kind == "prepare" and quantized is not False and _checkpoints(step) is not False
        if step.kind == "checkpointing" or prepares:
            found = Step(step.kind, step.call, step.sure and (step.kind == "checkpointing" or quantized is True))
        elif step.kind == "no-checkpointing" and found is not None:
            found = None if step.sure else Step(found.kind, found.call, sure=False)
    return found


def _checkpoints(step: Step) -> bool | None:
    """Whether a step turns checkpointing on; preparation does unless it is switched off."""
    if step.kind == "checkpointing":
        return True
    value = argument(step.call, "use_gradient_checkpointing", 1)
    if value is None:
        return True if step.call.exact else None
    return value.data if isinstance(value, Known) and isinstance(value.data, bool) else None


def _take_kwargs(step: Step, builder: SetupBuilder) -> None:
    value = step.call.arguments.get("gradient_checkpointing_kwargs")
    if value is None and step.kind == "checkpointing":
        value = step.call.arguments.get(0)
    if not builder.knows(_KWARGS):
        builder.take(_KWARGS, value, place_of(step.call, "gradient_checkpointing_kwargs"))


def _remark_replaced(on: Step | None, builder: SetupBuilder) -> None:
    """The trainer turns checkpointing on again with arguments of its own, and those given to the model are lost."""
    if on is None:
        return
    place = place_of(on.call, "gradient_checkpointing_kwargs")
    own = mapping_of(on.call.arguments.get("gradient_checkpointing_kwargs"))
    trainers = builder.value(_KWARGS)
    if own and trainers and own.get("use_reentrant") != trainers.get("use_reentrant"):
        where = builder.source.where(place) if place is not None else "the model"
        note = f"The trainer's gradient_checkpointing_kwargs replace those of {where}."
        builder.remark("checkpointing-arguments-replaced", place, note, _KWARGS)


def _unsloth_checkpoints(script: TrainingScript) -> object:
    """What ``use_gradient_checkpointing`` is, None where it is silent, which means "unsloth"."""
    call = next((step.call for step in script.steps if step.kind == "attach-unsloth"), None)
    value = call.arguments.get("use_gradient_checkpointing") if call is not None else None
    return value.data if isinstance(value, Known) else value


def _unsloth_checkpointing(script: TrainingScript, builder: SetupBuilder) -> None:
    call = next((step.call for step in script.steps if step.kind == "attach-unsloth"), None)
    value = call.arguments.get("use_gradient_checkpointing") if call is not None else None
    if call is not None and isinstance(value, Known):
        on = True if value.data == "unsloth" else value.data
        written = Known(value.node, value.given, value.by_card, data=on)
        builder.take(_CHECKPOINTING, written, place_of(call, "use_gradient_checkpointing"), switch)
    elif call is not None and value is None and call.exact:
        builder.default(_CHECKPOINTING, True, "default of FastLanguageModel.get_peft_model")
    builder.leave(_CHECKPOINTING, why="Unsloth decides.")
    builder.unknown(_KWARGS, "Unsloth checkpoints by code of its own.")


def _read_preparation(script: TrainingScript, builder: SetupBuilder, kind: str | None) -> None:
    steps = [step for step in script.steps if step.kind == "prepare"]
    grads = [step for step in script.steps if step.kind == "input-grads"]
    if script.is_unsloth:
        builder.unknown(_PREPARE, "Unsloth prepares the model by code of its own.")
    elif any(step.sure for step in steps):
        builder.put(_PREPARE, True, next(step for step in steps if step.sure).call.node)
    elif steps or not script.whole:
        why = "A condition decides." if steps else "What is done with the model before training is not fully known."
        builder.unknown(_PREPARE, why, steps[0].call.node if steps else None)
    elif script.leaves_out("prepare_model_for_kbit_training"):
        builder.unknown(_PREPARE, "An argument of the script decides.")
    elif kind == "trl" and script.given("peft_config") is not None:
        return  # silent: whether TRL's trainer prepares what it attaches the adapter to, its version decides
    elif grads:
        builder.unknown(_PREPARE, "The script makes the inputs require gradients by itself.", grads[0].call.node)
    else:
        builder.default(_PREPARE, False, "The script does not call prepare_model_for_kbit_training.")


def _close(
    script: TrainingScript, builder: SetupBuilder, arguments: Value | None, kind: str | None, method: str | None
) -> None:
    """Say what stands where the script is silent."""
    if isinstance(arguments, Made):
        if not arguments.exact:
            builder.leave_rest("training", why=arguments.why)
    elif arguments is not None or script.trainer is None or not script.trainer.exact:
        builder.leave_rest("training", why=arguments.why if isinstance(arguments, Unknown) else _OWN_CODE)
    if kind is None:
        builder.leave_rest("training", why="Which trainer takes these arguments is not known.")
    if script.is_unsloth:
        offloads = _unsloth_checkpoints(script) in ("unsloth", None)
        kernels = ["unsloth", *(["unsloth-offloading"] if offloads else [])]
        builder.default("training.kernels", kernels, "The model is of one of Unsloth's classes.")
        builder.default("hardware.expandable_segments", True, "Unsloth sets PYTORCH_ALLOC_CONF as it is imported.")
        builder.leave_rest("training", why="Unsloth has defaults of its own, which change between versions.")
    if kind == "trl" and method not in TRL:
        builder.leave_rest("training", why=f"It is a default of TRL's {method}, by version.")
    takes_over = isinstance(arguments, Made) and arguments.maker.endswith("TrainingArguments")
    if kind == "trl" and takes_over:
        plain = Resolved(Setup(dialect="python"))
        for name in _PLAIN:
            silent = name == "gradient_checkpointing" and any(step.kind == "prepare" for step in script.steps)
            if not silent:
                builder.default(f"training.{name}", plain[f"training.{name}"], _TAKEN_OVER)


def order_of(script: TrainingScript, builder: SetupBuilder) -> None:
    """Steps in an order, or a number, that undoes what was meant; said only where all is seen."""
    if not script.whole or script.is_unsloth:
        return
    thaws = _THAWS.search(script.code) is not None
    attached: Step | None = None
    loaded: Step | None = None
    frozen: tuple[Step, Step] | None = None
    for step in script.steps:
        if not step.sure:
            continue
        if step.kind in ("attach", "load-adapter"):
            frozen = None  # what is attached now trains
            if attached is not None and _is_lora(step) and step.call.maker == "get_peft_model":
                _remark_twice(builder, step.call, "get_peft_model")
            elif attached is not None and step.kind == "load-adapter" and step.call.maker in ADAPTED:
                _remark_twice(builder, step.call, f"{step.call.maker}.from_pretrained")
            elif loaded is not None and _is_lora(step) and step.call.maker == "get_peft_model":
                _remark_loaded(builder, loaded, step)
            attached = step if _is_lora(step) else None
            loaded = step if step.kind == "load-adapter" and step.call.maker in ADAPTED else None
        elif step.kind == "merge":
            attached, loaded = None, None
        elif step.kind == "prepare" and attached is not None and not thaws:
            frozen = attached, step
    if frozen is not None:
        first, prepared = (each.call for each in frozen)
        where = builder.source.where(first.node) if first.node is not None else "before"
        note = (
            "prepare_model_for_kbit_training freezes every parameter, those of the adapter included, "
            f"which {first.maker} attached in {where}."
        )
        builder.remark("prepared-after-attach", prepared.node, note, _PREPARE)
    config = script.given("peft_config")
    if (
        (attached is not None or loaded is not None)
        and isinstance(config, Made)
        and config.maker == "LoraConfig"
        and script.trainer is not None
    ):
        _remark_twice(builder, script.trainer, "the trainer's peft_config")


def _is_lora(step: Step) -> bool:
    config = argument(step.call, "peft_config", 1)
    return step.kind == "attach" and isinstance(config, Made) and config.maker == "LoraConfig"


def _remark_loaded(builder: SetupBuilder, loaded: Step, again: Step) -> None:
    """PEFT initialises the layers of an adapter's name again, whatever they hold (peft/tuners/lora/layer.py)."""
    names = {adapter_name(loaded), adapter_name(again)}
    if len(names) != 1 or None in names:
        return
    first, second = (builder.source.where(step.call.node) for step in (loaded, again))
    note = (
        f"get_peft_model in {second} initialises again the adapter that {loaded.call.maker}.from_pretrained loaded in "
        f"{first}: what it had learned is lost, and the training starts from the base."
    )
    builder.remark("loaded-adapter-renewed", again.call.node, note, "lora.renewed")


def _remark_twice(builder: SetupBuilder, call: Made, what: str) -> None:
    if builder.has_remark("attached-twice"):
        return
    note = f"The model has an adapter already, and {what} asks for another one."
    builder.remark("attached-twice", place_of(call, "peft_config"), note, "lora.attached_twice")


def by_card(builder: SetupBuilder) -> None:
    """What the script chooses by the card: one choice of all of it where it is one, else unknown."""
    chosen = builder.by_card
    if not chosen:
        return
    sixteen = {"model.dtype": "bfloat16", "quantization.bnb_4bit_compute_dtype": "bfloat16", "training.bf16": True}
    for path in chosen - sixteen.keys() - {"training.fp16"}:
        builder.unknown(path, "The script chooses it by the card.")
    chosen &= sixteen.keys() | {"training.fp16"}
    bf16 = {path for path, value in sixteen.items() if builder.value(path) == value}
    paired = "training.bf16" not in bf16 or builder.value("training.fp16") is False
    if bf16 and bf16 <= chosen and chosen <= bf16 | {"training.fp16"} and paired:
        for path in bf16 - {"training.bf16"}:
            builder.default_place(path)
        builder.remark("bf16-auto", None, "bf16 where the GPU has it, else fp16.")
        return
    for path in chosen:
        builder.unknown(path, "The script chooses it by the card.")
