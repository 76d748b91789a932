"""Numbers as a reader wants them, from facts' own units (bytes, ratios of 0…1, seconds, counts): one spelling.

Rule pages, reports and the command take their texts from here. All functions are pure; ``None`` is never a number and
becomes "unknown".
"""

from __future__ import annotations

import math

UNKNOWN = "unknown"


def size(count: int | float | None) -> str:
    """Bytes in binary units with three significant digits: ``9.42 GiB``, ``5 GiB``."""
    if count is None:
        return UNKNOWN
    if abs(count) < 1024:
        return f"{count:g} bytes"
    value = float(count)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        value /= 1024
        if abs(value) < 999.5 or unit == "TiB":
            break
    return f"{_short(value)} {unit}"


def gib(count: int | float | None) -> str:
    """Bytes as a bare number of GiB in three significant digits, for a table whose caption names the unit."""
    return UNKNOWN if count is None else _three_digits(count / 2**30)


def amount(number: int | float | None) -> str:
    """A count with three significant digits, ``6.74 billion``; below a million in full."""
    if number is None:
        return UNKNOWN
    for limit, name in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if abs(number) >= (limit if limit == 1e6 else 0.9995 * limit):
            return f"{_short(number / limit)} {name}"
    return exact(number)


def exact(number: int | float | None) -> str:
    """A count in full: ``6,738,415,616``."""
    return UNKNOWN if number is None else f"{number:,}"


def percent(ratio: float | None, digits: int | None = None) -> str:
    """A share in three significant digits, ``0.904%``; only all of it is 100%, only none of it is 0%.

    Args:
        ratio: 0 is none, 1 is all; more than all is possible.
        digits: decimals, where three significant digits are not wanted.
    """
    if ratio is None or not math.isfinite(ratio):
        return UNKNOWN if ratio is None else str(ratio)
    if digits is not None:
        return f"{ratio * 100:.{digits}f}%"
    if 0 < ratio < 0.0001:
        return "under 0.01%"
    if 0.9995 <= ratio < 1:
        return "99.9%" if ratio < 0.9999 else "over 99.99%"
    return f"{_short(ratio * 100)}%"


def seconds(duration: float | None) -> str:
    """A time: ``21 ms``, ``3.94 s``, ``2 min 5 s``."""
    if duration is None:
        return UNKNOWN
    if duration < 1:
        return f"{duration * 1000:.0f} ms"
    if duration < 60:
        return f"{_three_digits(duration)} s"
    minutes, rest = divmod(round(duration), 60)
    return f"{minutes} min {rest} s"


def number(value: float | None) -> str:
    """Any measured number in four significant digits."""
    if value is None:
        return UNKNOWN
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "infinite"
    return f"{value:.4g}"


def _short(value: float) -> str:
    """Three significant digits without an exponent and without zeros at the end: ``9.4``, ``40``, ``0.0123``."""
    text = _three_digits(value)
    return text.rstrip("0").rstrip(".") if "." in text else text


def _three_digits(value: float) -> str:
    """Three significant digits without an exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    places = 2 - math.floor(math.log10(abs(float(f"{value:.3g}"))))
    return f"{value:.{max(0, min(places, 4))}f}"
