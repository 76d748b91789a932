"""What ``check --stage config`` says of a corpus, by kind of file and rule, beside what a person judged of it.

    python benchmarks/field/judge_table.py CORPUS        # has INDEX.tsv: file, dialect, …

Counts are written into ``table.tsv``; verdict, why and source stay as they stand there. The exit code is 1 where an
error was judged false, or something new has not been judged yet.
"""

from __future__ import annotations

import csv
import sys
from collections import Counter
from pathlib import Path

from qlora_doctor.core.errors import ConfigError
from qlora_doctor.run.many import check_many
from qlora_doctor.run.session import CheckOptions, Observer

TABLE = Path(__file__).parent / "table.tsv"
FIELDS = ("kind", "rule", "name", "severity", "files", "verdict", "why", "source")
Key = tuple[str, str]


def counted(corpus: Path) -> Counter[tuple[str, str, str, str]]:
    """(kind of file, rule, its name, severity) → files."""
    with (corpus / "INDEX.tsv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    options = CheckOptions(stages=("config",), cache=False)
    results = check_many(
        [(corpus / row["file"], options, Observer()) for row in rows], jobs=1, finished=lambda number, result: None
    )
    found: Counter[tuple[str, str, str, str]] = Counter()
    for number, result in results.items():
        kind = rows[number]["dialect"]
        if isinstance(result, ConfigError):
            found[kind, "-", "not-read", "error"] += 1
            continue
        found.update({(kind, each.rule, each.name, each.severity) for each in result.findings})
    return found


def judged() -> dict[Key, dict[str, str]]:
    """What was judged before, by kind and rule."""
    if not TABLE.exists():
        return {}
    with TABLE.open(encoding="utf-8") as file:
        return {(row["kind"], row["rule"]): row for row in csv.DictReader(file, delimiter="\t")}


def main(corpus: Path) -> int:
    """Write the table; 1 where something in it is false or not judged."""
    before = judged()
    rows = []
    for (kind, rule, name, severity), files in sorted(counted(corpus).items(), key=lambda item: (item[0][1], item[0])):
        known = before.get((kind, rule), {})
        row = {"kind": kind, "rule": rule, "name": name, "severity": severity, "files": str(files)}
        rows.append(row | {field: known.get(field) or "" for field in FIELDS[5:]})
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    open_rows = [row for row in rows if not row["verdict"]]
    false_errors = [row for row in rows if row["severity"] == "error" and row["verdict"] == "false"]
    for row in (*open_rows, *false_errors):
        print(f"{row['severity']} {row['rule']} {row['name']} on {row['kind']}: {row['verdict'] or 'not judged'}")
    by_severity = Counter[str]()
    for row in rows:
        by_severity[row["severity"]] += int(row["files"])
    print(", ".join(f"{number} {severity}" for severity, number in sorted(by_severity.items())))
    return int(bool(open_rows or false_errors))


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
