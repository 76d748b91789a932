"""Two ranks that shard one QLoRA model with FSDP 2 and examine it; on gloo or on NCCL. Each rank writes what it saw."""

from __future__ import annotations

import json
import os
import socket
import warnings
from pathlib import Path
from typing import Any

import torch


def spawn(model: Path, out: Path, device: str, world: int = 2) -> list[dict[str, Any]]:
    """Run the ranks; what each of them saw, in their order.

    Args:
        model: folder of a small model.
        out: a folder to write to.
        device: ``cpu`` or ``cuda``.
    """
    import torch.multiprocessing as processes

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes.start_processes(
        _rank, args=(world, port, str(model), str(out), device), nprocs=world, start_method="spawn"
    )
    return [json.loads((out / f"rank{rank}.json").read_text()) for rank in range(world)]


def _rank(rank: int, world: int, port: int, model: str, out: str, kind: str) -> None:
    import datetime as dt

    import torch.distributed as dist

    warnings.filterwarnings("ignore")
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": str(world)}
    if kind == "cuda":
        torch.cuda.set_device(rank)
    dist.init_process_group(
        "nccl" if kind == "cuda" else "gloo", rank=rank, world_size=world, timeout=dt.timedelta(seconds=120)
    )
    device = torch.device(kind, rank) if kind == "cuda" else torch.device(kind)
    seen = _looks(rank, world, Path(model), device)
    (Path(out) / f"rank{rank}.json").write_text(json.dumps(seen))
    dist.barrier()
    dist.destroy_process_group()


def _looks(rank: int, world: int, folder: Path, device: torch.device) -> dict[str, Any]:
    import qlora_doctor

    model, batch = _model(folder, device), _batch(rank, device)
    model.train()
    whole = qlora_doctor.examine(model)
    _shard(model, world, device)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    losses = [_trained(model, optimizer, batch)]
    before = [p._local_tensor.clone() for p in model.parameters()]
    both = qlora_doctor.examine(model, optimizer, batch)
    if rank == 0:  # alone: whatever talked to the other rank would wait for ever
        qlora_doctor.examine(model, optimizer, batch)
    after = [p._local_tensor for p in model.parameters()]
    untouched = all(torch.equal(_bytes(a), _bytes(b)) for a, b in zip(before, after, strict=True))
    losses.append(_trained(model, optimizer, batch))
    output = model(**batch)
    open_graph = qlora_doctor.examine(model, optimizer, batch)  # the outermost parameters are gathered at this moment
    output.loss.backward()
    optimizer.step()
    norm = model.get_base_model().model.norm.weight
    if rank == 1:
        norm._local_tensor[0] = float("nan")
    return {
        "whole": _told(whole),
        "sharded": _told(both),
        "open graph": _told(open_graph),
        "with a NaN in the shard of rank 1": _told(qlora_doctor.examine(model)),
        "untouched": untouched,
        "losses": losses,
    }


def _model(folder: Path, device: torch.device) -> Any:
    """As FSDP-QLoRA has it: 4-bit bytes stored as bfloat16, the adapter in bfloat16 too."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        bnb_4bit_quant_storage=torch.bfloat16,
    )
    base = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=config, dtype=torch.bfloat16, device_map={"": device}
    )
    torch.manual_seed(0)
    lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(base, lora)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.bfloat16)
    return model


def _shard(model: Any, world: int, device: torch.device) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (world,))
    for layer in model.get_base_model().model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)


def _batch(rank: int, device: torch.device) -> dict[str, torch.Tensor]:
    ids = torch.randint(0, 512, (1, 16), generator=torch.Generator().manual_seed(rank)).to(device)
    return {"input_ids": ids, "labels": ids.clone()}


def _trained(model: Any, optimizer: Any, batch: dict[str, torch.Tensor]) -> float:
    loss = model(**batch).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().view(torch.uint8)


def _told(report: Any) -> dict[str, Any]:
    """What of a report has to hold on every rank, in JSON."""
    facts = report.facts
    return {
        "findings": [(finding.rule, finding.severity) for finding in report.findings],
        "stages": {record.name: [record.status, record.reason] for record in report.stages},
        "model": facts.model.model_dump(include={"model_class", "total_parameters", "linear_parameters"}),
        "adapter": facts.adapter.model_dump(include={"trainable_parameters", "total_parameters", "matched_modules"}),
        "quantization": facts.quantization.model_dump(
            include={"coverage_ratio", "quantized_parameters", "quantized_modules", "bits_per_parameter", "base_bytes"}
            | {"bytes_by_dtype", "quant_type", "double_quant", "storage_dtype"}
        ),
        "load": facts.load.model_dump(include={"missing_quant_state", "nonfinite_tensors", "compute_dtypes"}),
        "bytes": sum(facts.load.devices.values()),
    }
