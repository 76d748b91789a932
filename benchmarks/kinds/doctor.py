"""What qlora-doctor says of the checkpoints that ``truth.py`` made: one JSON line for each.

Usage: ``python doctor.py FOLDER TRUTH.jsonl OUT.jsonl``. Each check runs with checkpointing on, and off where the truth
was found without it. What OUT holds already is not checked again, so a sweep may be run in parts.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from qlora_doctor.core.report import Report
from qlora_doctor.run.many import Entry, Result, check_many
from qlora_doctor.run.session import CheckOptions, Observer

TASKS = {"causal": "CAUSAL_LM", "image": "CAUSAL_LM", "seq2seq": "SEQ_2_SEQ_LM", "classify": "SEQ_CLS"}
WAYS = {"checkpointing": True, "plain": False}


def setup(folder: Path, kind: str, checkpointing: bool) -> dict[str, Any]:
    """The same run as a native config."""
    model: dict[str, Any] = {"name_or_path": str(folder)}
    if kind == "classify":
        model |= {"task": "sequence-classification", "num_labels": 2}
    return {
        "model": model,
        "quantization": {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": "bfloat16",
        },
        "lora": {"r": 8, "target_modules": "all-linear", "task_type": TASKS[kind]},
        "training": {
            "per_device_train_batch_size": 1,
            "learning_rate": 2e-4,
            "bf16": True,
            "gradient_checkpointing": checkpointing,
            "max_length": 64,
        },
        "hardware": {"gpu": "rtx-4090"},
    }


def told(result: Result) -> dict[str, Any]:
    """Errors, stages and counts of one check."""
    if not isinstance(result, Report):
        return {"errors": [["none", str(result)]], "stages": {}}
    facts = result.facts
    four_bit = [entry.modules for entry in facts.load.classes or [] if entry.quant_type] if facts.load else []
    return {
        "class": facts.model.model_class if facts.model else None,
        "four_bit": sum(four_bit),
        "adapted": len(facts.adapter.matched_modules or []) + len(facts.adapter.matched_parameters or [])
        if facts.adapter
        else None,
        "trainable_tensors": facts.step.trainable_tensors if facts.step else None,
        "errors": [(finding.rule, finding.message) for finding in result.findings if finding.severity == "error"],
        "warnings": [finding.rule for finding in result.findings if finding.severity == "warning"],
        "stages": {record.name: record.status for record in result.stages},
    }


def key(record: dict[str, Any]) -> tuple[str, str]:
    """What a record is of."""
    return record["kind"], record["type"]


def main() -> None:
    """A record for each checkpoint of the truth."""
    root, truth, out = (Path(name) for name in sys.argv[1:4])
    done = {key(json.loads(line)) for line in out.read_text(encoding="utf-8").splitlines()} if out.exists() else set()
    records = [json.loads(line) for line in truth.read_text(encoding="utf-8").splitlines()]
    records = [record for record in records if "not_made" not in record and key(record) not in done]
    options = CheckOptions(cache=False, offline=True, timeout=300)
    with tempfile.TemporaryDirectory() as scratch:
        entries: list[Entry] = []
        owners: list[tuple[dict[str, Any], str]] = []
        for record in records:
            for way in WAYS:
                if way in record:
                    config = Path(scratch) / f"{record['folder']}-{way}.json"
                    config.write_text(json.dumps(setup(root / record["folder"], record["kind"], WAYS[way])))
                    entries.append((config, options, Observer()))
                    owners.append((record, way))

        def finished(number: int, result: Result) -> None:
            record, way = owners[number]
            record[way] = told(result)
            if number + 1 == len(owners) or owners[number + 1][0] is not record:
                with out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(record) + "\n")
                print(*key(record), [rule for rule, _ in record[way]["errors"]], flush=True)

        check_many(entries, jobs=1, finished=finished)


if __name__ == "__main__":
    main()
