"""Each planted fault really run under ``run -- python script.py``, beside its healthy twin: what is said of each. And
trainings that are healthy in other ways.

    .venv/bin/python benchmarks/live_faults/run.py [--only WORD] [--out benchmarks/results/live_faults.json]

A fault counts as told where one of its rules is among the findings; a twin as silent where it has no warning or error.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from scripts import FAULTS, HEALTHY, KINDS, replaced  # noqa: E402


def looked_at(folder: Path, kind: str, script: str) -> dict[str, Any]:
    """What ``run`` says of a script."""
    (folder / "train.py").write_text(script, encoding="utf-8")
    command = [sys.executable, "train.py"]
    if kind == "ranks":
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "train.py"]
    doctor = [sys.executable, "-m", "qlora_doctor", "run", "-q", "-o", "json=report.json", "--", *command]
    report = folder / "report.json"
    report.unlink(missing_ok=True)
    try:
        done = subprocess.run(doctor, capture_output=True, text=True, cwd=folder, timeout=240)
    except subprocess.TimeoutExpired:
        return {"exit": None, "rules": [], "told": ["timed out"], "steps": None, "troubles": []}
    if not report.is_file():
        return {"exit": done.returncode, "rules": [], "told": [done.stderr[-600:]], "steps": None, "troubles": []}
    document = json.loads(report.read_text(encoding="utf-8"))
    document = document[-1] if isinstance(document, list) else document
    findings = [each for each in document["findings"] if each["severity"] != "info"]
    run = document["facts"].get("run") or {}
    return {
        "exit": done.returncode,
        "rules": sorted({each["rule"] for each in findings}),
        "told": [f"{each['severity']} {each['rule']}: {each['message']}"[:300] for each in findings],
        "steps": run.get("steps"),
        "troubles": run.get("troubles"),
    }


def main() -> None:
    """Run all and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="parts of faults' names or kinds, with commas")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    from tests.models import make_model, sentences

    wanted = arguments.only.split(",")
    rows = []
    twins: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_model(folder / "base", "llama")
        texts = sentences()  # of one to three sentences, so that rows are padded
        rows_of_text = [" ".join(texts[number * 7 % 100 : number * 7 % 100 + number % 3 + 1]) for number in range(128)]
        (folder / "rows.txt").write_text("\n".join(dict.fromkeys(rows_of_text)) + "\n", encoding="utf-8")
        for kind, script in KINDS.items():
            if any(word in f"{kind}: healthy" for word in wanted):
                twins[script] = looked_at(folder, kind, script)
                print(kind, "healthy", twins[script]["rules"], twins[script]["exit"], twins[script]["told"], flush=True)
        for name, (kind, changes) in HEALTHY.items():
            if any(word in f"{kind}: variant: {name}" for word in wanted):
                script = replaced(KINDS[kind], changes)
                twins[script] = seen = looked_at(folder, kind, script)
                print(
                    kind, name, seen["rules"], seen["exit"], seen["steps"], seen["troubles"], seen["told"], flush=True
                )
        for fault in FAULTS:
            if not any(word in f"{fault.kind}: {fault.name}" for word in wanted):
                continue
            twin = fault.twin()
            if twin not in twins:
                twins[twin] = looked_at(folder, fault.kind, twin)
            seen = looked_at(folder, fault.kind, fault.script())
            told = bool(set(fault.rules) & set(seen["rules"]))
            silent = not twins[twin]["rules"]
            row = {"fault": fault.name, "kind": fault.kind, "told": told, "rules": seen["rules"]}
            rows.append(row | {"twin_silent": silent, "troubles": seen["troubles"]})
            words = (
                "told" if told else "MISSED",
                "" if silent else f"TWIN {twins[twin]['told']}",
                fault.kind,
                fault.name,
            )
            print(*words, seen["rules"], seen["exit"], seen["troubles"], "" if told else seen["told"], flush=True)
    loud = [twin["rules"] for twin in twins.values() if twin["rules"]]
    result = {"faults": len(rows), "told": sum(row["told"] for row in rows), "healthy": len(twins)}
    result |= {"healthy_silent": len(twins) - len(loud), "rows": rows}
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({name: value for name, value in result.items() if name != "rows"}))


if __name__ == "__main__":
    main()
