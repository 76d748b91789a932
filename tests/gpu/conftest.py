"""Tests that need a CUDA device; they skip without one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything in this folder, and skip it where there is no device."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture
def cuda() -> Any:
    """The device, with nothing of an earlier test on it."""
    import gc

    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture(scope="session")
def small_llama(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A Llama of about 110 million parameters: large enough for peaks to be about tensors, not about pages."""
    made: list[Path] = []

    def get() -> Path:
        from tests.models import make_model

        if not made:
            made.append(
                make_model(
                    tmp_path_factory.mktemp("gpu") / "llama",
                    "llama",
                    hidden_size=1024,
                    intermediate_size=2816,
                    num_hidden_layers=8,
                    num_attention_heads=16,
                    num_key_value_heads=16,
                    max_position_embeddings=1024,
                )
            )
        return made[0]

    return get
