"""Write the traces that come with the package (qlora_doctor/tables/traces), or hold them against the live prediction.

python tools/traces.py                  # write all; those that are there and of these versions are left
python tools/traces.py --only qwen2.5   # those whose file's name has this in it
python tools/traces.py --hold 1         # hold each against the live prediction at full depth, instead of writing
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
warnings.simplefilter("ignore")

from qlora_doctor.core.versions import installed_versions  # noqa: E402
from qlora_doctor.memory.families import SMALL_MEMORY_HEAD  # noqa: E402
from qlora_doctor.memory.folded_tapes import document_of, tape_key  # noqa: E402
from qlora_doctor.memory.machine import Machine  # noqa: E402
from qlora_doctor.memory.scaling import NotScalable  # noqa: E402
from qlora_doctor.memory.shipped import (  # noqa: E402
    ATTENTION,
    MODELS,
    Variant,
    said_key,
    shipped_for,
    signature,
    variants,
)
from qlora_doctor.setup.changed import with_value  # noqa: E402
from qlora_doctor.tables.cards import CARDS, find_card  # noqa: E402
from qlora_doctor.tables.traces import packed  # noqa: E402
from qlora_doctor.writing.starter import starter_setup  # noqa: E402

FOLDER = Path(__file__).resolve().parent.parent / "qlora_doctor" / "tables" / "traces"
FAR = 16_384
"""Tokens up to which a tape is solved."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="files whose name has one of these in it, by commas")
    parser.add_argument("--hold", type=int, metavar="N", help="hold every Nth file against the live prediction")
    parser.add_argument("--part", default="0/1", help="a share of the work: 0/2 and 1/2 side by side")
    given = parser.parse_args()
    part, parts = map(int, given.part.split("/"))
    wanted = [each for each in variants() if any(name in each.file for name in given.only.split(","))][part::parts]
    FOLDER.mkdir(exist_ok=True)
    versions = {name: version.partition("+")[0] for name, version in installed_versions().items()}
    if given.hold:
        sys.exit(0 if sum(not held(each, place) for place, each in enumerate(wanted[:: given.hold])) == 0 else 1)
    path = FOLDER / "index.json"
    old = json.loads(path.read_text()) if path.exists() else {}
    if old.get("versions") != versions or not given.only:
        said = {
            said_key(each, precision == "bf16"): signature(setup_of(each, card))
            for each in variants()
            for card, precision in (("rtx-4090", "bf16"), ("t4", "fp16"))
        }
        index = {"versions": versions, "said": said, "gemm": gemm()}
        path.write_text(json.dumps(index, separators=(",", ":")) + "\n")
    for variant in wanted:
        target = FOLDER / variant.file
        if target.exists() and old.get("versions") == versions:
            continue
        began = time.perf_counter()
        try:
            try:
                content = packed(made(variant, 2))
            except NotScalable:
                content = packed(made(variant, 3))
        except Exception as error:  # one of them must not end the others
            print(f"{variant.file}: {type(error).__name__}: {error}", flush=True)
            continue
        target.write_bytes(content)
        print(f"{variant.file}: {len(content):,} bytes in {time.perf_counter() - began:.1f} s", flush=True)


def setup_of(variant: Variant, card: str | None = None) -> Any:
    """The setup that is traced: as ``qlora-doctor init`` writes it, but for what the variant says."""
    setup = with_value(starter_setup(variant.model, card), "training.trainer", variant.trainer)
    if variant.targets == "qkvo":
        setup = with_value(setup, "lora.target_modules", ATTENTION)
    return with_value(setup, "training.gradient_checkpointing", variant.checkpointing)


def gemm() -> dict[str, Any]:
    """Tokens from which bitsandbytes' own 4-bit kernel runs no longer, again, …: by type, kind of card and shape."""
    from qlora_doctor.memory.bnb_kernels import CUSTOM_MAX_TOKENS, _rule

    kinds = sorted({(*card.compute_capability, card.multiprocessors) for card in CARDS})
    shapes = sorted({shape for model in MODELS for shape in _shapes(model)})
    flips: dict[str, list[list[list[int]]]] = {}
    for dtype in ("bfloat16", "float16", "float32"):
        flips[dtype] = []
        for major, minor, count in kinds:
            rule = _rule((major, minor), count)
            row = []
            for n, k in shapes if dtype != "float32" else shapes[:1]:
                runs = [rule is not None and bool(rule(0, dtype, m, n, k)) for m in range(1, CUSTOM_MAX_TOKENS + 1)]
                row.append([m for m, (one, next_) in enumerate(pairwise([True, *runs]), 1) if one != next_])
            flips[dtype].append(row if dtype != "float32" else row * len(shapes))
    return {"kinds": kinds, "shapes": shapes, "flips": flips}


def _shapes(model: str) -> set[tuple[int, int]]:
    """(outputs, inputs) of a base's 4-bit layers."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from qlora_doctor.tables.architectures import find_architecture

    found = find_architecture(model)
    assert found is not None
    config = dict(found.config)
    config["num_hidden_layers"] = 1
    config.pop("layer_types", None)
    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(AutoConfig.for_model(config.pop("model_type"), **config))
    layers = (module for name, module in built.named_modules() if "layers." in name)
    return {(each.out_features, each.in_features) for each in layers if isinstance(each, torch.nn.Linear)}


def cards_of(head: int) -> Iterator[tuple[str, str]]:
    """(card, precision) of each kind of machine that tapes are made for; none older than Volta."""
    seen: set[tuple[str, object]] = set()
    for card in CARDS:
        precision = "bf16" if card.bf16 else "fp16"
        kind = precision, Machine(card).kind(head > SMALL_MEMORY_HEAD)
        if kind not in seen and card.compute_capability >= (7, 0):
            seen.add(kind)
            yield card.name, precision


def made(variant: Variant, layers: int) -> dict[str, Any]:
    """The content of a variant's file, from tapes of so many periods of layers and more.

    Raises:
        NotScalable: the tapes have no common form.
    """
    from qlora_doctor.memory.folding import COUNTED, Size, agrees, counting, folded
    from qlora_doctor.memory.predict import traced
    from qlora_doctor.memory.savings import layer_period, of_depth
    from qlora_doctor.memory.subject import subject_of_setup
    from qlora_doctor.pipeline import load_config

    architecture = load_config(setup_of(variant), offline=True)
    text = architecture.config.get_text_config()
    depth, period = int(text.num_hidden_layers), layer_period(text)
    outline = subject_of_setup(
        with_value(setup_of(variant), "training.max_length", 64), architecture=of_depth(architecture, period)
    ).outline
    limit = outline.limit
    far = FAR if limit is None else min(FAR, limit // 64 * 64)
    few = layers * period
    tapes: dict[str, list[Any]] = {}
    for card, precision in cards_of(outline.head):
        machine = Machine(find_card(card))
        setup = setup_of(variant, card)

        def trace(size: Size, setup: Any = setup, machine: Machine = machine) -> Any:
            shallow = of_depth(architecture, size.depth)
            ranked = with_value(with_value(setup, "lora.r", size.rank), "training.gradient_accumulation_steps", 2)
            subject = subject_of_setup(ranked, architecture=shallow, offline=True)
            step = replace(subject.step, batch=size.batch, sequence=size.sequence, optim=COUNTED)
            return traced(replace(subject, step=step), machine)

        for alone in (True, False):
            one, many, other = (1, 1, 1) if alone else (3, 29, 5)
            near = 704 if layers == 2 else 448  # a length whose multiples are no size of the model's own
            sizes = Size(few, one, near, 13), Size(few, many, far, 61), Size(few + period, one, near, 13)
            check = Size(few + 2 * period, other, 64, 24) if len(tapes) == 3 else None
            with counting():
                pieces = [folded(trace, sizes, depth, far)]
                if check is not None and not agrees(pieces[0], 2, check, trace):
                    raise NotScalable("a deeper stack of layers does what few do not tell")
            kind = machine.kind(outline.head > SMALL_MEMORY_HEAD)
            tapes[tape_key(kind, precision, alone)] = [document_of(each) for each in pieces]
    said = asdict(outline) | {"batch": 1, "sequence": 1024, "optim": "paged_adamw_8bit"}
    said.pop("versions", None)
    return {"outline": said, "tapes": tapes}


def held(variant: Variant, place: int) -> bool:
    """Whether what a file predicts is what a trace of the model in full predicts, for one of several cells."""
    from qlora_doctor.memory.predict import traced
    from qlora_doctor.memory.replay import replay_peaks
    from qlora_doctor.memory.subject import subject_of_setup

    cells = [("rtx-4090", 1, 2048, 16), ("h100", 4, 1024, 32), ("t4", 2, 501, 8), ("a100-80gb", 3, 4096, 64)]
    card, batch, sequence, rank = cells[place % len(cells)]
    setup = with_value(setup_of(variant, card), "lora.r", rank)
    shipped = shipped_for(setup)
    if shipped is None:
        print(f"{variant.file}: it is not there")
        return False
    sequence = min(sequence, shipped.outline.limit or sequence)
    machine = Machine(find_card(card))
    found = shipped.scalable(machine, batch, sequence)
    told = None if found is None else replay_peaks(found.at(batch, sequence), machine)
    subject = subject_of_setup(setup, batch=batch, sequence=sequence, offline=True)
    wanted = replay_peaks(traced(subject, machine), machine)
    same = told == wanted
    print(f"{variant.file}: {card} r {rank} {batch} × {sequence}: {told} {'=' if same else '≠'} {wanted}", flush=True)
    return same


if __name__ == "__main__":
    main()
