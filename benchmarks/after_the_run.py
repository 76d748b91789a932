"""``log`` and ``adapter`` beside the peers that do parts of this, on the same planted faults.

    python benchmarks/after_the_run.py [--peers FOLDER] [-o results/after_the_run.json]

The courses are those of tests/courses (really trained), the adapters and merges are made here by PEFT on tiny models:
folders into which a fault was planted, and those of tests/stored/saves.py, saved wrongly and rightly as scripts do.
``--peers`` is a folder into which finetune-doctor, deltalint and adapterbridge were installed (pip install --target);
each runs as its own command in a process of its own. afterburn compares weights and behaviour of two models and gives
no verdict on a log, an adapter or a merge, so there is nothing to count of it. Counted is, of faults, how often
anything beyond what is said of the sound twin is said (for ours: the one rule that the fault has); of sound ones, how
often nothing wrong is said.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def ours(what: str, folder: Path, **options: Any) -> Any:
    """Our report, as ``qlora-doctor log`` and ``qlora-doctor adapter`` make it."""
    from qlora_doctor.run.courses import judge_logs
    from qlora_doctor.run.session import CheckOptions
    from qlora_doctor.run.stored import judge_stored

    if what == "log":
        return judge_logs([folder], CheckOptions(), config=None, report=None)[0]
    return judge_stored(folder, CheckOptions(), **options)


def rules(report: Any) -> list[str]:
    """The rules that speak."""
    return sorted(finding.rule for finding in report.findings)


def peer(folder: Path, code: str, arguments: list[str]) -> Any:
    """A peer's JSON document; None where it fails or prints none."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "4000"}
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment)
    try:
        return json.loads(done.stdout)
    except ValueError:
        return None


FINETUNE_DOCTOR = "import sys; sys.argv[0] = 'finetune-doctor'\nfrom finetune_doctor.cli import main; sys.exit(main())"
DELTALINT = "import sys; sys.argv[0] = 'deltalint'\nfrom deltalint.cli import main; sys.exit(main())"
ADAPTERBRIDGE = "import sys; sys.argv[0] = 'adapterbridge'\nfrom adapterbridge.cli import app; app()"
_NOT_A_FAULT = "no_eval"
"""What finetune-doctor says of each run without evaluation, which is no fault that was planted."""


def courses(peers: Path | None) -> list[dict[str, Any]]:
    from tests.courses import make

    rows = []
    for name, expected in make.EXPECTED.items():
        folder = make.RUNS / name
        if "tensorboard" in name or expected["known"]:
            continue  # what only the config tells cannot be asked of a peer that reads none
        row = {"name": name, "planted": expected["rules"], "qlora-doctor": rules(ours("log", folder))}
        if peers is not None:
            document = peer(peers, FINETUNE_DOCTOR, ["diagnose", str(folder), "-f", "json"])
            checks = None if document is None else [each["check"] for each in document["findings"]]
            row["finetune-doctor"] = None if checks is None else [each for each in checks if each != _NOT_A_FAULT]
        rows.append(row)
    return rows


def adapters(place: Path, peers: Path | None) -> list[dict[str, Any]]:
    from tests.models import make_model
    from tests.stored.planting import FAULTS, LAYERS, adapt, load_base, plant, trained
    from tests.stored.saves import FAULTY, SOUND

    base = make_model(place / "base", "llama", dtype="float32", num_hidden_layers=LAYERS)
    sound = place / "sound"
    trained(adapt(load_base(base))).save_pretrained(sound)
    folders = {"sound": sound}
    for name, (_, fault) in FAULTS.items():
        (place / name).mkdir()
        folders[name] = plant(sound, place / name, fault)
    planted = {name: [rule] for name, (rule, _) in FAULTS.items()} | {name: told for name, (told, _) in FAULTY.items()}
    for name, save in {**{name: save for name, (_, save) in FAULTY.items()}, **SOUND}.items():
        folders[name] = place / "saved" / name
        save(base, folders[name])
    said = _bridge(peers, list(folders.values()))
    usual = set(said[0] or [])
    rows = []
    for (name, folder), found in zip(folders.items(), said, strict=True):
        new = None if found is None else sorted(set(found) - usual) if name != "sound" else []
        told = planted.get(name, [])
        row = {"name": name, "planted": told, "qlora-doctor": rules(ours("adapter", folder)), "adapterbridge": new}
        rows.append(row)
    return rows


_BRIDGE = """
import contextlib, io, json, sys
from adapterbridge.cli import app
for folder in sys.argv[1:]:
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.suppress(BaseException):
        app(["check", "-p", folder, "-t", "vllm", "-f", "json"], standalone_mode=False)
    print(json.dumps(told.getvalue()))
"""


def _bridge(peers: Path | None, folders: list[Path]) -> list[list[str] | None]:
    """The codes of its issues by folder; one process for all, for it imports torch."""
    if peers is None:
        return [None] * len(folders)
    environment = {**os.environ, "PYTHONPATH": str(peers), "COLUMNS": "4000"}
    command = [sys.executable, "-c", _BRIDGE, *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    found: list[list[str] | None] = []
    for line in done.stdout.splitlines():
        try:
            found.append(sorted(issue["code"] for issue in json.loads(json.loads(line))["issues"]))
        except (ValueError, KeyError, TypeError):
            found.append(None)
    return found + [None] * (len(folders) - len(found))


def merges(place: Path, peers: Path | None) -> list[dict[str, Any]]:
    from tests.models import make_model
    from tests.stored import test_merging as made
    from tests.stored.planting import adapt, load_base, trained

    base = make_model(place / "base", "llama", dtype="bfloat16")
    adapter = place / "adapter"
    trained(adapt(load_base(base)), steps=4).save_pretrained(adapter)
    right = {"once", "in_float32", "rounded_to_float16", "dequantized", "quantized"}
    makers: list[Callable[..., Any]] = [
        made.once, made.in_float32, made.rounded_to_float16, made.dequantized, made.quantized, made.never, made.twice,
        made.at_half, made.in_one_layer, made.on_another, made.four_bits_without,
    ]  # fmt: skip
    rows = []
    for make in makers:
        folder = place / make.__name__
        make(base, adapter).save_pretrained(folder)
        arguments = ["--base", str(base), "--adapter", str(adapter)]
        report = ours("adapter", folder, base=base, adapter=adapter)
        row = {"name": make.__name__, "right": make.__name__ in right, "qlora-doctor": report.facts.stored.merge}
        if peers is not None:
            document = peer(peers, DELTALINT, ["check", *arguments, "--merged", str(folder), "--json"])
            row["deltalint"] = document["verdict"] if document else "no verdict"
        rows.append(row)
    return rows


def summary(document: dict[str, Any]) -> dict[str, dict[str, str]]:
    """How many of how many, by table and tool."""
    table: dict[str, dict[str, str]] = {}
    for part in ("courses", "adapters"):
        for tool in ("qlora-doctor", "finetune-doctor", "adapterbridge"):
            rows = [row for row in document.get(part, []) if row.get(tool) is not None]
            if not rows:
                continue
            planted, sound = [row for row in rows if row["planted"]], [row for row in rows if not row["planted"]]
            hit = sum(row[tool] == row["planted"] if tool == "qlora-doctor" else bool(row[tool]) for row in planted)
            quiet = sum(not row[tool] for row in sound)
            table.setdefault(part, {})[tool] = (
                f"{hit} of {len(planted)} faults, {quiet} of {len(sound)} sound ones without a word"
            )
    for tool in ("qlora-doctor", "deltalint"):
        rows = [row for row in document.get("merges", []) if tool in row]
        counts: Counter[str] = Counter()
        for row in rows:
            said = row[tool]
            passed = said.startswith("applied") if tool == "qlora-doctor" else said == "PASS"
            refused = said not in ("undecided",) and not passed if tool == "qlora-doctor" else said == "FAIL"
            kind = "right" if row["right"] else "wrong"
            counts[f"{kind} passed" if passed else f"{kind} refused" if refused else "undecided"] += 1
        if rows:
            table.setdefault("merges", {})[tool] = ", ".join(
                f"{count} {what}" for what, count in sorted(counts.items())
            )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--part", action="append", choices=("courses", "adapters", "merges"))
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "benchmarks" / "results" / "after_the_run.json")
    given = parser.parse_args()
    kept = given.output.read_text(encoding="utf-8") if given.output.is_file() else "{}"
    document: dict[str, Any] = json.loads(kept) if given.part else {}
    parts: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
        "courses": lambda place: courses(given.peers),
        "merges": lambda place: merges(place, given.peers),
        "adapters": lambda place: adapters(place, given.peers),
    }
    for part in given.part or parts:
        place = Path(tempfile.mkdtemp())
        try:
            document[part] = parts[part](place)
        finally:
            shutil.rmtree(place, ignore_errors=True)
        document["summary"] = summary(document)
        given.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(document["summary"], indent=2))


if __name__ == "__main__":
    main()
