"""The share of training scripts in a folder of which model, 4-bit, rank, rate and batch are all read.

    python benchmarks/field/read_share.py FOLDER [--names]

FOLDER has one folder for each repository, as ``read_share.tsv`` lists those that the numbers in README.md are for. A
script counts where it builds a LoRA adapter and trains: modules that only define things and tests do not.
"""

from __future__ import annotations

import argparse
import ast
import re
from collections import Counter
from pathlib import Path

from qlora_doctor.core.errors import ConfigError
from qlora_doctor.reading.dialects import read_setup
from qlora_doctor.reading.python.neighbours import Neighbours
from qlora_doctor.reading.python.newer import in_older_words

FIVE = {
    "model": "model.name_or_path",
    "4-bit": "quantization.load_in_4bit",
    "rank": "lora.r",
    "rate": "training.learning_rate",
    "batch": "training.per_device_train_batch_size",
}
_ADAPTS = re.compile(r"LoraConfig\(|get_peft_model\(|get_peft_config\(")
_TRAINS = re.compile(r"\.train\(|Trainer\(|loss\.backward\(|\.backward\(loss")
_BITS = re.compile(r"4bit|4_bit|nf4|qlora|bnb", re.IGNORECASE)


def trains(path: Path) -> bool:
    """True for a script or notebook that builds an adapter on a quantized base, and trains it."""
    text = path.read_text("utf-8", "replace")
    if re.search(r"(^|/)(tests?|archive)/|(^|/)test_", path.as_posix()) or path.stat().st_size > 2_000_000:
        return False
    if path.suffix == ".py" and not _starts(text):
        return False
    return all(pattern.search(text) for pattern in (_ADAPTS, _TRAINS, _BITS)) or _by_modules(path, text)


def _starts(text: str) -> bool:
    """True for a file that does something when it is run; a module that only defines things does not."""
    try:
        body = ast.parse(in_older_words(text)).body
    except (SyntaxError, ValueError, RecursionError):
        return False
    calls = [node.value.func for node in body if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)]
    return "__main__" in text or any(ast.unparse(called).endswith("train") for called in calls)


def _by_modules(path: Path, text: str) -> bool:
    """True for a script whose training stands in modules beside it."""
    if path.suffix != ".py" or not _TRAINS.search(text) or not _BITS.search(text):
        return False
    neighbours = Neighbours(path)
    modules = [neighbours.module(name, neighbours.script) for name in re.findall(r"^from ([.\w]+) import", text, re.M)]
    texts = [module.read_text("utf-8", "replace") for module in modules if module is not None and module.is_file()]
    return any(_ADAPTS.search(each) for each in texts)


def known(path: Path) -> dict[str, str] | None:
    """Of each of the five: its value, or ``?`` and why it is not known; None where the file is not read."""
    try:
        setup = read_setup(path)
    except ConfigError:
        return None
    found = {}
    for name, at in FIVE.items():
        section, _, field = at.partition(".")
        value = getattr(getattr(setup, section), field)
        origin = setup.origins.get(at)
        unknown = setup.is_unknown(at) or (value is None and name == "model")
        if unknown and name == "rank" and any(remark.kind == "no-lora" for remark in setup.remarks):
            found[name] = "no adapter"  # as it is started here
            continue
        found[name] = f"? {origin.note if origin is not None else ''}" if unknown else str(value)
    return found


def main() -> None:
    """Print the share."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--names", action="store_true", help="one line for each script that is not fully known")
    arguments = parser.parse_args()
    for suffix in (".py", ".ipynb"):
        paths = [path for path in sorted(arguments.folder.rglob(f"*{suffix}")) if trains(path)]
        read = {path: found for path in paths if (found := known(path)) is not None}
        missing: Counter[str] = Counter()
        whole = 0
        for path, found in read.items():
            lacking = [name for name, value in found.items() if value.startswith("?")]
            missing.update(lacking)
            whole += not lacking
            if lacking and arguments.names:
                print(path.relative_to(arguments.folder), *(f"{n}: {found[n][2:]}" for n in lacking), sep="\n    ")
        share = f"{whole / len(paths):.0%}" if paths else "none"
        print(f"{suffix}: {len(paths)} that train, {len(read)} read, {whole} with all five known ({share}); "
              + ", ".join(f"{name} unknown in {missing[name]}" for name in FIVE))  # fmt: skip


if __name__ == "__main__":
    main()
