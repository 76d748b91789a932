"""Setup + environment → ConfigFacts: what the config means once every default is filled in.

A value that the config leaves to a program that was not read (``unknown``) stays None, so that rules about it are
skipped; a silent one stands with the default of the library that will read it.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

from pydantic import BaseModel

from ...core.versions import version_tuple
from ...facts.config import ConfigFacts, NotFollowed, Remark, UnknownKey, Versions
from ...facts.environment import EnvironmentFacts, Packages
from ...facts.schedule import ScheduleFacts
from ...setup import defaults
from ...setup.defaults import Libraries
from ...setup.distribution import deepspeed_settings, fsdp_settings
from ...setup.paths import model_kind
from ...setup.resolved import Resolved
from ...setup.setup import SECTIONS, KeyNote, Setup
from ...setup.setup import Remark as ReadersRemark
from ...tables import conditions
from .checkpoint import with_stored_bits
from .combinations import deepspeed_mismatches, distribution_facts, refused_by_libraries, training_facts
from .decided import decided_facts
from .kinds import compares_answers, is_language_model
from .loading import loading_facts
from .needs import missing_packages
from .one_process import launch_facts, refused_of_one_process
from .preference import preference_facts
from .prepared import stale_prepared
from .schedule import refused_by_schedule, schedule_facts
from .settle import BY_CARD
from .splits import splits_overlap
from .stored_adapter import stored_adapter_facts
from .template import template_facts


def conclude(setup: Setup, environment: EnvironmentFacts | None) -> ConfigFacts:
    """The facts of a config.

    Args:
        setup: what was understood of the file.
        environment: versions and GPUs of this machine; None where nothing may be assumed about it.
    """
    installed = Libraries.of(environment.packages if environment is not None else None)
    meant = installed.asked_for(setup.versions)
    around = _as_asked(environment, setup)
    told = [_conclude(setup, around, each) for each in meant.each()]
    agreed = told[0] if len(told) == 1 else _agreed(told)
    return agreed.model_copy(update={"versions": _versions(setup, environment)})


def _versions(setup: Setup, environment: EnvironmentFacts | None) -> Versions:
    """The versions that count, as they are written."""
    packages = environment.packages if environment is not None else Packages()
    asked = setup.versions
    counted: dict[str, Any] = {
        name: asked[name].exact if name in asked else getattr(packages, name) for name in Versions.model_fields
    }
    return Versions.model_construct(**counted)


def _as_asked(environment: EnvironmentFacts | None, setup: Setup) -> EnvironmentFacts | None:
    """The environment with the versions that the project asks for; which one of a range there is, is not known."""
    if environment is None or not setup.versions:
        return environment
    exact = {name: asked.exact for name, asked in setup.versions.items()}
    return environment.model_copy(update={"packages": environment.packages.model_copy(update=exact)})


Agreeing = TypeVar("Agreeing", bound=BaseModel)


def _agreed(told: list[Agreeing]) -> Agreeing:
    """What several versions agree on; the rest is None."""
    first = told[0]
    changed: dict[str, Any] = {}
    for name in type(first).model_fields:
        values = [getattr(each, name) for each in told]
        if all(value == values[0] for value in values):
            continue
        inner = all(isinstance(value, BaseModel) for value in values)
        changed[name] = _agreed(values) if inner else None
    return first.model_copy(update=changed)


def _conclude(setup: Setup, environment: EnvironmentFacts | None, libraries: Libraries) -> ConfigFacts:
    """The facts of a config with these versions."""
    setup, bits_of_checkpoint = with_stored_bits(setup)
    values = Resolved(setup, libraries)
    quantization = _quantization(values) | {"bits_of_checkpoint": bits_of_checkpoint}
    training = _training(values)
    model, card = _model(values), _card(setup, environment)
    fallback = next((BY_CARD[kind] for r in setup.remarks if (kind := r.kind) in BY_CARD), None)
    if card.get("gpu_bf16") is False and fallback is not None:
        _fall_back(setup, fallback, model, quantization, training)
    distribution, lora = _distribution(values), _lora(values)
    known = {**model, **quantization, **lora, **training, **distribution, **stored_adapter_facts(setup)}
    known |= distribution_facts(setup, ConfigFacts.model_construct(**known))
    known |= launch_facts(setup, ConfigFacts.model_construct(**known), environment)
    so_far = ConfigFacts.model_construct(**known)

    def get(path: str, default: Any = None) -> Any:
        value = values[path]
        return default if value is None and values.is_silent(path) else value

    schedule = schedule_facts(setup, get, so_far)
    return ConfigFacts(
        dialect=setup.dialect,
        dialect_confidence=setup.dialect_confidence,
        **known,
        **card,
        schedule=schedule,
        preference=preference_facts(setup, get, so_far, libraries),
        **training_facts(setup, so_far, libraries),
        **decided_facts(setup, so_far),
        **_budgets(setup),
        unknown_keys=_keys(setup.unknown_keys, environment, setup),
        stops_at_unknown_keys=setup.stops_at_unknown_keys,
        duplicate_keys=list(setup.duplicate_keys),
        string_numbers=list(setup.string_numbers),
        removed_keys=_keys(setup.removed_keys, environment),
        deprecated_keys=_keys(setup.deprecated_keys, environment),
        missing_packages=missing_packages(setup, so_far, environment.packages if environment else None, libraries),
        **_remarks(setup, environment, card, schedule, refused_of_one_process(so_far, libraries)),
        **loading_facts(setup, libraries),
        **template_facts(setup),
        splits_overlap=splits_overlap(setup),
        stale_prepared=stale_prepared(setup),
        **_statements(setup, libraries),
        idle_four_bit_options=_idle_options(setup, quantization["four_bit"]),
    )


_OF_COUNTS = {"loss-takes-no-count", "loss-ignores-count"}


def _hands_over_counts(setup: Setup, libraries: Libraries) -> bool:
    """Whether every transformers that the run may have hands a count of tokens to compute_loss: from 4.46 on."""
    asked = setup.versions.get("transformers")
    lowest = libraries.transformers if asked is None else version_tuple(asked.exact or asked.at_least)
    return lowest >= (4, 46) if lowest is not None else asked is None


def _statements(setup: Setup, libraries: Libraries) -> dict[str, Any]:
    """What a script does that is not followed, and in which mode its own loop trains."""
    left_out = set() if _hands_over_counts(setup, libraries) else _OF_COUNTS
    told = [
        NotFollowed(
            kind=each.kind,
            note=each.note,
            file=each.place.file if each.place is not None else None,
            line=each.place.line if each.place is not None else None,
            cell=each.place.cell if each.place is not None else None,
        )
        for each in setup.not_followed
        if each.kind not in left_out
    ]
    kinds = {each.kind for each in told}
    modes = [change.value for change in setup.changes if change.kind == "mode"]
    in_eval: bool | None = "training-loop" in kinds and not any(modes)
    if in_eval and kinds & {"given-to-unread-code", "loop-over-model", "mode"}:
        in_eval = None
    return {"not_followed": told, "loop_in_eval_mode": in_eval, "adapter_cast": _adapter_cast(setup, kinds)}


def _adapter_cast(setup: Setup, not_followed: set[str]) -> str | None:
    """What the trainable parameters, all of them, are cast to last."""
    if not_followed & {"cast", "loop-over-model", "given-to-unread-code"}:
        return None
    dtype = "none"
    for change in setup.changes:
        tests = [test[0] for test in change.tests]
        reaches = not tests or tests == ["requires_grad"] or (tests == ["instance"] and "LoraLayer" in change.tests[0])
        if change.kind == "cast" and change.when == "attached" and reaches:
            dtype = str(change.value)
    return dtype


def _fall_back(setup: Setup, fallback: str, *facts: dict[str, Any]) -> None:
    """A card without bf16: what was concluded as bf16 is another dtype."""
    for section in facts:
        for name, path in (("model_dtype", "model.dtype"), ("compute_dtype", "quantization.bnb_4bit_compute_dtype")):
            origin = setup.origins.get(path)
            if section.get(name) == "bfloat16" and (name == "model_dtype" or origin is None or origin.place is None):
                section[name] = fallback
        if section.get("bf16"):
            section |= {"bf16": False, "fp16": fallback == "float16"}


def _is_here(told: KeyNote | ReadersRemark, environment: EnvironmentFacts | None, card: dict[str, Any]) -> bool:
    """Whether something that may depend on the machine is so on this one."""
    return told.machine is None or conditions.is_so(told.machine, environment, card) is True


def _keys(told: list[KeyNote], environment: EnvironmentFacts | None, setup: Setup | None = None) -> list[UnknownKey]:
    """What is said of keys, without what holds for other versions than those that are installed."""
    return [
        UnknownKey(
            key=each.key,
            closest=each.closest,
            note=each.note,
            meant=_meant(setup, each.closest) if setup is not None and each.closest is not None else None,
        )
        for each in told
        if _is_here(each, environment, {})
    ]


def _meant(setup: Setup, key: str) -> str | None:
    """The canonical path that a key sets; None where there is none, or the file sets it by another key."""
    paths = [f"{name}.{field}" for name, section in SECTIONS.items() for field in section.model_fields]
    own = setup._keys_of
    found = [path for path in paths if path == key or (own is not None and any(each.key == key for each in own(path)))]
    if not found and setup.dialect == "python":
        found = [path for path in paths if path.rpartition(".")[2] == key.rpartition(".")[2]]
    origin = setup.origins.get(found[0]) if found else None
    return None if not found or (origin is not None and origin.source == "explicit") else found[0]


def _remarks(
    setup: Setup,
    environment: EnvironmentFacts | None,
    card: dict[str, Any],
    schedule: ScheduleFacts | None,
    told: list[Remark],
) -> dict[str, Any]:
    def of(effect: str) -> list[Remark]:
        return [
            Remark(id=r.id, kind=r.kind, about=r.about, key=r.key, note=r.note)
            for r in setup.remarks
            if r.effect == effect and _is_here(r, environment, card)
        ]

    others, refused = of("other-meaning"), of("refused")
    kinds = {remark.kind for remark in refused}
    told = [*told, *refused_by_libraries(setup)]
    told += refused_by_schedule(setup, schedule) if schedule is not None else []
    if setup.training.deepspeed:
        told += deepspeed_mismatches(setup, deepspeed_settings(setup), Resolved(setup).__getitem__)
    refused += [remark for remark in told if remark.kind not in kinds]
    return {"refused": refused, "remarks": [remark.kind for remark in others], "remark_notes": others}


def _idle_options(setup: Setup, four_bit: bool | None) -> list[str] | None:
    if four_bit is None:
        return None
    written = [path for path, origin in setup.origins.items() if origin.source == "explicit"]
    options = [path.partition(".")[2] for path in written if path.startswith("quantization.bnb_4bit_")]
    return [] if four_bit else sorted(options)


def _model(values: Resolved) -> dict[str, Any]:
    device_map = "none" if values.is_silent("model.device_map") else values["model.device_map"]
    return {
        "model": values["model.name_or_path"],
        "model_kind": model_kind(values.setup),
        "language_model": is_language_model(values.setup),
        "revision": values["model.revision"],
        "model_dtype": values["model.dtype"],
        "attn_implementation": values["model.attn_implementation"],
        "trust_remote_code": values["model.trust_remote_code"],
        "use_cache": values["model.use_cache"],
        "device_map": device_map if device_map is None or isinstance(device_map, str) else "custom",
    }


def _quantization(values: Resolved) -> dict[str, Any]:
    return {
        "four_bit": values["quantization.load_in_4bit"],
        "eight_bit": values["quantization.load_in_8bit"],
        "quantization_backend": values["quantization.backend"],
        "quant_type": values["quantization.bnb_4bit_quant_type"],
        "double_quant": values["quantization.bnb_4bit_use_double_quant"],
        "compute_dtype": values["quantization.bnb_4bit_compute_dtype"],
        "storage_dtype": values["quantization.bnb_4bit_quant_storage"],
        "skip_modules": _names(values, "quantization.llm_int8_skip_modules"),
    }


def _names(values: Resolved, path: str) -> list[Any] | None:
    """A list, or a list of one; ``[]`` where the config is silent."""
    value = [] if values.is_silent(path) else values[path]
    return None if value is None else list(value) if isinstance(value, list) else [value]


def _lora(values: Resolved) -> dict[str, Any]:
    def get(name: str) -> Any:
        return values[f"lora.{name}"]

    r, alpha, rslora, init = get("r"), get("lora_alpha"), get("use_rslora"), get("init_lora_weights")
    targets = values["lora.target_modules"]
    targets = targets if targets is None or isinstance(targets, list) else [targets]
    if targets is not None:
        targets = [*targets, *(values["lora.targets_beside_linear"] or [])]
    saved = _names(values, "lora.modules_to_save")
    paths = ("lora.rank_pattern", "lora.alpha_pattern")
    patterns = [{} if values.is_silent(path) else values[path] for path in paths]
    ratio = alpha / r if r and alpha is not None else None
    scaling = None if ratio is None or rslora is None else alpha / math.sqrt(r) if rslora else ratio
    return {
        "lora_r": r,
        "lora_alpha": alpha,
        "lora_dropout": get("lora_dropout"),
        "target_modules": targets,
        "modules_to_save": saved,
        "target_parameters": _names(values, "lora.target_parameters"),
        "bias": get("bias"),
        "task_type": values["lora.task_type"],
        "use_rslora": rslora,
        "use_dora": get("use_dora"),
        "init_lora_weights": str(init).lower() if isinstance(init, bool) else init,
        "scaling": scaling,
        "plain_alpha": alpha if scaling is None else scaling * r,
        "alpha_over_r": ratio,
        "pattern_ranks": None if None in patterns else any(bool(pattern) for pattern in patterns),
        "layers_to_transform": _names(values, "lora.layers_to_transform"),
        "targets_also_saved": _common(targets, saved),
    }


def _common(targets: list[str] | None, saved: list[str] | None) -> list[str] | None:
    if saved == []:
        return []
    if targets is None or saved is None:
        return None
    return [name for name in targets if name in saved]


def _training(values: Resolved) -> dict[str, Any]:
    def get(name: str) -> Any:
        return values[f"training.{name}"]

    strategy, method = get("eval_strategy"), get("method")
    neftune = "training.neftune_noise_alpha"
    unknown_length = values.is_unknown("training.max_length")
    bf16, fp16 = get("bf16"), get("fp16")  # the one on excludes the other
    return {
        "trainer": get("trainer"),
        "method": method,
        "compares_answers": compares_answers(values.setup, method),
        "loss_type": get("loss_type"),
        "prepare_for_kbit_training": get("prepare_for_kbit_training"),
        "learning_rate": get("learning_rate"),
        "optimizer": get("optim"),
        "batch": get("per_device_train_batch_size"),
        "eval_batch": get("per_device_eval_batch_size"),
        "gradient_accumulation": get("gradient_accumulation_steps"),
        "sequence": get("max_length"),
        "sequence_is_default": None if unknown_length else _sequence_is_default(values),
        "bf16": False if bf16 is None and fp16 else bf16,
        "fp16": False if fp16 is None and bf16 else fp16,
        "gradient_checkpointing": get("gradient_checkpointing"),
        "use_reentrant": _reentrant(values),
        "max_grad_norm": get("max_grad_norm"),
        "packing": get("packing"),
        "padding_free": get("padding_free"),
        "liger": get("use_liger_kernel"),
        "evaluates": None if strategy is None else strategy != "no",
        "neftune_noise_alpha": 0.0 if values.is_silent(neftune) else values[neftune],
    }


def _reentrant(values: Resolved) -> bool | None:
    """The variant of checkpointing: as written, else the library's where there is checkpointing at all."""
    path = "training.gradient_checkpointing_kwargs"
    kwargs = {} if values.is_silent(path) else values[path]
    checkpointing, by_trainer = values["training.gradient_checkpointing"], values.trainer_checkpoints
    if values.is_unknown("training.gradient_checkpointing") or kwargs is None or "use_reentrant" in kwargs:
        return _truth(kwargs)
    if not checkpointing or by_trainer is None:
        return None
    return defaults.use_reentrant(values.trainer, values.libraries, by_trainer, values.written(path))


def _truth(kwargs: dict[str, Any] | None) -> bool | None:
    """``use_reentrant`` as written, where it is written as a truth value."""
    written = kwargs.get("use_reentrant") if kwargs is not None else None
    return written if isinstance(written, bool) else None


def _sequence_is_default(values: Resolved) -> bool:
    return values.trainer == "trl" and "training.max_length" not in values.setup.origins


# -- hardware


def _card(setup: Setup, environment: EnvironmentFacts | None) -> dict[str, Any]:
    """The card that the run is meant for: the one that the config names, else the one that is here, else none."""
    from ...tables.cards import UnknownCard, find_card, match_device, parse_memory

    memory = parse_memory(setup.hardware.memory) if setup.hardware.memory is not None else None
    if setup.hardware.gpu is not None:
        try:
            card = find_card(setup.hardware.gpu)
        except UnknownCard:
            return _card_facts(setup.hardware.gpu, memory, None, "named")
        return _card_facts(card.name, memory or card.usable_bytes, card.compute_capability, "named")
    if memory is not None:
        return _card_facts(None, memory, None, "named")
    gpus = environment.gpus if environment is not None else None
    if not gpus:
        return {}
    gpu = gpus[0]
    known = match_device(gpu.name, gpu.memory_bytes)
    facts = _card_facts(gpu.name, known.usable_bytes if known is not None else gpu.memory_bytes, None, "present")
    if gpu.capability is not None:
        facts |= {"gpu_capability": gpu.capability, "gpu_bf16": gpu.capability >= 8.0}
    return facts


def _card_facts(
    name: str | None, memory: int | None, capability: tuple[int, int] | None, source: str
) -> dict[str, Any]:
    major_minor = float(f"{capability[0]}.{capability[1]}") if capability is not None else None
    return {
        "gpu": name,
        "gpu_memory_bytes": memory,
        "gpu_capability": major_minor,
        "gpu_bf16": None if capability is None else capability >= (8, 0),
        "gpu_source": source,
    }


def _distribution(values: Resolved) -> dict[str, Any]:
    count = values["hardware.count"]
    kind = _sharding(values)
    if kind == "none" and count is not None and count > 1:
        kind = "ddp"
    known = None if count is None and kind == "none" else kind
    return {"distributed": known, "world_size": count, "fsdp_loads_unsynced": _loads_unsynced(values, kind)}


def _sharding(values: Resolved) -> str | None:
    """``zero2``, ``fsdp1``, …; ``none`` where the config asks for neither; None where it cannot be known."""
    if values.is_unknown("training.deepspeed") or values.is_unknown("training.fsdp"):
        return None
    if values["training.deepspeed"]:
        stage = _zero_stage(values.setup)
        return None if stage is None else f"zero{stage}"
    if values["training.fsdp"]:
        settings = fsdp_settings(values.setup)
        if settings is None:
            return None
        version = values.fsdp_version(settings)
        return None if version is None else f"fsdp{version}"
    return "none"


def _loads_unsynced(values: Resolved, kind: str | None) -> bool | None:
    """Whether FSDP 1 loads on one rank and does not send the weights to the others; FSDP 2 sends them always."""
    if kind != "fsdp1":
        return None if kind is None else False
    if values.setup.says("launched-without-sync"):
        return False  # the launcher stops at it, which is reported
    written = {str(key).removeprefix("fsdp_"): value for key, value in (fsdp_settings(values.setup) or {}).items()}
    loads, sends = (str(written.get(key)).lower() for key in ("cpu_ram_efficient_loading", "sync_module_states"))
    return loads == "true" and sends == "false"


def _zero_stage(setup: Setup) -> int | None:
    settings = deepspeed_settings(setup)
    if settings is None:
        return None
    section = settings.get("zero_optimization")
    stage = section.get("stage") if isinstance(section, dict) else 0
    return stage if isinstance(stage, int) else None


def _budgets(setup: Setup) -> dict[str, Any]:
    from ...tables.cards import parse_memory

    budgets = setup.budgets
    ratio = budgets.trainable_ratio
    limits = ratio if isinstance(ratio, dict) else {"max": ratio}
    return {
        "budget_peak_memory_bytes": parse_memory(budgets.peak_memory) if budgets.peak_memory is not None else None,
        "budget_trainable_ratio_max": limits.get("max"),
        "budget_trainable_ratio_min": limits.get("min"),
        "budget_step_seconds": budgets.step_seconds,
    }
