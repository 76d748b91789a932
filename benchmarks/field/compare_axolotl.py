"""Hold what is said of axolotl configs against axolotl's own validators.

    PYTHONPATH=AXOLOTL/src python benchmarks/field/compare_axolotl.py FILE…

``AXOLOTL`` is a checkout whose schema classes can be imported (pydantic, torch and transformers are enough for most
files). For each file it is told whether axolotl refuses it and whether the reader says so; both must agree.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import yaml

from qlora_doctor.config import read_setup


def refusal(path: Path) -> str | None:
    """What axolotl says as it refuses a file, or None where it takes it."""
    from axolotl.utils.schemas.config import AxolotlInputConfig  # type: ignore[import-not-found]

    try:
        AxolotlInputConfig(**yaml.safe_load(path.read_text("utf-8")))
    except Exception as error:  # whatever its validators raise is a refusal
        return " ".join(str(error).split())[:160]
    return None


def main(paths: list[str]) -> int:
    """Print every file on which the two disagree; the number of them is the exit code."""
    logging.disable(logging.CRITICAL)
    differences = 0
    for path in map(Path, paths):
        theirs = refusal(path)
        told = [remark for remark in read_setup(path).remarks if remark["effect"] == "refused"]
        ours = [remark["kind"] for remark in told if not remark.get("machine")]
        if bool(theirs) != bool(ours):
            differences += 1
            print(f"{path}: axolotl: {theirs or 'takes it'}; reader: {', '.join(map(str, ours)) or 'takes it'}")
    print(f"{len(paths)} files, {differences} differences")
    return min(differences, 100)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
