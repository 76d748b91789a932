"""What qlora-doctor says of the checkpoints that ``truth.py`` made: one JSON line for each.

Usage: ``python doctor.py FOLDER TRUTH.jsonl OUT.jsonl``. Each check runs with checkpointing on, and off where the truth
was found without it. What OUT holds already is not checked again, so a sweep may be run in parts.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

import bitsandbytes  # noqa: F401
import datasets  # noqa: F401
import peft  # noqa: F401
import transformers  # noqa: F401
import trl.trainer.sft_trainer  # noqa: F401

import qlora_doctor
from qlora_doctor.core.report import Report
from qlora_doctor.probes.load import look as _load  # noqa: F401
from qlora_doctor.probes.step import look as _step  # noqa: F401
from qlora_doctor.worker import runner
from qlora_doctor.worker.job import Job
from qlora_doctor.worker.worker import run_job

SECONDS = 300
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


def told(result: Report) -> dict[str, Any]:
    """Errors, stages and counts of one check."""
    facts = result.facts
    four_bit = [entry.modules for entry in facts.load.classes or [] if entry.quant_type] if facts.load else []
    return {
        "class": facts.model.model_class if facts.model else None,
        "four_bit": sum(four_bit),
        "adapted": len(facts.adapter.matched_modules or []) + len(facts.adapter.matched_parameters or [])
        if facts.adapter
        else None,
        "trainable_tensors": facts.step.trainable_tensors if facts.step else None,
        "without_gradient": len(facts.step.parameters_without_gradient or []) if facts.step else None,
        "errors": [(finding.rule, finding.message) for finding in result.findings if finding.severity == "error"],
        "warnings": [finding.rule for finding in result.findings if finding.severity == "warning"],
        "stages": {record.name: record.status for record in result.stages},
    }


def here(job: Job) -> Iterator[Any]:
    """Run the stages in this process: its parent has imported the libraries, which takes longer than a tiny model."""
    events: list[Any] = []
    run_job(job, events.append)
    yield from events


def in_child(config: dict[str, Any]) -> dict[str, Any]:
    """What a check in a process of its own tells; one that ends in no answer is an error of its own."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(SECONDS)
        runner.run_stages = here
        with os.fdopen(writing, "w") as pipe:
            pipe.write(json.dumps(told(qlora_doctor.check(config, cache=False, offline=True))))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return json.loads(text) if text else {"errors": [["none", "the check did not end"]], "stages": {}}


def key(record: dict[str, Any]) -> tuple[str, str]:
    """What a record is of."""
    return record["kind"], record["type"]


def main() -> None:
    """A record for each checkpoint of the truth."""
    root, truth, out = (Path(name) for name in sys.argv[1:4])
    done = {key(json.loads(line)) for line in out.read_text(encoding="utf-8").splitlines()} if out.exists() else set()
    for line in truth.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if "not_made" in record or key(record) in done:
            continue
        for way in WAYS:
            if way in record:
                record[way] = in_child(setup(root / record["folder"], record["kind"], WAYS[way]))
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        print(*key(record), [rule for rule, _ in record["checkpointing"]["errors"]], flush=True)


if __name__ == "__main__":
    main()
