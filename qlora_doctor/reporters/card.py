"""One picture of 1200 × 630: the GPU as a vessel with its parts up to or over the line, beside it answer and cure.

A drawing for where people look: a README, a chat, a link's preview. All of it stands in the report; nothing is judged
here. ``render`` is the card, ``render_badge`` the answer in a line for a README.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from html import escape

from ..core.errors import UsageError
from ..core.report import Report
from . import _words as words
from ._answer import changes
from .verdict import subject

WIDTH, HEIGHT = 1200, 630
"""As link previews take it."""
PARTS = {
    "base_4bit": ("base, 4-bit", "#3f6fa8"),
    "quantization_statistics": ("quantization statistics", "#6fa3c7"),
    "base_16bit": ("base, 16-bit", "#8fb0cc"),
    "base_32bit": ("base, 32-bit", "#b9cfe0"),
    "adapter": ("adapter", "#12918c"),
    "gradients": ("gradients", "#5aa786"),
    "optimizer": ("optimizer", "#c7a035"),
    "activations": ("activations", "#d07a36"),
    "logits_and_loss": ("logits and loss", "#bf4d63"),
    "dequantized_weights": ("dequantized weights", "#94639f"),
    "workspaces": ("workspaces", "#77828d"),
    "fragmentation": ("fragmentation", "#a9b1b8"),
    "reserved": ("reserved", "#cfd6dc"),
}
INK, SOFT, PAPER, LINE = "#17212b", "#52606d", "#f7f9fa", "#b9c3cc"
COLOURS = {"yes": "#1d6b41", "barely": "#8a5300", "no": "#b3261e", "free": "#17212b"}
SANS = "Inter, 'Segoe UI', Roboto, 'Helvetica Neue', 'Noto Sans', 'DejaVu Sans', sans-serif"
LEFT, TOP, WIDE, TALL = 104, 92, 250, 440
"""Of the vessel's inside."""
NAMED = 5
"""Parts that are named; the others are drawn alone."""


@dataclass(frozen=True)
class Fit:
    """What a report says of memory and a card; bytes.

    Attributes:
        level: ``yes``, ``barely`` (within the error band), ``no``, or ``free`` where no card is meant.
        peak, space: what the run reserves, and what the card gives.
        parts: by name, the lowest of the vessel first; together they are the peak.
        cure: the smallest change with which it fits.
    """

    level: str
    peak: int
    space: int | None
    card: str | None
    parts: dict[str, int]
    batch: int | None
    sequence: int | None
    cure: str | None

    @property
    def answer(self) -> str:
        """In a word or two."""
        return {"yes": "Fits", "barely": "Barely fits", "no": "Does not fit", "free": "Peak"}[self.level]

    @property
    def figures(self) -> str:
        """What is needed of what there is."""
        return words.size(self.peak) + (f" of {words.size(self.space)}" if self.space is not None else "")


def fit_of(report: Report) -> Fit | None:
    """What there is to draw; None where no peak is known."""
    memory = report.facts.memory
    picture = memory.predicted if memory is not None else None
    if memory is None or picture is None or picture.peak_reserved_bytes is None:
        return None
    plan = memory.plans[0] if memory.plans else None
    space = plan.card_bytes if plan is not None else memory.card_bytes
    card = plan.card if plan is not None else memory.card
    peak = picture.peak_reserved_bytes
    band = memory.margin_ratio or 0.0
    level = "free" if space is None else "no" if peak > space else "barely" if peak * (1 + band) > space else "yes"
    breakdown = picture.breakdown or {}
    parts = {name: breakdown[name] for name in PARTS if breakdown.get(name, 0) > 0}
    parts["reserved"] = max(0, peak - sum(parts.values()))
    return Fit(level, peak, space, None if space is None else card, parts, picture.batch, picture.sequence,
               _cure(report) if level == "no" else None)  # fmt: skip


def _known_fit(report: Report) -> Fit:
    fit = fit_of(report)
    if fit is None:
        raise UsageError("There is no peak to draw: stage memory found none.", remedy="--stage memory")
    return fit


def render(report: Report) -> str:
    """The card as SVG.

    Raises:
        UsageError: the report says no peak.
    """
    fit = _known_fit(report)
    return drawn(report, fit)


def drawn(report: Report, fit: Fit) -> str:
    """The card of what is known, a complete SVG document."""
    name, file = subject(report)
    colour = COLOURS[fit.level]
    right = 496  # behind the card's size, whatever it is
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img" font-family="{SANS}" fill="{INK}">',
        f"<title>{_text(f'{name}: {fit.answer}, {fit.figures}')}</title>",
        '<defs><pattern id="over" width="14" height="14" patternUnits="userSpaceOnUse" '
        f'patternTransform="rotate(45)"><path d="M0 0H6V14H0Z" fill="{COLOURS["no"]}" opacity=".8"/></pattern>'
        f'<clipPath id="inside"><rect x="{LEFT}" width="{WIDE}" height="{TOP + TALL}" rx="14"/></clipPath></defs>',
        f'<path d="M0 0H{WIDTH}V{HEIGHT}H0Z" fill="{PAPER}"/><path d="M0 0H{WIDTH}V10H0Z" fill="{colour}"/>',
        *_vessel(fit),
    ]
    y = 112
    title = name if file is None else f"{name} · {file}"
    for line in _wrapped(words.one_line(title), 44)[:2]:
        lines.append(_line(line, right, y, 28, fill=SOFT))
        y += 36
    lines.append(_line(fit.answer, right, y + 46, 72, weight=700, fill=colour))
    lines.append(_line(fit.figures, right, y + 104, 44, weight=700))
    y += 154
    for line in _wrapped(_asked(report, fit), 50)[:2]:
        lines.append(_line(line, right, y, 25))
        y += 34
    if fit.cure is not None:
        said = _wrapped(fit.cure, 46)[:4]
        y += 14
        lines.append(f'<path d="M{right} {y - 8}h6v{34 * len(said) + 34}h-6z" fill="{COLOURS["yes"]}"/>')
        lines.append(_line("The smallest cure", right + 24, y + 14, 20, weight=700, fill=COLOURS["yes"]))
        lines += [_line(line, right + 24, y + 48 + 34 * place, 25) for place, line in enumerate(said)]
        y += 34 * len(said) + 54
    else:
        lines += _legend(fit, right, y + 30)
    lines.append(_line("qlora-doctor", right, HEIGHT - 40, 20, weight=700, fill="#0d6e6e"))
    lines.append(_line("peak predicted before the run", right + 162, HEIGHT - 40, 20, fill=SOFT))
    return "".join(line for line in lines if line) + "</svg>\n"


def _vessel(fit: Fit) -> list[str]:
    """Parts from the bottom up; the line is what the card gives, and what is above it is marked."""
    full = max(fit.peak, fit.space or 0) * (1.02 if fit.level == "no" else 1.0)
    bottom = TOP + TALL

    def height(size: int) -> float:
        return size / full * TALL

    line = bottom - height(fit.space) if fit.space is not None else bottom - height(fit.peak)
    out = [f'<rect x="{LEFT - 9}" y="{line - 9:.1f}" width="{WIDE + 18}" height="{bottom - line + 18:.1f}" rx="22" '
           f'fill="#fff" stroke="{LINE}" stroke-width="5"/>', '<g clip-path="url(#inside)">']  # fmt: skip
    y, named = float(bottom), []
    for name, size in fit.parts.items():
        tall = height(size)
        y -= tall
        out.append(f'<rect x="{LEFT}" y="{y:.1f}" width="{WIDE}" height="{tall + 0.4:.1f}" fill="{PARTS[name][1]}"/>')
        if tall >= 30:
            dark = name in ("base_32bit", "base_16bit", "fragmentation", "reserved", "quantization_statistics")
            ink = INK if dark else "#fff"
            halo = f' paint-order="stroke" stroke="{PARTS[name][1]}" stroke-width="7"'
            halo = halo if fit.level == "no" and y < line else ""  # readable where it is marked
            named.append(_line(PARTS[name][0], LEFT + 14, y + tall / 2 + 6, 18, fill=ink, more=halo))
            at = LEFT + WIDE - 14
            named.append(_line(words.size(size), at, y + tall / 2 + 6, 18, fill=ink, anchor="end", more=halo))
    out.append("</g>")
    top = bottom - height(fit.peak)
    if fit.level == "no":
        out.append(f'<rect x="{LEFT}" y="{top:.1f}" width="{WIDE}" height="{line - top:.1f}" fill="url(#over)"/>')
    out += named
    if fit.space is not None:
        out.append(
            f'<path d="M{LEFT - 36} {line:.1f}h{WIDE + 72}" stroke="{INK}" stroke-width="3" stroke-dasharray="9 6"/>'
        )
        out.append(_line(words.size(fit.space), LEFT + WIDE + 20, line - 10, 20, weight=700))
    out.append(_line(fit.card or "no card named", LEFT + WIDE / 2, bottom + 50, 24, weight=650, anchor="middle"))
    return out


def _legend(fit: Fit, x: int, y: int) -> list[str]:
    """The largest parts by name."""
    shown = sorted(((size, name) for name, size in fit.parts.items() if size), reverse=True)[:NAMED]
    out = []
    for place, (size, name) in enumerate(shown):
        at = y + 32 * place
        out.append(f'<rect x="{x}" y="{at - 16}" width="20" height="20" rx="4" fill="{PARTS[name][1]}"/>')
        out.append(_line(PARTS[name][0], x + 32, at, 21))
        out.append(_line(words.size(size), x + 400, at, 21, weight=650, anchor="end"))
    return out


def _asked(report: Report, fit: Fit) -> str:
    """What the figure is for."""
    lora = (report.setup or {}).get("lora") or {}
    parts = [f"batch {fit.batch} × {fit.sequence:,} tokens"] if fit.batch and fit.sequence else []
    if isinstance(lora.get("r"), int):
        parts.append(f"rank {lora['r']}")
    return ", ".join([*parts, "4-bit"])


def _cure(report: Report) -> str | None:
    memory = report.facts.memory
    assert memory is not None
    plan = memory.plans[0] if memory.plans else None
    cure = plan.cure if plan is not None else memory.cure
    if cure is not None and cure.fits is not False:
        said = changes(cure)
        return f"{said[:1].upper()}{said[1:]}: {words.size(cure.peak_reserved_bytes)}"
    if plan is not None and plan.instead is not None:
        return f"Batch {plan.instead.batch} × {plan.instead.sequence:,} tokens"
    return None


def _line(
    text: str, x: float, y: float, size: int, *,
    weight: int = 400, fill: str | None = None, anchor: str | None = None, more: str = "",
) -> str:  # fmt: skip
    more += f' fill="{fill}"' if fill else ""
    more += f' text-anchor="{anchor}"' if anchor else ""
    more += f' font-weight="{weight}"' if weight != 400 else ""
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}"{more}>{_text(text)}</text>'


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_on_hyphens=False)


def _text(text: str) -> str:
    return escape(words.one_line(text), quote=True)


def render_badge(report: Report) -> str:
    """A badge for a README: the card's name, and whether it fits.

    Raises:
        UsageError: the report says no peak.
    """
    fit = _known_fit(report)
    label = fit.card or "peak"
    told = words.size(fit.peak) + (f" of {words.size(fit.space)}" if fit.space is not None else "")
    told = {"yes": "fits, ", "barely": "barely fits, ", "no": "does not fit, ", "free": ""}[fit.level] + told
    one, two = (14 + round(6.7 * len(text)) for text in (label, told))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{one + two}" height="20" role="img" '
        f'font-family="Verdana, \'DejaVu Sans\', sans-serif" font-size="11" fill="#fff" text-anchor="middle">'
        f"<title>{_text(f'{label}: {told}')}</title>"
        f'<clipPath id="r"><rect width="{one + two}" height="20" rx="4"/></clipPath><g clip-path="url(#r)">'
        f'<rect width="{one}" height="20" fill="#3b4650"/>'
        f'<rect x="{one}" width="{two}" height="20" fill="{COLOURS[fit.level]}"/></g>'
        f'<text x="{one / 2:g}" y="14" textLength="{one - 14}" lengthAdjust="spacingAndGlyphs">{_text(label)}</text>'
        f'<text x="{one + two / 2:g}" y="14" textLength="{two - 14}" lengthAdjust="spacingAndGlyphs">{_text(told)}'
        "</text></svg>\n"
    )


def png(svg: str) -> bytes:
    """A drawing as PNG, by resvg.

    Raises:
        UsageError: resvg-py is not installed.
    """
    try:
        from resvg_py import svg_to_bytes
    except ImportError:
        raise UsageError(
            "A PNG needs resvg-py, which is not installed.", remedy="pip install 'qlora-doctor[png]', or write an SVG"
        ) from None
    return bytes(svg_to_bytes(svg_string=svg))
