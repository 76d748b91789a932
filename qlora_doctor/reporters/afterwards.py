"""What a run has left, in a few lines of text: what an adapter learned, who serves it, how the ways compare."""

from __future__ import annotations

from collections.abc import Sequence

from ..facts.stored import StoredFacts, Way
from . import _words as words

WAYS = {
    "base": "base without the adapter",
    "adapter-on-4bit": "adapter on the 4-bit base",
    "adapter-on-16bit": "adapter on the 16-bit base",
    "merged-16bit": "merged into 16-bit",
    "merged-dequantized": "merged into dequantized 4-bit",
    "merged-4bit": "merged into 4-bit",
    "merged-quantized-anew": "merged in 16-bit, quantized again",
}
"""The ways to serve, in words."""


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
    if stored.base:
        lines.append(f"base: {words.one_line(stored.base)}")
    if stored.servers:
        told = [f"{s.name} {s.status}{' ' + s.note if s.note else ''}" for s in stored.servers]
        lines.append(f"serving: {'; '.join(words.one_line(each) for each in told)}")
    if stored.merge and stored.merge != "undecided":
        scale = f", at {words.number(stored.merge_scale)} times its scaling" if stored.merge_scale is not None else ""
        lines.append(f"merge: {stored.merge}{scale}")
    return lines + way_lines(stored)


def way_lines(stored: StoredFacts) -> list[str]:
    """A table of the ways to serve; empty where none was measured."""
    if not stored.ways:
        return []
    rows: list[tuple[str, ...]] = [_HEADS, *map(_row, stored.ways)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADS))]
    table = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
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


def _row(way: Way) -> tuple[str, ...]:
    if way.failure:
        return (WAYS.get(way.way, way.way), words.one_line(way.failure)[:60], "", "", "", "", "", "", "")
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
