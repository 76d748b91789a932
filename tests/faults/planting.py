"""Plant a fault in a healthy setup and run the whole tool on it, in this process so that torch is imported once."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qlora_doctor.core.report import Report
from qlora_doctor.run.checking import run_check
from qlora_doctor.run.session import CheckOptions

if TYPE_CHECKING:
    from qlora_doctor.worker.job import Job

LEVELS = ("error", "warning", "info")


def healthy_config(model: Path, /, **sections: Any) -> dict[str, Any]:
    """A setup in which nothing is wrong: the QLoRA paper's choices, sized for a tiny model on the CPU."""
    config: dict[str, Any] = {
        "model": str(model),
        "quantization": {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": "bfloat16",
        },
        "lora": {"r": 8, "lora_alpha": 16, "target_modules": "all-linear", "task_type": "CAUSAL_LM"},
        "training": {"per_device_train_batch_size": 2, "learning_rate": 2e-4, "bf16": True, "max_length": 32},
    }
    return merge(config, sections)


def merge(target: Any, patch: Any) -> Any:
    """RFC 7386 merge patch; None removes a key."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(copy.deepcopy(target)) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


def check_here(path: Path, monkeypatch: Any, **options: Any) -> Report:
    """The real check, its real stages in this process instead of a child."""
    monkeypatch.setattr("qlora_doctor.worker.runner.run_stages", run_stages_here)
    return run_check(path, CheckOptions(device="cpu", offline=True, **options))


def run_stages_here(job: Job) -> Iterator[Any]:
    """``run_stages`` without a child process."""
    from qlora_doctor.worker.worker import run_job

    events: list[Any] = []
    run_job(job, events.append)
    yield from events


def write(path: Path, config: dict[str, Any]) -> Path:
    path.write_text(json.dumps(config), encoding="utf-8")
    return path


def found(report: Report, level: str) -> set[str]:
    """Rules with a finding at this level or above."""
    above = LEVELS[: LEVELS.index(level) + 1]
    return {f.rule for f in report.findings if f.severity in above}


def told(report: Report) -> str:
    """What a failed test should show."""
    stages = [f"{s.name}: {s.status} {s.reason or ''}" for s in report.stages]
    return "\n".join(stages + [f"{f.severity} {f.rule} {f.name}: {f.message}" for f in report.findings])
