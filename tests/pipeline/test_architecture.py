"""Where the architecture of a hub id is taken from, and when the hub is asked for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")

from qlora_doctor.core.errors import StageError
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


def test_the_named_revision_is_what_is_loaded(monkeypatch: pytest.MonkeyPatch, tiny_llama: Path) -> None:
    """Also where config.json lies in the hub's cache: another revision has other weights and another tokenizer."""
    from transformers import AutoTokenizer

    from qlora_doctor.pipeline import base, batches
    from qlora_doctor.pipeline.classes import Loader

    given: list[dict[str, Any]] = []

    class Recorded:
        _model_mapping = None

        @staticmethod
        def from_pretrained(name: str, **options: Any) -> Any:
            given.append(options)
            raise OSError("no weights here")

    monkeypatch.setattr(architecture, "_cached_config", lambda name, revision: tiny_llama / "config.json")
    monkeypatch.setattr(base, "loader_of", lambda setup, found: Loader(Recorded, "causal-lm"))
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", Recorded.from_pretrained)
    setup = Setup(model=Model(name_or_path="someone/model", revision="v2"))
    found = architecture.load_config(setup)
    for load in (
        lambda: base.build_base(setup, "cpu", architecture=found),
        lambda: batches.load_tokenizer(setup, found),
    ):
        with pytest.raises(StageError):
            load()
    assert [options["revision"] for options in given] == ["v2", "v2"]
