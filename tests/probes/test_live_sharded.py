"""``examine`` on a model that FSDP 2 has sharded over two ranks: what stands still is seen, and nothing is harmed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("bitsandbytes")
pytest.importorskip("torch.distributed.fsdp", reason="FSDP 2 needs torch's distributed package")

from torch import nn  # noqa: E402

import qlora_doctor  # noqa: E402
from tests.probes.sharded_ranks import spawn  # noqa: E402

needs_fsdp2 = pytest.mark.skipif(
    not hasattr(torch.distributed.fsdp, "fully_shard") or not torch.distributed.is_gloo_available(),
    reason="fully_shard came with torch 2.6",
)


def check_ranks(ranks: list[dict[str, Any]]) -> None:
    """What holds on every rank, on whatever devices."""
    for seen in ranks:
        whole, sharded = seen["whole"], seen["sharded"]
        for subject in ("model", "adapter", "quantization"):
            assert sharded[subject] == whole[subject], subject
        assert sharded["load"] == whole["load"] and sharded["findings"] == whole["findings"] == []
        assert whole["bytes"] / 3 < sharded["bytes"] < whole["bytes"], "of this rank alone"
        for look in (sharded, seen["open graph"]):
            assert look["stages"]["structure"] == look["stages"]["load"] == ["done", None]
            status, reason = look["stages"]["step"]
            assert status == "skipped" and "FSDP 2 has sharded the parameters" in reason
            assert look["findings"] == []
        assert seen["untouched"] and seen["losses"][1] < seen["losses"][0]
    found = [seen["with a NaN in the shard of rank 1"] for seen in ranks]
    assert [rank["load"]["nonfinite_tensors"] for rank in found] == [[], ["model.norm.weight"]]
    assert [rank["findings"] for rank in found] == [[], [["QD230", "error"]]]


@needs_fsdp2
def test_two_ranks_of_fsdp2(tiny_llama: Path, tmp_path: Path) -> None:
    check_ranks(spawn(tiny_llama, tmp_path, "cpu"))


class FullyShardedDataParallel(nn.Module):
    """Stands for torch's: what counts is that its parameters are flat ones."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._fsdp_wrapped_module = module

    def forward(self, **inputs: Any) -> Any:
        pytest.fail("a forward of a sharded model ran")


@pytest.mark.parametrize("kind", ["FSDP (1)", "ZeRO-3"])
def test_flat_parameters_are_declined(kind: str) -> None:
    model: nn.Module = nn.Sequential(nn.Linear(8, 8))
    if kind == "ZeRO-3":
        for number, parameter in enumerate(model.parameters()):
            parameter.ds_id = number
    else:
        model = FullyShardedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters())
    report = qlora_doctor.examine(model, optimizer, {"input_ids": torch.ones(1, 8, dtype=torch.long)})
    assert report.findings == [] and report.facts.load is None and report.facts.quantization is None
    for record in report.stages[1:]:
        assert record.status == "skipped" and kind in record.reason and "before it is sharded" in record.remedy
