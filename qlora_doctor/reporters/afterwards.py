"""What a run has left, in a few lines of text: what an adapter learned, who serves it, how the ways compare."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from . import _words as words

if TYPE_CHECKING:
    from ..facts.course import CourseFacts
    from ..facts.stored import Server, StoredFacts, Way

WAYS = {
    "base": "base without the adapter",
    "adapter-on-4bit": "adapter on the 4-bit base",
    "adapter-on-16bit": "adapter on the 16-bit base",
    "merged-16bit": "merged into 16-bit",
    "merged-dequantized": "merged into dequantized 4-bit",
    "merged-4bit": "merged into 4-bit",
    "merged-quantized-anew": "merged in 16-bit, quantized again",
    "merged-as-stored": "the merged model itself",
}
"""The ways to serve, in words."""


def course_lines(course: CourseFacts) -> list[str]:
    """How far a run went and where its loss went; below it what of its logs could not be read."""
    parts = []
    if course.last_step is not None:
        of = f" of {course.planned_steps:,.0f}" if course.planned_steps is not None else ""
        parts.append(f"step {course.last_step:,.0f}{of}")
    if course.loss is not None:
        first, last = words.number(course.loss.first), words.number(course.loss.last)
        moves = f"{course.loss.direction}, " if course.loss.direction != "flat" else ""
        parts.append(f"loss {first} → {last} ({moves}{words.plural(course.loss.points, 'record')})")
    if course.best_eval_loss is not None:
        parts.append(f"best evaluation {words.number(course.best_eval_loss)} at step {course.best_eval_step or 0:,.0f}")
    lines = [" · ".join(parts)] if parts else []
    if course.steps_known is False and course.loss is not None:
        lines.append("the log names no steps: a step here is the number of a record")
    return lines + [f"not read: {words.one_line(each)}" for each in course.unread]


def stored_lines(stored: StoredFacts) -> list[str]:
    """The lines, without indentation; empty where little is known."""
    lines = []
    if stored.modules:
        parts = [f"{words.plural(stored.modules, 'module')} of rank {words.exact(stored.rank)}"]
        if stored.scaling is not None:
            parts.append(f"scaling {words.number(stored.scaling)}")
        if stored.effective_rank is not None:
            parts.append(f"effective rank {words.number(stored.effective_rank)} (median)")
        if stored.carrying_layers:
            parts.append(f"half of the change in layers {words.layers(stored.carrying_layers)}")
        parts.append(words.size(stored.bytes))
        lines.append(" · ".join(parts))
    elif stored.kind == "adapter" and stored.peft_type not in (None, "LORA"):
        kind = words.one_line(stored.peft_type or "")
        lines.append(f"{kind} and not LoRA: of it files, names and finite numbers are checked, not what it learned")
    elif stored.kind == "merged" and stored.tensors:
        kinds = ", ".join(stored.dtypes or {})
        parts = ["whole model", f"{words.plural(stored.tensors, 'tensor')} in {words.one_line(kinds)}"]
        lines.append(" · ".join([*parts, words.size(stored.bytes)]))
    if stored.base:
        lines.append(f"base: {words.one_line(stored.base)}")
    if stored.servers:
        lines.append(f"serving: {'; '.join(words.one_line(server_words(each)) for each in stored.servers)}")
    if stored.merge and stored.merge != "undecided":
        scale = f", at {words.number(stored.merge_scale)} times its scaling" if stored.merge_scale is not None else ""
        lines.append(f"merge: {stored.merge.replace('-', ' ')}{scale}")
    if stored.reload:
        lines.append(f"reload: {reload_words(stored)}")
    return lines + way_lines(stored)


def reload_words(stored: StoredFacts) -> str:
    """What a reload says beside what the trained model said."""
    then = f"the model of step {stored.reload_step}" if stored.reload_step else "the trained model"
    if stored.reload == "other-weights":
        return f"the file holds other weights than {then} had"
    if stored.reload_divergence is None:
        return "not measured"
    way = WAYS.get(stored.reload_way or "", stored.reload_way)
    verdict = {"same": f"gives the outputs of {then}", "as-base": f"gives the base's outputs, not those of {then}"}
    told = verdict.get(stored.reload or "", f"gives other outputs than {then}")
    far, base = words.number(stored.reload_divergence), words.number(stored.base_divergence)
    return f"{told} ({way}: KL {far} per token; the base without the adapter {base})"


def server_words(server: Server) -> str:
    """``vLLM needs --max-lora-rank 64``; a refusal with its reason behind a colon."""
    if server.status in ("refuses", "alters"):
        verb = "refuses it" if server.status == "refuses" else "would serve another adapter"
        return f"{server.name} {verb}: {server.note}"
    return f"{server.name} {server.status}{' ' + server.note if server.note else ''}"


def way_lines(stored: StoredFacts) -> list[str]:
    """A table of the ways to serve; empty where none was measured."""
    if not stored.ways:
        return []
    rows: list[tuple[str, ...]] = [_HEADS, *map(_row, stored.ways)]
    whole = [row for row in rows if len(row) == len(_HEADS)]
    widths = [max(len(row[0]) for row in rows), *(max(len(row[i]) for row in whole) for i in range(1, len(_HEADS)))]
    table = ["  ".join([row[0].ljust(widths[0]), *_cells(row[1:], widths[1:])]).rstrip() for row in rows]
    note = _four_bit_speed(stored.ways)
    note += [f"ship: {WAYS.get(stored.best_way, stored.best_way)}"] if stored.best_way else []
    return ["", f"measured on {stored.data}", *table, *note]


def _four_bit_speed(ways: Sequence[Way]) -> list[str]:
    """Whether 4-bit is faster here, in a sentence."""
    speed = {way.way: way.decode_tokens_per_second for way in ways}
    four, sixteen = speed.get("merged-quantized-anew"), speed.get("merged-16bit")
    if not four or not sixteen:
        return []
    return [f"a merged model in 4-bit decodes at {words.number(four / sixteen)} times the speed of one in 16-bit here"]


_HEADS = ("way", "KL per token", "top-1", "perplexity", "kept", "size", "peak", "prefill tok/s", "decode tok/s")


def _cells(cells: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    """Numbers to the right; the one cell of a way that failed as it is."""
    return map(str.rjust, cells, widths) if len(cells) == len(widths) else iter(cells)


def _row(way: Way) -> tuple[str, ...]:
    if way.failure:
        return WAYS.get(way.way, way.way), words.one_line(way.failure)[:100]
    decode = words.number(way.decode_tokens_per_second) if way.decode_tokens_per_second is not None else "–"
    spread = f" ± {words.number(way.decode_spread)}" if way.decode_spread is not None else ""
    return (
        WAYS.get(way.way, way.way),
        _number(way.divergence),
        words.percent(way.agreement_ratio) if way.agreement_ratio is not None else "–",
        _number(way.perplexity),
        words.percent(max(0.0, way.kept_ratio)) if way.kept_ratio is not None else "–",
        words.size(way.bytes) if way.bytes is not None else "–",
        words.size(way.peak_bytes) if way.peak_bytes is not None else "–",
        _number(way.prefill_tokens_per_second),
        decode + spread,
    )


def _number(value: float | None) -> str:
    return "–" if value is None else words.number(value)
