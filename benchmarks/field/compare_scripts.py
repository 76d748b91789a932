"""Hold what is read of training scripts and notebooks against the literals that stand in their text.

    python benchmarks/field/compare_scripts.py FOLDER…

An argument counts where the text has one single literal for it (``lora_r = 16`` or ``r=16`` once, or always the same).
What is read must be that, or unknown; where it differs, look: the literal may belong to code that is not run.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from qlora_doctor.core.errors import DoctorError
from qlora_doctor.reading import Setup, read_setup

NUMBER, WORD = r"([\d][\d.e-]*)\s*[,)\n]", r"[\"'](\w+)[\"']"
LITERALS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "lora.r": (rf"\br\s*=\s*{NUMBER}", float),
    "lora.lora_alpha": (rf"\blora_alpha\s*=\s*{NUMBER}", float),
    "lora.lora_dropout": (rf"\blora_dropout\s*=\s*{NUMBER}", float),
    "quantization.load_in_4bit": (r"\bload_in_4bit\s*=\s*(True|False)", "True".__eq__),
    "quantization.bnb_4bit_quant_type": (rf"\bbnb_4bit_quant_type\s*=\s*{WORD}", str),
    "quantization.bnb_4bit_compute_dtype": (r"\bbnb_4bit_compute_dtype\s*=\s*torch\.(\w+)", str),
    "training.learning_rate": (rf"\blearning_rate\s*=\s*{NUMBER}", float),
    "training.per_device_train_batch_size": (rf"\bper_device_train_batch_size\s*=\s*{NUMBER}", float),
    "training.gradient_accumulation_steps": (rf"\bgradient_accumulation_steps\s*=\s*{NUMBER}", float),
    "training.max_steps": (rf"\bmax_steps\s*=\s*{NUMBER}", float),
    "training.optim": (rf"\boptim\s*=\s*{WORD}", str),
    "training.bf16": (r"\bbf16\s*=\s*(True|False)", "True".__eq__),
    "training.fp16": (r"\bfp16\s*=\s*(True|False)", "True".__eq__),
    "training.gradient_checkpointing": (r"\bgradient_checkpointing\s*=\s*(True|False)", "True".__eq__),
}


def main(folders: list[str]) -> None:
    """Compare all files and print what differs, and the sums."""
    files = same = unknown = differ = refused = 0
    for path in sorted(p for folder in folders for p in Path(folder).rglob("*") if p.suffix in (".py", ".ipynb")):
        try:
            setup = read_setup(path)
        except DoctorError:
            refused += 1
            continue
        files += 1
        for key, expected in literals(code_of(path)):
            section, _, field = key.partition(".")
            found = getattr(getattr(setup, section), field)
            if setup.is_unknown(key):
                unknown += 1
            elif found == expected:
                same += 1
            else:
                differ += 1
                print(f"{path}: {key} is {expected!r} in the text, read as {found!r} ({whose(setup, key)})")
    print(f"{files} files read, {refused} refused: {same} values as written, {unknown} unknown, {differ} differ")


def whose(setup: Setup, key: str) -> str:
    """Where a value comes from."""
    origin = setup.origins.get(key)
    return "silent" if origin is None else f"{origin.source}, {origin.note}"


def code_of(path: Path) -> str:
    """The code, without comments."""
    text = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix == ".ipynb":
        cells = json.loads(text).get("cells", [])
        text = "\n".join("".join(cell.get("source", "")) for cell in cells if cell.get("cell_type") == "code")
    return "\n".join(line.split("#")[0] for line in text.split("\n"))


def literals(code: str) -> Iterator[tuple[str, Any]]:
    """(canonical path, value) of arguments with one literal in the whole text."""
    for key, (pattern, convert) in LITERALS.items():
        found = set(re.findall(pattern, code))
        if len(found) == 1:
            yield key, convert(found.pop())


if __name__ == "__main__":
    main(sys.argv[1:])
