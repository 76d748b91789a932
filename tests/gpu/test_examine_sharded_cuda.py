"""``examine`` on two GPUs, the base sharded by FSDP 2 over NCCL: as on two ranks of the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("bitsandbytes")

from tests.probes.sharded_ranks import spawn  # noqa: E402
from tests.probes.test_live_sharded import check_ranks  # noqa: E402


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_gpus_of_fsdp2(small_llama: Callable[..., Path], tmp_path: Path) -> None:
    check_ranks(spawn(small_llama(), tmp_path, "cuda"))
