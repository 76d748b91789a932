"""Fixtures for all tests: tiny models, made once per run."""

from __future__ import annotations

import functools
import inspect
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from hypothesis import settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM_FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
NO_CHROMIUM = "These tests look at a page in Chromium, which is not installed: apt-get install -y chromium"

# The same examples at every run of CI, so that a change is judged by what it changed; new ones wherever people work.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")
# No test asks the hub, and small tensors are slower on many threads.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# What one test found out is not for the next; tests of the cache name a folder.
os.environ["QLORA_DOCTOR_CACHE"] = "off"
if "mix_stderr" in inspect.signature(CliRunner).parameters:  # click 8.1 has to be told what 8.2 does always
    CliRunner.__init__ = functools.partialmethod(CliRunner.__init__, mix_stderr=False)  # type: ignore[method-assign]


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``model_folder("llama")``: the folder of a tiny model with weights and tokenizer, made on first use.

    The folder is shared by all tests of a run: copy it before changing it.
    """
    root = tmp_path_factory.mktemp("models")
    made: dict[tuple[object, ...], Path] = {}

    def get(name: str, **changes: object) -> Path:
        from tests.models import make_model

        key = (name, *sorted(changes.items()))
        if key not in made:
            made[key] = make_model(root / f"{name}-{len(made)}", name, **changes)  # type: ignore[arg-type]
        return made[key]

    return get


@pytest.fixture(scope="session")
def tiny_llama(model_folder: Callable[..., Path]) -> Path:
    """A Llama with two layers."""
    return model_folder("llama")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium of this machine; CI must have one, elsewhere the tests are skipped without it.

    One for all tests of a process: playwright refuses a second while the first is open.
    """
    path = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if path is None and os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(NO_CHROMIUM, pytrace=False)
    if path is None:
        pytest.skip(NO_CHROMIUM)
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=list(CHROMIUM_FLAGS))
        yield chromium
        chromium.close()
