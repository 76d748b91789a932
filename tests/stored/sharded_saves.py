"""Two ranks on gloo that train one adapter under FSDP 2 and save it in the ways that scripts do."""

from __future__ import annotations

import os
import socket
from pathlib import Path

WAYS = ("whole", "own_part", "checkpoint")


def spawn(base: Path, place: Path) -> None:
    """Train on two processes, and fill ``place/whole``, ``place/own_part`` and ``place/checkpoint``."""
    import torch.multiprocessing as processes

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes.start_processes(_rank, args=(port, str(base), str(place)), nprocs=2, start_method="spawn")


def _rank(rank: int, port: int, base: str, place: str) -> None:
    import datetime as dt
    import warnings

    import torch
    import torch.distributed as dist

    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": "2"}
    dist.init_process_group("gloo", rank=rank, world_size=2, timeout=dt.timedelta(seconds=120))
    try:
        _save(rank, Path(base), Path(place))
        dist.barrier()
    finally:
        dist.destroy_process_group()


def _save(rank: int, base: Path, place: Path) -> None:
    import torch.distributed.checkpoint as stored
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    from tests.stored.planting import adapt, load_base, trained

    model = adapt(load_base(base))
    mesh = init_device_mesh("cpu", (2,))
    for layer in model.base_model.model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    trained(model)
    whole = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, ignore_frozen_params=True))
    if rank == 0:
        model.save_pretrained(place / "whole", state_dict=whole)
    parts = get_model_state_dict(model, options=StateDictOptions(ignore_frozen_params=True))
    if rank == 0:
        own = {name: part.to_local().detach().clone() for name, part in parts.items()}
        model.save_pretrained(place / "own_part", state_dict=own)
        model.peft_config["default"].save_pretrained(place / "checkpoint")
    stored.save({"model": parts}, checkpoint_id=place / "checkpoint" / "pytorch_model_fsdp_0")
