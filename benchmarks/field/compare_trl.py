"""Hold what is said of TRL and handbook configs against TRL's own parser.

    python benchmarks/field/compare_trl.py FILE…

Told for each file: keys that the parser refuses and the reader does not name, or the other way round, and values that
the two read differently. What differs is counted; the number is the exit code.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from qlora_doctor.reading import Setup, read_setup
from qlora_doctor.reading.dialects.llamafactory import HF_ARGUMENTS
from qlora_doctor.reading.dialects.trl import MODEL_CONFIG, SFT_ARGUMENTS
from qlora_doctor.tables.keys import key_list

os.environ["ACCELERATE_USE_CPU"] = "true"
TABLE = {**HF_ARGUMENTS, **MODEL_CONFIG, **SFT_ARGUMENTS}
HANDBOOK = key_list("alignment-handbook").names | key_list("alignment-handbook").removed.keys()
"""Keys of the handbook's own script arguments, in any of its versions: these are no classes of TRL."""
DERIVED = {"torch_compile"}
"""TrainingArguments turns it on where a backend or a mode is named."""


def parser(setup: Setup) -> Any:
    """TRL's parser with the classes that its script for the method has."""
    from trl import DPOConfig, ModelConfig, ScriptArguments, SFTConfig, TrlParser

    return TrlParser((ScriptArguments, DPOConfig if setup.training.method == "dpo" else SFTConfig, ModelConfig))


def parsed(setup: Setup, data: dict[str, Any]) -> Any:
    """What the parser makes of a config."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", delete=False) as file:
        yaml.safe_dump({"output_dir": "out", **data}, file)
    try:
        return parser(setup).parse_args_and_config(["--config", file.name, "--use_cpu", "True"])
    finally:
        Path(file.name).unlink()


def refused(setup: Setup, data: dict[str, Any]) -> set[str]:
    """The keys at which the parser stops."""
    try:
        parsed(setup, data)
    except ValueError as error:
        if "Unknown arguments" in str(error):
            return set(re.findall(r"--([A-Za-z_]\w*)", str(error)))
        raise
    return set()


def differences(path: Path) -> list[str]:
    """What the parser and the reader say differently of one file."""
    setup = read_setup(path)
    data = yaml.safe_load(path.read_text("utf-8"))
    named = {key.key for key in (*setup.unknown_keys, *setup.removed_keys)}
    theirs = refused(setup, data)
    found = [f"{key}: the parser refuses it" for key in sorted(theirs - named - HANDBOOK)]
    found += [f"{key}: named, and the parser takes it" for key in sorted(named - theirs) if key in data]
    kept = {key: value for key, value in data.items() if key not in theirs}
    _, training, model = parsed(setup, kept)
    for key, row in TABLE.items():
        if key in DERIVED:
            continue
        canonical = row if isinstance(row, str) else row[0]
        section, _, field = canonical.partition(".")
        origin = setup.origins.get(canonical)
        holder = model if hasattr(model, key) else training
        if origin is None or origin.source != "explicit" or key not in kept or not hasattr(holder, key):
            continue
        ours, own = getattr(getattr(setup, section), field), getattr(holder, key)
        if comparable(ours) != comparable(own):
            found.append(f"{key}: read {ours!r}, parsed {own!r}")
    return found


def comparable(value: Any) -> str:
    """A value without the form that a library gives it: an enum's value, a list of one."""
    value = getattr(value, "value", value)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{float(value):g}"
    return str(value)


def main(paths: list[str]) -> int:
    """Print what differs; the number of differences is the exit code."""
    import trl

    count = 0
    for path in paths:
        for sentence in differences(Path(path)):
            count += 1
            print(f"{path}: {sentence}")
    print(f"TRL {trl.__version__}: {len(paths)} files, {count} differences")
    return min(count, 100)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
