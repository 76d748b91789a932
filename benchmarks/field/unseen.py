"""What is said of the training files in a folder of clones, one row for each: to be judged by a person in unseen.tsv.

    python benchmarks/field/unseen.py FOLDER LIST [OUT.tsv]

LIST names the files, one a line: the clone's folder below FOLDER (or its repository, with the ``+`` of the folder as
``/``), a tab, the path in it; ``unseen.tsv`` itself will do. Each file is checked from its own folder, in a process of
its own, with ``--stage config``. A clone has its ``.git``: without it not all that stands beside a file is found.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

COLUMNS = ("repository", "path", "dialect", "known", "of", "exit", "errors", "warnings")


def row_of(folder: Path, clone: str, path: str) -> dict[str, Any]:
    """One file's row; ``-`` as its dialect where it is refused in words, ``!`` where it fell over."""
    file = folder / clone / path
    command = [sys.executable, "-m", "qlora_doctor", "check", "--stage", "config", "--format", "json", file.name]
    done = subprocess.run(command, cwd=file.parent, capture_output=True, text=True, timeout=300)
    row: dict[str, Any] = {"repository": clone.replace("+", "/", 1), "path": path, "exit": done.returncode}
    try:
        report = json.loads(done.stdout)
    except ValueError:
        return row | {"dialect": "!"}
    read = report["summary"].get("read") or {}
    sure = [f for f in report["findings"] if f["severity"] == "warning" and f["confidence"] == "high"]
    return row | {
        "dialect": (report["setup"] or {}).get("dialect") or "-",
        "known": read.get("known"),
        "of": read.get("of"),
        "errors": " ".join(f["rule"] for f in report["findings"] if f["severity"] == "error"),
        "warnings": " ".join(f["rule"] for f in sure),
    }


def main() -> None:
    """Write the rows, and print the totals."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("list", type=Path)
    parser.add_argument("out", type=Path, nargs="?")
    arguments = parser.parse_args()
    rows = []
    for line in arguments.list.read_text("utf-8").splitlines():
        if "\t" in line:
            clone, path = line.split("\t")[:2]
            rows.append(row_of(arguments.folder.resolve(), clone.replace("/", "+", 1), path))
    with arguments.out.open("w", encoding="utf-8", newline="") if arguments.out else sys.stdout as out:
        writer = csv.DictWriter(out, COLUMNS, delimiter="\t", lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(rows)
    told = Counter(rule for row in rows for rule in str(row.get("errors") or "").split())
    fell = sum(row["dialect"] == "!" for row in rows)
    refused = sum(row["dialect"] == "-" for row in rows)
    print(f"{len(rows)} files of {len({row['repository'] for row in rows})} repositories: {fell} fell over, {refused} "
          f"refused in words, {sum(told.values())} errors: {dict(told)}", file=sys.stderr)  # fmt: skip


if __name__ == "__main__":
    main()
