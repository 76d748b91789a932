"""Hold what is read of an adapter_config.json against PEFT's own ``from_pretrained``.

    python benchmarks/field/compare_peft.py FILE…

Each LoRA file is read by PeftConfig.from_pretrained; every value that the reader calls explicit must be the one that
PEFT holds, and keys that PEFT drops must be those that are told. The number of differences is the exit code.
"""

from __future__ import annotations

import logging
import shutil
import sys
import tempfile
import warnings
from enum import Enum
from pathlib import Path
from typing import Any

from qlora_doctor.reading import read_setup
from qlora_doctor.reading.dialects.peft_adapter import _FIELDS as FIELDS


def own_config(path: Path) -> tuple[Any, set[str]]:
    """PEFT's config of a file, and the keys that it drops with a warning."""
    from peft import PeftConfig

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        shutil.copy(path, Path(folder) / "adapter_config.json")
        config = PeftConfig.from_pretrained(folder)
    dropped = [str(each.message) for each in caught if "Unexpected keyword arguments" in str(each.message)]
    named = {name.strip(" '") for text in dropped for name in text.partition("[")[2].partition("]")[0].split(",")}
    return config, named - {""}


def differences(path: Path) -> list[str]:
    """What PEFT and the reader say differently of one file."""
    setup = read_setup(path)
    if any(remark.kind == "no-lora" for remark in setup.remarks):
        return []
    config, _ = own_config(path)
    found = []
    for key, row in FIELDS.items():
        canonical = row if isinstance(row, str) else row[0]
        section, _, field = canonical.partition(".")
        origin = setup.origins.get(canonical)
        if origin is None or origin.source != "explicit" or not hasattr(config, key):
            continue
        ours, own = getattr(getattr(setup, section), field), getattr(config, key)
        if comparable(ours) != comparable(own):
            found.append(f"{key}: read {ours!r}, PEFT has {own!r}")
    return found


def comparable(value: Any) -> Any:
    """A value without the form that PEFT gives it: sets of names, enums."""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, set | list | tuple):
        return sorted(set(map(str, value)))
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def main(paths: list[str]) -> int:
    """Print what differs; the number of differences is the exit code."""
    import peft

    logging.disable(logging.CRITICAL)
    count = 0
    for path in paths:
        for sentence in differences(Path(path)):
            count += 1
            print(f"{path}: {sentence}")
    print(f"PEFT {peft.__version__}: {len(paths)} files, {count} differences")
    return min(count, 100)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
