"""Where the architecture of a hub id is taken from, and when the hub is asked for it."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("transformers")

from qlora_doctor.pipeline import architecture
from qlora_doctor.setup.setup import Model, Setup


@pytest.mark.parametrize(
    ("revision", "options", "asks"),
    [
        (None, {}, False),
        (None, {"offline": True, "with_files": True}, False),
        (None, {"with_files": True}, True),
        ("v1", {}, True),
    ],
)
def test_the_hub_is_asked_only_for_what_the_table_lacks(
    monkeypatch: pytest.MonkeyPatch, revision: str | None, options: dict[str, Any], asks: bool
) -> None:
    """A client without a network tries for half a minute; a bundled architecture needs none."""
    asked: list[str] = []
    monkeypatch.setattr(architecture, "_cached_config", lambda name, revision: None)
    monkeypatch.setattr(architecture, "_config_from_hub", lambda name, setup: asked.append(name))
    setup = Setup(model=Model(name_or_path="meta-llama/Llama-2-7b-hf", revision=revision))
    found = architecture.load_config(setup, **({"offline": False} | options))
    assert found.source == "table" and bool(asked) is asks
