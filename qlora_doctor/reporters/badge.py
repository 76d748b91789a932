"""A badge for a README: whether it fits, in a line."""

from .card import render_badge as render

__all__ = ["render"]
