"""A full-size checkpoint of random weights in the Hugging Face layout: sizes are real, words are not."""

from __future__ import annotations

import sys
import time
from pathlib import Path


def main(model_id: str, folder: str) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from qlora_doctor.tables.architectures import find_architecture

    started = time.perf_counter()
    architecture = find_architecture(model_id)
    if architecture is None:
        raise SystemExit(f"{model_id} is not in the bundled table")
    config = AutoConfig.for_model(**architecture.config)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.to_empty(device=device)
    model.tie_weights()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        with torch.no_grad():
            if "inv_freq" in name:
                dim = 2 * tensor.numel()
                tensor.copy_(1.0 / (10000.0 ** (torch.arange(0, dim, 2, device=device).float() / dim)))
            elif "norm" in name:
                tensor.fill_(1.0)
            else:
                tensor.normal_(0, 0.02)
    print(f"{time.perf_counter() - started:7.1f} s  {model_id} is drawn on {device}", flush=True)
    model.save_pretrained(Path(folder), max_shard_size="5GB")
    print(f"{time.perf_counter() - started:7.1f} s  stored in {folder}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:3])
