"""Hold what is read of LLaMA-Factory configs against LLaMA-Factory's own argument classes.

    DISABLE_VERSION_CHECK=1 PYTHONPATH=LLAMA-FACTORY/src python benchmarks/field/compare_llamafactory.py FILE…

``LLAMA-FACTORY`` is a checkout; omegaconf and the libraries that it names must be installed. Told are keys that its
parser refuses and the reader does not name, or the other way round, and values that the two read differently.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any

from qlora_doctor.reading import Setup, read_setup
from qlora_doctor.reading.dialects.llamafactory import _FIELDS as FIELDS

DERIVED = {"lora_target", "additional_target", "stage", "disable_gradient_checkpointing", "dataset", "eval_dataset"}
DERIVED |= {"report_to"}
"""Written in another form than the Setup has."""
NEWER = {"warmup_ratio"}
"""Keys of TrainingArguments up to the transformers that LLaMA-Factory pins (5.8), and no longer of a later one."""


def parsed(data: dict[str, Any]) -> Any:
    """The argument objects of a config.

    Raises:
        ValueError: LLaMA-Factory refuses it.
    """
    from llamafactory.hparams import (  # type: ignore[import-not-found]
        DataArguments,
        FinetuningArguments,
        GeneratingArguments,
        ModelArguments,
        TrainingArguments,
    )
    from transformers import HfArgumentParser

    classes = (ModelArguments, DataArguments, TrainingArguments, FinetuningArguments, GeneratingArguments)
    return HfArgumentParser(classes).parse_dict({**data, "use_cpu": True}, allow_extra_keys=False)


def refused(data: dict[str, Any]) -> set[str]:
    """The keys that no class has."""
    try:
        parsed(data)
    except ValueError as error:
        if "not used by the HfArgumentParser" not in str(error):
            return set()
        return set(ast.literal_eval(str(error).partition("HfArgumentParser: ")[2]))
    return set()


def differences(path: Path) -> list[str]:
    """What LLaMA-Factory and the reader say differently of one file."""
    from omegaconf import OmegaConf  # type: ignore[import-not-found]

    setup: Setup = read_setup(path)
    data = OmegaConf.to_container(OmegaConf.load(path))
    named = {key.key for key in (*setup.unknown_keys, *setup.removed_keys)}
    theirs = refused(data)
    found = [f"{key}: the parser refuses it" for key in sorted(theirs - named - NEWER)]
    found += [f"{key}: named, and the parser takes it" for key in sorted(named - theirs)]
    holders = parsed({key: value for key, value in data.items() if key not in theirs})
    for key, row in FIELDS.items():
        canonical = row if isinstance(row, str) else row[0]
        section, _, field = canonical.partition(".")
        origin = setup.origins.get(canonical)
        holder = next((each for each in holders if hasattr(each, key)), None)
        if key in DERIVED or key not in data or holder is None or origin is None or origin.source != "explicit":
            continue
        ours, own = getattr(getattr(setup, section), field), getattr(holder, key)
        if comparable(ours) != comparable(own):
            found.append(f"{key}: read {ours!r}, parsed {own!r}")
    return found


def comparable(value: Any) -> str:
    """A value without the form that a library gives it."""
    value = getattr(value, "value", value)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{float(value):g}"
    return str(value)


def main(paths: list[str]) -> int:
    """Print what differs; the number of differences is the exit code."""
    count = 0
    for path in paths:
        try:
            found = differences(Path(path))
        except Exception as error:  # a checkout's classes refuse in many ways
            found = [f"not compared: {' '.join(str(error).split())[:160]}"]
        for sentence in found:
            count += 1
            print(f"{path}: {sentence}")
    print(f"{len(paths)} files, {count} differences")
    return min(count, 100)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
