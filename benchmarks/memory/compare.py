"""Predicted against measured peaks of QLoRA steps: a table of errors and a drawing.

    python benchmarks/memory/compare.py [TRUTH.json …] [--svg FILE] [--json FILE] [--only TEXT]

A truth file holds what was measured on a card, with versions and method; ``h200.json`` and ``h100.json`` beside this
file are used where none is named. Nothing is fitted to it: every figure of a prediction has its source in
``qlora_doctor/memory``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))  # the repository, of which the cases are a module
MIB = 1 << 20
BAR = {
    "allocated mean": 1.0,
    "allocated largest": 4.0,
    "too low at most": 2.0,
    "reserved mean": 4.0,
    "reserved largest": 10.0,
}
"""Per cent: what a prediction has to keep."""


@dataclass
class Result:
    """One setup, predicted and measured; bytes and seconds."""

    name: str
    allocated: int
    reserved: int
    measured_allocated: int
    measured_reserved: int
    seconds: float

    @property
    def allocated_error(self) -> float:
        """Per cent, positive where the prediction is too high."""
        return 100 * (self.allocated / self.measured_allocated - 1)

    @property
    def reserved_error(self) -> float:
        """Per cent, positive where the prediction is too high."""
        return 100 * (self.reserved / self.measured_reserved - 1)


def read_cases(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What a truth file says of its machine, and its cases with the architecture of each."""
    truth = json.loads(path.read_text(encoding="utf-8"))
    cases = [case | {"architecture": truth["architectures"][case["model"]]} for case in truth["cases"]]
    return truth["measured_with"], cases


def machine_of(measured_with: dict[str, Any], case: dict[str, Any] | None = None) -> Any:
    """The machine that a truth file was measured on, as a case had it set."""
    from qlora_doctor.memory.machine import Machine
    from qlora_doctor.tables.cards import find_card

    name = measured_with["device"].split("(")[0].strip()
    major, minor = measured_with["torch"].split(".")[:2]
    settings = ("expandable_segments", "cudnn_attention")
    return Machine(
        find_card(name), (int(major), int(minor)), **{name: case[name] for name in settings if name in (case or {})}
    )


def step_case(case: dict[str, Any]) -> Any:
    """A truth file's case in the predictor's terms."""
    from transformers import AutoConfig

    from benchmarks.memory.step_case import StepCase

    names = (
        "batch", "sequence", "r", "lora_alpha", "lora_dropout", "target_modules", "use_dora", "modules_to_save",
        "double_quant", "gradient_checkpointing", "use_reentrant", "gradient_accumulation_steps", "optim",
        "attn_implementation", "trainer", "packing", "from_checkpoint", "padded",
    )  # fmt: skip
    return StepCase(
        config=AutoConfig.for_model(**case["architecture"]),
        prepare_for_kbit_training=case["prepare_for_kbit_training"],
        precision=case.get("precision", "fp16" if case["fp16"] else "bf16"),
        **{name: case[name] for name in names if name in case},
    )


def subject_of(case: dict[str, Any]) -> Any:
    """What a truth file's case is predicted from."""
    from benchmarks.memory.step_case import subject_of_case

    return subject_of_case(step_case(case))


def predict_case(case: dict[str, Any], measured_with: dict[str, Any]) -> Result:
    """Predict one case of a truth file."""
    from qlora_doctor.memory.predict import predict

    began = time.perf_counter()
    prediction = predict(subject_of(case), machine_of(measured_with, case))
    return Result(
        name=describe(case),
        allocated=prediction.step_allocated_bytes,
        reserved=prediction.step_reserved_bytes,
        measured_allocated=max(step["peak_allocated"] for step in case["steps"]),
        measured_reserved=max(step["peak_reserved"] for step in case["steps"]),
        seconds=time.perf_counter() - began,
    )


def describe(case: dict[str, Any]) -> str:
    """A case in a few words: what it is and what is unusual about it."""
    words = [case["model"], f"{case['batch']}×{case['sequence']}", f"r{case['r']}"]
    if case["target_modules"] != "all-linear":
        words.append(f"{len(case['target_modules'])} targets")
    if not case["gradient_checkpointing"]:
        words.append("no checkpointing")
    for name, usual in (
        ("lora_dropout", 0.05), ("use_dora", False), ("modules_to_save", None), ("double_quant", True),
        ("use_reentrant", False), ("gradient_accumulation_steps", 1), ("optim", "adamw_torch_fused"),
        ("attn_implementation", "sdpa"), ("prepare_for_kbit_training", True), ("fp16", False),
        ("trainer", "transformers"), ("packing", False), ("from_checkpoint", False), ("padded", False),
        ("precision", "fp16" if case["fp16"] else "bf16"), ("expandable_segments", False), ("cudnn_attention", True),
    ):  # fmt: skip
        value = case.get(name, usual)
        if value != usual:
            words.append(name if value is True else f"{name}={value}" if isinstance(value, (str, int, float)) else name)
    return " ".join(words)


def summary(results: list[Result]) -> dict[str, float]:
    """The figures of :data:`BAR`, in per cent."""
    allocated = [result.allocated_error for result in results]
    reserved = [abs(result.reserved_error) for result in results]
    return {
        "allocated mean": mean(map(abs, allocated)),
        "allocated largest": max(map(abs, allocated)),
        "too low at most": max(0.0, -min(allocated)),
        "reserved mean": mean(reserved),
        "reserved largest": max(reserved),
    }


def table(results: list[Result]) -> str:
    """One line a setup, the largest error first, and the summary against the bar."""
    width = max(len(result.name) for result in results)
    lines = [f"{'setup':{width}}  allocated MiB  measured  error   reserved MiB  measured  error  seconds"]
    for result in sorted(results, key=lambda result: -abs(result.allocated_error)):
        lines.append(
            f"{result.name:{width}}  {result.allocated / MIB:13,.0f} {result.measured_allocated / MIB:9,.0f}"
            f" {result.allocated_error:+6.2f}% {result.reserved / MIB:13,.0f} {result.measured_reserved / MIB:9,.0f}"
            f" {result.reserved_error:+6.2f}% {result.seconds:7.1f}"
        )
    lines.append("")
    for name, value in summary(results).items():
        lines.append(f"{name:18} {value:6.2f}%   (bar {BAR[name]:.0f}%)")
    return "\n".join(lines)


def drawing(results: list[Result]) -> str:
    """Predicted over measured on logarithmic axes, allocated filled and reserved hollow, as an SVG document."""
    from math import log10

    side, edge = 460, 50
    values = [
        value / MIB for r in results for value in (r.allocated, r.reserved, r.measured_allocated, r.measured_reserved)
    ]
    low, high = log10(min(values)) - 0.05, log10(max(values)) + 0.05

    def at(value: float) -> float:
        return edge + (log10(value) - low) / (high - low) * (side - 2 * edge)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {side} {side}" font-family="sans-serif" font-size="11">',
        "<title>Predicted and measured peaks</title>",
        f'<path d="M{edge} {side - edge}H{side - edge}M{edge} {side - edge}V{edge}" stroke="#888" fill="none"/>',
        f'<path d="M{edge} {side - edge}L{side - edge} {edge}" stroke="#bbb" stroke-dasharray="4 3"/>',
        f'<text x="{side / 2}" y="{side - 12}" text-anchor="middle">measured, GiB</text>',
        f'<text x="14" y="{side / 2}" text-anchor="middle" transform="rotate(-90 14 {side / 2})">predicted, GiB</text>',
    ]
    for gib in (1, 2, 4, 8, 16, 32, 64, 128):
        if low <= log10(gib * 1024) <= high:
            place = at(gib * 1024)
            parts.append(f'<text x="{place:.1f}" y="{side - edge + 16}" text-anchor="middle">{gib}</text>')
            parts.append(f'<text x="{edge - 6}" y="{side - place + 4:.1f}" text-anchor="end">{gib}</text>')
    for r in results:
        name = r.name.replace("&", "&amp;").replace("<", "&lt;")
        for x, y, fill, error in (
            (r.measured_reserved, r.reserved, "none", r.reserved_error),
            (r.measured_allocated, r.allocated, "#2563eb", r.allocated_error),
        ):
            parts.append(
                f'<circle cx="{at(x / MIB):.1f}" cy="{side - at(y / MIB):.1f}" r="3.5" fill="{fill}" stroke="#2563eb">'
                f"<title>{name}: {error:+.2f}%</title></circle>"
            )
    parts.append(f'<text x="{edge + 8}" y="{edge + 4}">filled: allocated, hollow: reserved</text></svg>')
    return "\n".join(parts) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Run the comparison; returns 1 where the bar is missed or a case cannot be predicted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("truth", nargs="*", type=Path, default=[HERE / "h200.json", HERE / "h100.json"])
    parser.add_argument("--svg", type=Path, help="draw predicted against measured into this file")
    parser.add_argument("--json", type=Path, help="write the results into this file")
    parser.add_argument("--only", default="", help="only setups whose description holds this text")
    options = parser.parse_args(arguments)
    results, failed = [], []
    for path in options.truth:
        measured_with, cases = read_cases(path)
        for case in cases:
            if options.only not in describe(case):
                continue
            try:
                results.append(predict_case(case, measured_with))
            except Exception as error:
                failed.append(f"{describe(case)}: {error}")
    if results:
        print(table(results))
    for line in failed:
        print(f"not predicted: {line}", file=sys.stderr)
    if options.svg and results:
        options.svg.write_text(drawing(results), encoding="utf-8")
    if options.json:
        options.json.write_text(json.dumps([asdict(r) for r in results], indent=1) + "\n", encoding="utf-8")
    missed = any(value > BAR[name] for name, value in summary(results).items()) if results else True
    return 1 if missed or failed else 0


if __name__ == "__main__":
    sys.exit(main())
