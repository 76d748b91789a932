"""Stage ``load``: a real from_pretrained in 4-bit, looked at before anything trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...core.errors import StageError
from ...facts import Facts, LoadFacts
from ...pipeline import build_base, load_config, prepare
from ...pipeline.base import Base
from ...setup.setup import Setup
from ..failures import NO_FAILURE, explain, failure_fact
from ..observing.overheard import overheard
from ..observing.timeline import Timeline
from ..resources import check_that_it_fits, host_memory
from ..structure.heads import fresh_heads
from ..structure.inventory import Inventory
from .checkpoint import Checkpoint, check_shapes, read_checkpoint
from .loaded import check_packed_shapes, differences, loaded_facts, nonfinite_tensors, tensor_bytes
from .quantization_error import nonfinite_in, sampled_errors
from .watching import told_while_loading

Progress = Callable[..., None]


@dataclass
class LoadSeen:
    """What the stage gives. ``base`` is loaded and prepared, None where that failed; ``error`` says why."""

    facts: LoadFacts
    base: Base | None
    timeline: Timeline
    error: StageError | None = None


def look_at_load(
    setup: Setup, device: str | torch.device, progress: Progress, *, facts: Facts | None = None, offline: bool = True
) -> LoadSeen:
    """Load the base for real, and prepare it for training as the setup says.

    Args:
        facts: what earlier stages saw: the loaded state is held against it.

    Never raises for what is wrong with the checkpoint or the machine: a failure is a fact.
    """
    device = torch.device(device)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    timeline = Timeline(device)
    known: dict[str, Any] = {"device": str(device)}
    phase = "load"
    try:
        checkpoint, base = _load(setup, device, timeline, progress, facts or Facts(), known, offline)
        _look(base, checkpoint, facts or Facts(), timeline, progress, known)
        phase = "prepare"
        _prepare(base, setup, timeline, progress, known)
    except Exception as raised:
        doing = "preparing the model for training" if phase == "prepare" else "loading the base"
        error = explain(raised, doing)
        known["failure"] = failure_fact(error, phase)
        return LoadSeen(LoadFacts(**known), None, timeline, error)
    known["failure"] = NO_FAILURE
    return LoadSeen(LoadFacts(**known), base, timeline)


def _load(
    setup: Setup,
    device: torch.device,
    timeline: Timeline,
    progress: Progress,
    facts: Facts,
    known: dict[str, Any],
    offline: bool,
) -> tuple[Checkpoint | None, Base]:
    architecture = load_config(setup, offline=offline, with_files=True)
    checkpoint: Checkpoint | None = None
    if architecture.folder is not None and _holds_weights(architecture):
        progress("Reading the headers of the weight files")
        checkpoint = read_checkpoint(architecture.folder)
        known["bytes_read"] = checkpoint.nbytes
        largest = checkpoint.largest
        check_that_it_fits(_base_bytes(facts, checkpoint), largest.nbytes if largest else 0, device)
    expected = _base_bytes(facts, checkpoint) if checkpoint is not None else None
    timeline.begin("load")
    try:
        with overheard(), told_while_loading(device, expected, progress):
            base = build_base(setup, device, architecture=architecture, offline=offline)
    except StageError as error:
        if error.kind == "wrong-shape" and checkpoint is not None:
            _name_the_wrong_shape(setup, architecture, checkpoint)
        raise
    timeline.end()
    known["seconds"] = timeline.clock
    if timeline.on_cuda:
        known["peak_allocated_bytes"] = timeline.peaks["load"].allocated
    return checkpoint, base


def _look(
    base: Base,
    checkpoint: Checkpoint | None,
    facts: Facts,
    timeline: Timeline,
    progress: Progress,
    known: dict[str, Any],
) -> None:
    progress("Looking at what was loaded")
    known.update(loaded_facts(base.model))
    known.update(_keys(base))
    check_packed_shapes(base.model)
    bad = nonfinite_tensors(base.model)
    if checkpoint is not None:
        progress("Comparing 4-bit weights with the checkpoint")
        errors = sampled_errors(base.model, checkpoint)
        known["quantization_errors"] = errors or None
        if errors:
            known["mean_quantization_error"] = sum(e.relative_error for e in errors) / len(errors)
            known["max_quantization_error"] = max(e.relative_error for e in errors)
        if (available := host_memory()) is None or checkpoint.nbytes < available:  # else the files are no longer cached
            bad += [name for name in nonfinite_in(checkpoint, progress) if name not in bad]
    known["nonfinite_tensors"] = _joined(bad)
    known["differences"] = differences(base.model, facts) if facts.quantization is not None else None


def _prepare(base: Base, setup: Setup, timeline: Timeline, progress: Progress, known: dict[str, Any]) -> None:
    progress("Preparing the model for training")
    before = tensor_bytes(base.model)
    timeline.begin("prepare")
    base.model = prepare(base, setup)
    timeline.end()
    known["float32_upcast_bytes"] = tensor_bytes(base.model) - before


def _holds_weights(architecture: Any) -> bool:
    """A folder of the user's always; the hub's cache only where the weights were downloaded, not just config.json."""
    folder: Path = architecture.folder
    if architecture.source == "folder":
        return True
    return any(folder.glob("*.safetensors")) or any(folder.glob("*.index.json"))


def _name_the_wrong_shape(setup: Setup, architecture: Any, checkpoint: Checkpoint) -> None:
    """transformers reports which tensors have the wrong shape to its log alone: find them for the sentence."""
    meta = build_base(setup, "meta", architecture=architecture)
    expected = {}
    for name, parameter in meta.model.named_parameters():
        state = getattr(parameter, "quant_state", None)
        expected[name] = tuple(state.shape if state is not None else parameter.shape)
    check_shapes(checkpoint, expected)


def _keys(base: Base) -> dict[str, list[str]]:
    """from_pretrained's ``output_loading_info``."""
    info = base.loading_info
    if info is None:
        return {}
    missing = sorted(map(str, info.get("missing_keys", ())))
    return {
        "missing_keys": missing,
        "unexpected_keys": sorted(map(str, info.get("unexpected_keys", ()))),
        "mismatched_keys": sorted(str(k[0] if isinstance(k, tuple) else k) for k in info.get("mismatched_keys", ())),
        "newly_initialised": _outside_new_heads(missing, base) if missing else [],
    }


def _outside_new_heads(missing: list[str], base: Base) -> list[str]:
    """Missing weights without those of a head that the task needs and no checkpoint holds."""
    seen = Inventory(base.model)
    heads = fresh_heads(seen, base.architecture.raw.get("architectures"))
    if heads is None:
        heads = [part.name for part in seen.task_heads]
    return [name for name in missing if name.rpartition(".")[0] not in heads]


def _base_bytes(facts: Facts, checkpoint: Checkpoint) -> int:
    """The base in memory: as structure counted it, else by the checkpoint's shapes (matrices of layers at 4.5 bits)."""
    if facts.quantization is not None and facts.quantization.base_bytes is not None:
        return facts.quantization.base_bytes
    total = 0.0
    for tensor in checkpoint.tensors.values():
        in_layer = any(part.isdecimal() for part in tensor.name.split("."))
        packed = in_layer and len(tensor.shape) == 2 and min(tensor.shape) >= 64 and tensor.dtype != "U8"
        total += tensor.elements * 4.5 / 8 if packed else tensor.nbytes
    return int(total)


def _joined(names: list[str]) -> list[str]:
    """Statistics of a weight and the weight itself are one finding: the weight's name stands for them."""
    joined: list[str] = []
    for name in names:
        weight = name.split(".weight.")[0] + ".weight" if ".weight." in name else name
        if weight not in joined:
            joined.append(weight)
    return joined
