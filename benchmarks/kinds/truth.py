"""What a plain QLoRA script finds on small models of every architecture that transformers registers.

Makes a random checkpoint of each, loads it in 4-bit, prepares it, attaches LoRA to all linear layers and takes two
steps on text. One JSON line for each goes to the output; a child process for each, so that none stops the others.
Knows nothing of qlora_doctor. Usage: ``python truth.py FOLDER OUT.jsonl [KIND[:TYPE] …]``, KIND one of causal, image,
seq2seq, classify.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ["HF_HUB_OFFLINE"] = "1"

import bitsandbytes
import torch
import transformers
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from peft.tuners.lora import LoraLayer
from shrink import tiny_config
from transformers import BitsAndBytesConfig
from transformers.models.auto import modeling_auto

AUTO = {
    "causal": ("AutoModelForCausalLM", "CAUSAL_LM"),
    "image": ("AutoModelForImageTextToText", "CAUSAL_LM"),
    "seq2seq": ("AutoModelForSeq2SeqLM", "SEQ_2_SEQ_LM"),
    "classify": ("AutoModelForSequenceClassification", "SEQ_CLS"),
}
TYPES = {
    "causal": list(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
    "image": list(modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES),
    "seq2seq": list(modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES),
    "classify": list(modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES),
}
LARGEST, SECONDS = 60_000_000, 180
MANY = 12
"""Steps of a model that leaves layers out at random, until every layer had its turn."""


def leaves_layers_out(config: dict[str, Any]) -> bool:
    """Whether a model has stochastic depth (``encoder_layerdrop``), by its config or one within."""
    return any(
        leaves_layers_out(value) if isinstance(value, dict) else str(name).endswith("layerdrop") and bool(value)
        for name, value in config.items()
    )


def make(folder: Path, kind: str, model_type: str) -> None:
    """Write a random checkpoint."""
    config = tiny_config(model_type)
    if kind == "classify":
        config.num_labels = 2
        if getattr(config, "pad_token_id", None) is None:
            config.pad_token_id = 3
    torch.manual_seed(0)
    model = getattr(transformers, AUTO[kind][0]).from_config(config, dtype=torch.bfloat16)
    count = sum(parameter.numel() for parameter in model.parameters())
    if count > LARGEST:
        raise RuntimeError(f"too large: {count:,}")
    model.save_pretrained(folder)


def train(folder: Path, kind: str, found: dict[str, Any], checkpointing: bool) -> None:
    """Two steps; what is known so far is in ``found`` when it raises."""
    auto, task = AUTO[kind]
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    found["stage"] = "load"
    model = getattr(transformers, auto).from_pretrained(
        folder,
        quantization_config=quantization,
        device_map={"": "cpu"},
        **({"num_labels": 2} if kind == "classify" else {}),
    )
    found["class"] = type(model).__name__
    found["four_bit"] = sum(isinstance(module, bitsandbytes.nn.Linear4bit) for module in model.modules())
    found["stage"] = "prepare"
    model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=checkpointing)
    found["stage"] = "attach"
    model = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear", task_type=task))
    found["adapted"] = sum(isinstance(module, LoraLayer) for module in model.modules())
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    found["trainable_tensors"] = len(trainable)
    model.train()
    optimizer = torch.optim.AdamW(trainable.values(), lr=2e-4)
    ids = torch.randint(5, 400, (1, 64), generator=torch.Generator().manual_seed(1))
    if kind == "classify" and getattr(model.config, "is_encoder_decoder", False):
        ids[:, -1] = model.config.eos_token_id  # what such a head reads is the state of the end token
    labels = torch.tensor([1]) if kind == "classify" else ids
    found["stage"] = "step"
    reached: set[str] = set()
    for _ in range(MANY if leaves_layers_out(model.config.to_dict()) else 2):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss
        loss.mean().backward()
        reached |= {name for name, parameter in trainable.items() if parameter.grad is not None}
        found["without_gradient"] = len(trainable) - len(reached)
        found["zero_gradient"] = sum(
            parameter.grad is not None and not parameter.grad.any() for parameter in trainable.values()
        )
        optimizer.step()
        optimizer.zero_grad()
    found["stage"] = "done"


def one(folder: Path, kind: str, model_type: str) -> dict[str, Any]:
    """The record of one architecture; without checkpointing where it fails with it."""
    record: dict[str, Any] = {"kind": kind, "type": model_type, "folder": folder.name}
    try:
        make(folder, kind, model_type)
    except Exception as error:
        return record | {"not_made": f"{type(error).__name__}: {str(error)[:200]}"}
    for checkpointing in (True, False):
        found: dict[str, Any] = {"error": None}
        try:
            train(folder, kind, found, checkpointing)
        except Exception as error:
            at = traceback.extract_tb(error.__traceback__)[-1]
            found["error"] = f"{type(error).__name__}: {str(error)[:200]} @ {Path(at.filename).name}:{at.lineno}"
        record["checkpointing" if checkpointing else "plain"] = found
        if found["error"] is None or found["stage"] == "load":
            break
    return record


def main() -> None:
    """All architectures that the command line names, or all there are."""
    root, out, *asked = Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]
    root.mkdir(parents=True, exist_ok=True)
    for wanted in asked or TYPES:
        kind, _, named = wanted.partition(":")
        for model_type in [named] if named else TYPES[kind]:
            _in_child(root / f"{kind}-{model_type}", kind, model_type, out)


def _in_child(folder: Path, kind: str, model_type: str, out: Path) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(SECONDS)
        record = one(folder, kind, model_type)
        os.write(writing, json.dumps(record).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    record = json.loads(text) if text else {"kind": kind, "type": model_type, "not_made": "it did not end in time"}
    with out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    print(kind, model_type, record.get("not_made") or (record.get("checkpointing") or {}).get("error") or "trained")


if __name__ == "__main__":
    main()
