"""The checkpoint that a run goes on from: what its own files record, read without running any code in them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...core.files import json_mapping
from ...facts.config import ConfigFacts
from ...facts.schedule import ResumeFacts
from ...setup.paths import resolve
from ...setup.setup import Setup

STATE, ADAPTER, ARGUMENTS = "trainer_state.json", "adapter_config.json", "training_args.bin"
_LIMIT = 64 << 20
_CHECKPOINT = re.compile(r"checkpoint-(\d+)\Z")
_RANK_STATE = re.compile(r"rng_state_(\d+)\.pth\Z")


def resume_facts(
    setup: Setup,
    get: Callable[..., Any],
    known: ConfigFacts,
    updates: int | None,
    most: int | None,
    ranks: int | None,
) -> ResumeFacts | None:
    """What the checkpoint holds against what the config asks for; None where it is not here, or not known.

    Args:
        get: canonical path, default → value; None where it cannot be known.
        known: the facts of the config that are known already.
        updates: of the whole run.
        most: that it can have, where ``updates`` is not known.
        ranks: processes that train.
    """
    folder = checkpoint_of(setup)
    state = json_mapping(folder / STATE, _LIMIT) if folder is not None else None
    if folder is None or state is None:
        unusable, absent = _unusable(setup, folder), _absent(setup, folder)
        named = str(setup.training.resume_from_checkpoint)
        return ResumeFacts(checkpoint=named, unusable=unusable, absent=absent or "none") if unusable or absent else None
    done = _whole(state.get("global_step"))
    left = _left(state, done, updates, get)
    if left is None and done is not None and most is not None and done >= most:
        left = 0
    rank = _whole((json_mapping(folder / ADAPTER, _LIMIT) or {}).get("r"))
    now = known.lora_r
    return ResumeFacts(
        checkpoint=str(setup.training.resume_from_checkpoint)
        if isinstance(setup.training.resume_from_checkpoint, str)
        else folder.name,
        updates_done=done,
        updates_left=left,
        lora_r=rank,
        rank_differs=None if rank is None or now is None or known.pattern_ranks is not False else rank != now,
        differs=_differences(folder, state, get, known, ranks),
        stateless=_is_stateless(folder),
        unusable="none",
        absent="none",
    )


def _is_stateless(folder: Path) -> bool:
    """Trainer keeps both in files of these names, DeepSpeed in a folder, FSDP in one of its own."""
    kept = ("optimizer", "scheduler", "global_step", "pytorch_model_fsdp", "opt")
    return not any(each.name.startswith(kept) for each in folder.iterdir())


def _unusable(setup: Setup, folder: Path | None) -> str | None:
    """Why there is nothing to go on from; None where it may lie on another machine, or cannot be read.

    An output_dir that is not here is no sign of a first run: outputs are not part of a checkout.

    transformers asks for a checkpoint-N in output_dir (``get_last_checkpoint``), and reads trainer_state.json in the
    folder that it is given (``Trainer._inner_training_loop``).
    """
    if folder is not None:
        holds = [each.name for each in folder.iterdir()] if folder.is_dir() else []
        whose = "an adapter" if ADAPTER in holds else "a model" if "config.json" in holds else None
        if whose is None or STATE in holds:
            return None
        return f"{setup.training.resume_from_checkpoint} holds {whose} and no {STATE}"
    output = _output_of_resume(setup)
    here = resolve(setup, output) if output is not None else None
    return f"{output} holds no checkpoint-N" if here is not None and here.is_dir() else None


def _absent(setup: Setup, folder: Path | None) -> str | None:
    """The output_dir whose last checkpoint is meant, where there is no such folder here."""
    output = _output_of_resume(setup) if folder is None else None
    if output is None or Path(output).is_absolute() or "~" in output or "$" in output:
        return None
    here = resolve(setup, output)
    return output if here is None or not here.is_dir() else None


def _output_of_resume(setup: Setup) -> str | None:
    """The output_dir of a file that says to go on from its last checkpoint."""
    if setup.file is None or any(map(setup.is_unknown, ("training.output_dir", "training.resume_from_checkpoint"))):
        return None
    asked = str(setup.training.resume_from_checkpoint).lower() == "true"
    return setup.training.output_dir if asked else None


def checkpoint_of(setup: Setup) -> Path | None:
    """The folder that ``resume_from_checkpoint`` means: a folder, or with true the last one in output_dir."""
    written = setup.training.resume_from_checkpoint
    if not written or setup.is_unknown("training.resume_from_checkpoint"):
        return None
    if isinstance(written, str) and written.lower() != "true":
        return resolve(setup, written)
    output = setup.training.output_dir
    folder = resolve(setup, output) if output is not None else None
    if folder is None or not folder.is_dir():
        return None
    found = [(int(name[1]), each) for each in folder.iterdir() if (name := _CHECKPOINT.match(each.name))]
    return max(found)[1] if found else None


def _left(state: dict[str, Any], done: int | None, updates: int | None, get: Callable[..., Any]) -> int | None:
    """Updates that are still to come; by epochs where the updates of the whole are not known."""
    if done is None:
        return None
    if updates is not None:
        return max(0, updates - done)
    steps, epochs = get("training.max_steps", -1), get("training.num_train_epochs")
    reached = state.get("epoch")
    if steps is None or steps > 0 or epochs is None or not isinstance(reached, int | float):
        return None
    return 0 if reached >= epochs else None


def _differences(
    folder: Path, state: dict[str, Any], get: Callable[..., Any], known: ConfigFacts, ranks: int | None
) -> list[str] | None:
    """What changes which samples are skipped, or the order in which they come."""
    if get("training.extra", {}).get("ignore_data_skip"):
        return []
    arguments = recorded_arguments(folder / ARGUMENTS)
    seed = arguments.get("data_seed")
    seed = arguments.get("seed") if seed is None else seed
    data_seed, own_seed = get("training.data_seed", -1), get("training.seed")
    now = own_seed if data_seed == -1 else data_seed
    pairs = (
        ("world size", _world_size(folder), ranks),
        ("batch", _whole(state.get("train_batch_size")), known.batch),
        ("accumulation", _whole(arguments.get("gradient_accumulation_steps")), known.gradient_accumulation),
        ("data seed", seed, now),
    )
    return [f"{name} {then}, now {here}" for name, then, here in pairs if None not in (then, here) and then != here]


def _world_size(folder: Path) -> int | None:
    """Each rank of several writes a state of its random numbers; a single one writes rng_state.pth."""
    names = [each.name for each in folder.iterdir()]
    ranks = [int(found[1]) for name in names if (found := _RANK_STATE.match(name))]
    return max(ranks) + 1 if ranks else 1 if "rng_state.pth" in names else None


def recorded_arguments(file: Path) -> dict[str, int]:
    """Whole numbers of a training_args.bin by name.

    The file is a pickle, so it is only looked through: nothing in it is built or called.
    """
    import pickletools  # lazy: hardly a config resumes a run
    import zipfile

    try:
        with zipfile.ZipFile(file) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            if archive.getinfo(name).file_size > _LIMIT:
                return {}
            content = archive.read(name)
        found: dict[str, int] = {}
        key: str | None = None
        for opcode, value, _ in pickletools.genops(content):
            if opcode.name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
                continue
            if opcode.name in ("BINUNICODE", "SHORT_BINUNICODE", "UNICODE"):
                key = str(value)
            else:
                if key is not None and isinstance(value, int) and opcode.name in ("BININT", "BININT1", "BININT2"):
                    found.setdefault(key, value)
                key = None
        return found
    except (OSError, ValueError, StopIteration, KeyError, zipfile.BadZipFile, NotImplementedError):
        return {}


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
