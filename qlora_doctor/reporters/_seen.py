"""What a check looked at and found right, in figures: only what is known, and only where it is right."""

from __future__ import annotations

from collections.abc import Iterator

from ..core.report import Report
from . import _words as words
from ._needed import needed


def seen(report: Report) -> list[str]:
    """``4-bit 224 of 224 layers``, ``adapter 1.1%``, ``loss 8.42 → 8.32``, …"""
    return [*_structure(report), *_step(report), *_memory(report)]


def _structure(report: Report) -> Iterator[str]:
    quantization, adapter = report.facts.quantization, report.facts.adapter
    if quantization is not None and quantization.quantized_modules and quantization.quantizable_modules:
        of = f"{quantization.quantized_modules:,} of {quantization.quantizable_modules:,} layers"
        if quantization.quantized_modules == quantization.quantizable_modules:
            yield f"4-bit {of}"
    if adapter is not None and adapter.trainable_ratio:
        yield f"adapter {words.percent(adapter.trainable_ratio)}"


def _step(report: Report) -> Iterator[str]:
    step = report.facts.step
    if step is None:
        return
    if step.parameters_without_gradient == [] and step.gradients_sound is not False:
        yield "gradients"
    if step.changed_base_tensors == []:
        yield "base unchanged"
    if step.loss_before is not None and step.loss_after is not None and step.loss_finite is not False:
        yield f"loss {words.number(step.loss_before)} → {words.number(step.loss_after)}"


def _memory(report: Report) -> Iterator[str]:
    memory = report.facts.memory
    figure = needed(memory)
    if memory is None or figure is None or not memory.card_bytes or figure.source == "at least":
        return
    if figure.size <= memory.card_bytes:
        yield f"peak {words.size(figure.size)} of {words.size(memory.card_bytes)}"
