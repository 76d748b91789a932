"""Where this project lives: the one place that names it, and the addresses that follow from it.

Both are unset until the project has a home. ``QLORA_DOCTOR_DOCS`` names an installation's own docs site.
"""

from __future__ import annotations

import os

REPOSITORY: str | None = None
"""``owner/name`` on GitHub; recipes say OWNER/qlora-doctor while it is None."""
DOCS: str | None = None
"""Address of the docs site; None where there is none, and findings then name ``qlora-doctor explain``."""
VARIABLE = "QLORA_DOCTOR_DOCS"


def docs_base(given: str | None = None) -> str | None:
    """The address of the docs site without its last slash: what is given, else the variable, else ``DOCS``.

    None where none is set, or what is set is no http or https address.
    """
    base = (given or os.environ.get(VARIABLE) or DOCS or "").strip().rstrip("/")
    return base if base.startswith(("https://", "http://")) and not set(base) & set(" \t\n\r\"'<>`") else None


def rule_url(rule: str, given: str | None = None) -> str | None:
    """The address of a bundled rule's page on the docs site; None where there is no site."""
    base = docs_base(given)
    return f"{base}/rules/{rule}/" if base is not None else None


def schema_url(file: str) -> str | None:
    """The address of a JSON schema on the docs site, by its file's name; None where there is no site."""
    base = docs_base()
    return f"{base}/schema/{file}" if base is not None else None
