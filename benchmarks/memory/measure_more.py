"""Measure the memory of QLoRA steps on this machine's GPU, for setups that ``h200.json`` does not have.

    python benchmarks/memory/measure_more.py [--seconds 140] [--only TEXT] [--workers 8] [--out DIR, else $OUT]
    python benchmarks/memory/measure_more.py --dry-run          # every setup, shrunk, on the CPU: does the script work?

Each setup runs in a fresh process: a model with random weights goes to the card in 4-bit, layer by layer, and the real
trainer makes three optimizer steps. ``measured.json`` (a truth file that ``compare.py`` takes) is written anew after
each setup, so that nothing is lost when time runs out; ``tape-N.json.gz`` beside it holds what the allocator was asked
for in the second step, and by whom. Models are cut down to a few layers: a step's memory is the same per layer.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

LLAMA: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 5,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072,
}  # fmt: skip
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama3.1-8b/5": LLAMA,
    "mistral-7b/5": {
        "model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 5,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000, "sliding_window": 4096,
        "max_position_embeddings": 32768,
    },
    "mistral-7b-v0.3/5": {
        "model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 5,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32768, "sliding_window": None,
        "max_position_embeddings": 32768,
    },
    "qwen3-4b/6": {
        "model_type": "qwen3", "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 6,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
        "max_position_embeddings": 40960, "tie_word_embeddings": True,
    },
    "gemma2-9b/4": {
        "model_type": "gemma2", "hidden_size": 3584, "intermediate_size": 14336, "num_hidden_layers": 4,
        "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 256, "vocab_size": 256000,
        "max_position_embeddings": 8192, "tie_word_embeddings": True,
    },
    "gemma3-1b/6": {
        "model_type": "gemma3_text", "hidden_size": 1152, "intermediate_size": 6912, "num_hidden_layers": 6,
        "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256, "vocab_size": 262144,
        "max_position_embeddings": 32768, "sliding_window": 512, "tie_word_embeddings": True,
    },
    "phi3-mini/6": {
        "model_type": "phi3", "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 6,
        "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32064, "pad_token_id": 32000,
        "max_position_embeddings": 4096, "sliding_window": 2047,
    },
    "pythia-6.9b/5": {
        "model_type": "gpt_neox", "hidden_size": 4096, "intermediate_size": 16384, "num_hidden_layers": 5,
        "num_attention_heads": 32, "vocab_size": 50432, "max_position_embeddings": 2048,
    },
    "mixtral/2": {
        "model_type": "mixtral", "hidden_size": 2048, "intermediate_size": 3584, "num_hidden_layers": 2,
        "num_attention_heads": 16, "num_key_value_heads": 4, "vocab_size": 32000, "num_local_experts": 8,
        "num_experts_per_tok": 2, "max_position_embeddings": 32768,
    },
    "qwen3-moe/2": {
        "model_type": "qwen3_moe", "hidden_size": 2048, "intermediate_size": 6144, "moe_intermediate_size": 768,
        "num_hidden_layers": 2, "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128,
        "vocab_size": 151936, "num_experts": 32, "num_experts_per_tok": 8, "max_position_embeddings": 40960,
    },
    "opt-6.7b/4": {
        "model_type": "opt", "hidden_size": 4096, "ffn_dim": 16384, "num_hidden_layers": 4,
        "num_attention_heads": 32, "vocab_size": 50272, "word_embed_proj_dim": 4096, "max_position_embeddings": 2048,
    },
    "bloom-7b/4": {
        "model_type": "bloom", "hidden_size": 4096, "n_layer": 4, "n_head": 32, "vocab_size": 250880,
    },
    "starcoder2-7b/4": {
        "model_type": "starcoder2", "hidden_size": 4608, "intermediate_size": 18432, "num_hidden_layers": 4,
        "num_attention_heads": 36, "num_key_value_heads": 4, "vocab_size": 49152, "max_position_embeddings": 16384,
    },
}  # fmt: skip
USUAL: dict[str, Any] = {
    "batch": 2, "sequence": 1024, "r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "use_dora": False,
    "target_modules": "all-linear", "modules_to_save": None, "double_quant": True, "gradient_checkpointing": True,
    "use_reentrant": False, "gradient_accumulation_steps": 1, "optim": "adamw_torch_fused",
    "attn_implementation": "sdpa", "prepare_for_kbit_training": True, "fp16": False, "trainer": "transformers",
    "packing": False, "from_checkpoint": False, "padded": False, "precision": "bf16", "expandable_segments": False,
    "cudnn_attention": True,
}  # fmt: skip
FEW = ["q_proj", "k_proj", "v_proj", "o_proj"]
CASES: list[dict[str, Any]] = [
    {"model": "qwen3-4b/6", "batch": 4},
    {"model": "llama3.1-8b/5", "fp16": True, "precision": "fp16"},
    {"model": "llama3.1-8b/5", "use_dora": True},
    {"model": "mistral-7b/5", "gradient_checkpointing": False},
    {"model": "llama3.1-8b/5", "trainer": "trl", "optim": "adamw_torch"},
    {"model": "mixtral/2", "target_modules": FEW},
    {"model": "llama3.1-8b/5", "expandable_segments": True, "sequence": 2048},
    {"model": "mistral-7b/5", "cudnn_attention": False, "gradient_checkpointing": False, "sequence": 2048},
    {"model": "mistral-7b/5", "cudnn_attention": False, "gradient_checkpointing": False, "padded": True},
    {"model": "phi3-mini/6", "gradient_checkpointing": False},
    {"model": "gemma3-1b/6", "sequence": 1536},
    {"model": "mistral-7b/5", "attn_implementation": "eager", "gradient_checkpointing": False},
    {"model": "llama3.1-8b/5", "optim": "adamw_8bit", "r": 64},
    {"model": "qwen3-4b/6", "modules_to_save": ["embed_tokens", "lm_head"], "batch": 1},
    {"model": "mistral-7b/5", "gradient_accumulation_steps": 2, "optim": "adamw_torch"},
    {"model": "mistral-7b/5", "batch": 4, "sequence": 4096, "gradient_checkpointing": False},
    {"model": "mistral-7b/5", "batch": 4, "padded": True},
    {"model": "qwen3-moe/2", "target_modules": FEW, "prepare_for_kbit_training": False},
    {"model": "llama3.1-8b/5", "prepare_for_kbit_training": False, "gradient_checkpointing": False},
    {"model": "gemma2-9b/4", "batch": 1, "attn_implementation": "eager"},
    {"model": "mistral-7b-v0.3/5", "batch": 1, "sequence": 32768},
    {"model": "mistral-7b/5", "batch": 1, "sequence": 8192, "target_modules": FEW},
    {"model": "pythia-6.9b/5", "gradient_checkpointing": False, "lora_dropout": 0.0},
    {"model": "opt-6.7b/4", "gradient_checkpointing": False},
    {"model": "bloom-7b/4", "batch": 1, "attn_implementation": "eager"},
    {"model": "starcoder2-7b/4", "gradient_checkpointing": False},
    {"model": "llama3.1-8b/5", "trainer": "trl", "optim": "adamw_torch", "packing": True, "sequence": 2048},
    {"model": "mistral-7b/5", "precision": "no"},
    {"model": "mistral-7b/5", "optim": "adafactor", "r": 64},
    {"model": "mistral-7b/5", "optim": "paged_adamw_32bit", "use_reentrant": True, "batch": 4},
    {"model": "mistral-7b/5", "fp16": True, "precision": "fp16", "gradient_checkpointing": False, "batch": 1},
    {"model": "qwen3-4b/6", "from_checkpoint": True},
]
"""What to measure, the most wanted first; :data:`USUAL` where a key is not named."""
METHOD = (
    "one fresh process a case, several at a time on one card; random weights, quantized layer by layer "
    "(from_checkpoint: saved and loaded with from_pretrained); NF4 blocksize 64; prepare_model_for_kbit_training where "
    "it says so; get_peft_model; transformers.Trainer or trl.SFTTrainer, 3 optimizer steps (6 with fp16, whose first "
    "are skipped while the loss scale falls); max_memory_allocated/reserved of each step, the peak counters reset at "
    "on_step_begin; padded: every sample has padding and a mask; cudnn_attention false: "
    "torch.backends.cuda.enable_cudnn_sdp(False)"
)
GIB_AT_ONCE = 68
"""GiB of the card that setups may need together, each counted by :func:`gib`."""


def gib(case: dict[str, Any]) -> float:
    """GiB that a setup needs at the most: a generous sum, for not running into one another."""
    shape = ARCHITECTURES[case["model"]]
    tokens = case["batch"] * case["sequence"] * (2 if case["precision"] == "no" else 1)
    logits = 20 * tokens * shape["vocab_size"] if case["trainer"] == "transformers" else 0
    layers = 0 if case["gradient_checkpointing"] else shape.get("num_hidden_layers", shape.get("n_layer", 0))
    return (17 if case["modules_to_save"] else 5) + (
        logits + tokens * shape["hidden_size"] * 100 * max(1, layers)
    ) / 2**30


# -- in a process of its own -------------------------------------------------------------------------------------------


def measure(case: dict[str, Any], device: str, tape: Path | None) -> dict[str, Any]:
    """Run one setup; on the CPU nothing is measured."""
    import torch
    import transformers
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    transformers.logging.set_verbosity_error()
    on_card = device == "cuda"
    if on_card and not case["cudnn_attention"]:
        torch.backends.cuda.enable_cudnn_sdp(False)
    seen: dict[str, Any] = {}
    model = from_disk(case, device) if case["from_checkpoint"] else layer_by_layer(case, device)
    if on_card and case["from_checkpoint"]:
        seen["load_peak_allocated"] = torch.cuda.max_memory_allocated()
    model.config.use_cache = False
    reentrant = {"use_reentrant": case["use_reentrant"]}
    if case["prepare_for_kbit_training"]:
        model = prepare_model_for_kbit_training(
            model,
            use_gradient_checkpointing=case["gradient_checkpointing"],
            gradient_checkpointing_kwargs=reentrant,
        )
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        **{
            name: case[name]
            for name in ("r", "lora_alpha", "lora_dropout", "use_dora", "target_modules", "modules_to_save")
        },
    )
    model = get_peft_model(model, lora)
    seen["trainable_parameters"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if on_card:
        import gc

        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        seen["allocated_after_load"] = torch.cuda.memory_allocated()
    steps: list[dict[str, int]] = []
    trainer = make_trainer(case, model, device, steps, tape)
    trainer.train()
    if on_card:
        seen["allocated_after_training"] = torch.cuda.memory_allocated()
        if case["trainer"] == "transformers":
            torch.cuda.reset_peak_memory_stats()
            trainer.args.prediction_loss_only = True
            trainer.evaluate(trainer.train_dataset[: 2 * case["batch"]])
            seen["evaluation_peak_allocated"] = torch.cuda.max_memory_allocated()
            seen["evaluation_batch"] = trainer.args.per_device_eval_batch_size
    return {**case, **seen, "steps": steps}


def layer_by_layer(case: dict[str, Any], device: str) -> Any:
    """The base from its architecture, its weights random, each quantized as soon as it is there."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.integrations import replace_with_bnb_linear
    from transformers.quantizers.auto import AutoHfQuantizer

    config = AutoConfig.for_model(**case["architecture"])
    quantization = quantization_of(case)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16, attn_implementation=case["attn_implementation"]
        )
    quantizer = AutoHfQuantizer.from_config(quantization, pre_quantized=False)
    kept = quantizer.get_modules_to_not_convert(model, None, getattr(model, "_keep_in_fp32_modules", None))
    model = replace_with_bnb_linear(model, modules_to_not_convert=kept, quantization_config=quantization)
    for module in model.modules():
        fill(module, case["double_quant"], device)
    model.tie_weights()
    model.is_loaded_in_4bit = True
    model.hf_quantizer = quantizer
    if device == "cuda":
        model.hf_device_map = {"": 0}
    return model


def fill(module: Any, double_quant: bool, device: str) -> None:
    """Random values for a module's own parameters and buffers; a function, so that no name keeps a weight alive."""
    import bitsandbytes as bnb
    import torch

    for name, parameter in list(module.named_parameters(recurse=False)):
        if isinstance(parameter, bnb.nn.Params4bit):
            shape = (module.out_features, module.in_features)
            weight = torch.empty(shape, dtype=torch.bfloat16, device=device).normal_(0, 0.02)
            packed, state = bnb.functional.quantize_4bit(
                weight,
                blocksize=parameter.blocksize,
                compress_statistics=double_quant,
                quant_type="nf4",
                quant_storage=parameter.quant_storage,
            )
            del weight
            new = bnb.nn.Params4bit(
                packed,
                requires_grad=False,
                quant_state=state,
                blocksize=parameter.blocksize,
                compress_statistics=double_quant,
                quant_type="nf4",
                bnb_quantized=True,
            )
            new.module, module.quant_state = module, state
            module._parameters[name] = new
            continue
        value = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
        if value.dim() == 1:
            value.fill_(1 if name == "weight" else 0)
        else:
            value.normal_(0, 0.02)
        module._parameters[name] = torch.nn.Parameter(value, requires_grad=False)
    for name, buffer in list(module.named_buffers(recurse=False)):
        if buffer.device.type == "meta":
            module._buffers[name] = torch.ones(buffer.shape, dtype=buffer.dtype, device=device)


def quantization_of(case: dict[str, Any]) -> Any:
    """The 4-bit setting of a case."""
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=case["double_quant"],
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def from_disk(case: dict[str, Any], device: str) -> Any:
    """The base through a checkpoint and from_pretrained, as people load it."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = tempfile.mkdtemp()
    config = AutoConfig.for_model(**case["architecture"])
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(
        folder,
        quantization_config=quantization_of(case),
        device_map={"": 0 if device == "cuda" else "cpu"},
        dtype=torch.bfloat16,
        attn_implementation=case["attn_implementation"],
    )


def make_trainer(case: dict[str, Any], model: Any, device: str, steps: list[dict[str, int]], tape: Path | None) -> Any:
    """The case's trainer, which notes each step's peaks in ``steps``."""
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Peaks(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            if device == "cuda":
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
                if len(steps) == 1 and tape is not None:
                    torch.cuda.memory._record_memory_history(
                        "all", context="alloc", stacks="python", max_entries=300_000
                    )

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            if device != "cuda":
                steps.append({"peak_allocated": 0, "peak_reserved": 0})
                return
            torch.cuda.synchronize()
            allocated, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
            if len(steps) == 1 and tape is not None:
                write_tape(tape)
            steps.append({"peak_allocated": allocated, "peak_reserved": reserved})

    fp16 = case["precision"] == "fp16" and device == "cuda"
    common: dict[str, Any] = {
        "output_dir": tempfile.mkdtemp(),
        "per_device_train_batch_size": case["batch"],
        "per_device_eval_batch_size": case["batch"],
        "gradient_accumulation_steps": case["gradient_accumulation_steps"],
        "max_steps": 6 if case["precision"] == "fp16" else 3,
        "bf16": case["precision"] == "bf16",
        "fp16": fp16,
        "gradient_checkpointing": case["gradient_checkpointing"],
        "gradient_checkpointing_kwargs": {"use_reentrant": case["use_reentrant"]},
        "optim": case["optim"],
        "report_to": [],
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "learning_rate": 1e-4,
        "dataloader_pin_memory": False,
        "use_cpu": device == "cpu",
    }
    torch.manual_seed(0)
    ids = torch.randint(5, case["architecture"]["vocab_size"], (64, case["sequence"]))
    if case["trainer"] == "trl":
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer

        arguments = SFTConfig(**common, max_length=case["sequence"], packing=case["packing"], dataset_num_proc=1)
        rows = Dataset.from_dict({"input_ids": ids.tolist()})
        return SFTTrainer(
            model=model, args=arguments, train_dataset=rows, processing_class=a_tokenizer(), callbacks=[Peaks()]
        )
    samples = []
    for number, row in enumerate(ids):
        mask, labels = torch.ones_like(row), row.clone()
        if case["padded"]:
            end = case["sequence"] - case["sequence"] // 8 * (1 + number % 3)
            mask[end:], labels[end:] = 0, -100
        samples.append({"input_ids": row, "labels": labels, "attention_mask": mask})
    return Trainer(model=model, args=TrainingArguments(**common), train_dataset=samples, callbacks=[Peaks()])


def a_tokenizer() -> Any:
    """A tokenizer that trl can be given; the samples are ids already."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {word: number for number, word in enumerate(("<pad>", "<s>", "</s>", "<unk>", "word"))}
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def write_tape(path: Path) -> None:
    """What the allocator was asked for since recording began: [bytes, place] per allocation, then ``free`` events.

    ``events``: ``[+n, size, source]`` where block n appears, ``[-n]`` where it goes; ``sources``: the innermost frames.
    """
    import torch

    snapshot = torch.cuda.memory._snapshot()
    torch.cuda.memory._record_memory_history(None)
    sources: dict[str, int] = {}
    alive: dict[int, int] = {}
    events: list[list[int]] = []
    count = 0
    for entry in snapshot["device_traces"][0]:
        if entry["action"] == "alloc":
            count += 1
            alive[entry["addr"]] = count
            frames = [f"{Path(f['filename']).name}:{f['line']}:{f['name']}" for f in entry.get("frames", [])]
            theirs = [
                frame
                for frame, f in zip(frames, entry.get("frames", []), strict=True)
                if "/torch/" not in f["filename"]
            ]
            source = " < ".join([*frames[:1], *theirs[:3]])
            events.append([count, entry["size"], sources.setdefault(source, len(sources))])
        elif entry["action"] == "free_completed" and entry["addr"] in alive:
            events.append([-alive.pop(entry["addr"])])
    with gzip.open(path, "wt", encoding="utf-8") as file:
        json.dump({"sources": list(sources), "events": events}, file, separators=(",", ":"))


def context() -> dict[str, Any]:
    """What CUDA itself takes of the card, and the card."""
    import torch

    a = torch.ones(64, 64, device="cuda", dtype=torch.bfloat16)
    (a @ a).sum().item()
    free, total = torch.cuda.mem_get_info()
    properties = torch.cuda.get_device_properties(0)
    return {
        "device": f"{properties.name} (sm{properties.major}{properties.minor})",
        "total_memory": properties.total_memory,
        "used_beside_allocator": total - free - torch.cuda.memory_reserved(),
    }


# -- in the parent -----------------------------------------------------------------------------------------------------


def shrunk(case: dict[str, Any]) -> dict[str, Any]:
    """The same kind of model, small enough for the CPU."""
    small = {
        "hidden_size": 64, "intermediate_size": 128, "ffn_dim": 128, "moe_intermediate_size": 64, "head_dim": 16,
        "num_attention_heads": 4, "n_head": 4, "num_hidden_layers": 2, "n_layer": 2, "vocab_size": 300,
        "num_experts": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "word_embed_proj_dim": 64,
        "pad_token_id": 0,
    }  # fmt: skip
    shape = case["architecture"]
    made = {name: small.get(name, value) for name, value in shape.items()}
    if "num_key_value_heads" in made:
        made["num_key_value_heads"] = min(2, shape["num_key_value_heads"])
    optim = "adamw_torch" if "8bit" in case["optim"] or "paged" in case["optim"] else case["optim"]
    return {**case, "architecture": made, "sequence": min(case["sequence"], 32), "r": 4, "optim": optim}


def run(cases: list[dict[str, Any]], options: argparse.Namespace) -> tuple[list[Any], list[Any]]:
    """Each case in its own process, several at a time; what was measured, and what failed."""
    began, device = time.monotonic(), "cpu" if options.dry_run else "cuda"
    waiting, running = list(cases), list[tuple[subprocess.Popen[str], dict[str, Any], float]]()
    done: list[Any] = []
    failed: list[Any] = []
    machine = versions()
    probe = None if options.dry_run else start(["--context"], {})
    while waiting or running:
        left = options.seconds - (time.monotonic() - began)
        if left < 0:
            break
        taken = sum(gib(case) for _, case, _ in running)
        fits = next((case for case in waiting if not running or taken + gib(case) <= GIB_AT_ONCE), None)
        if fits is not None and len(running) < options.workers and left > 15:
            waiting.remove(fits)
            arguments = ["--case", json.dumps(fits), "--device", device]
            if not options.dry_run:
                arguments += ["--tape", str(options.out / f"tape-{fits['number']:02}.json.gz")]
            env = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"} if fits["expandable_segments"] else {}
            running.append((start(arguments, env), fits, time.monotonic()))
            continue
        if probe is not None and probe.poll() is not None:
            machine |= answer(probe)
            probe = None
        ended = [entry for entry in running if entry[0].poll() is not None]
        for entry in ended:
            running.remove(entry)
            process, case, since = entry
            result = answer(process) | {"seconds": round(time.monotonic() - since, 1)}
            (failed if "error" in result else done).append(result if "error" not in result else result | case)
            write(options.out, machine, done, failed)
            print(f"{time.monotonic() - began:5.0f} s  {label(case)}: {result.get('error') or 'ok'}", flush=True)
        if not waiting and not running:
            break
        time.sleep(0.05)
    for process, case, _ in running:
        process.kill()
        failed.append({**case, "error": "out of time"})
    failed += [{**case, "error": "not begun"} for case in waiting]
    if probe is not None:
        machine |= answer(probe)
    write(options.out, machine, done, failed)
    return done, failed


def start(arguments: list[str], env: dict[str, str]) -> subprocess.Popen[str]:
    """This script again, for one thing; its last line on stdout is the answer."""
    return subprocess.Popen(
        [sys.executable, __file__, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2", "TOKENIZERS_PARALLELISM": "false", **env},
    )


def answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What a process found, or its error."""
    out, _ = process.communicate()
    try:
        found: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    except (IndexError, ValueError):
        return {"error": f"ended with {process.returncode} and no answer: {out[-300:]}"}
    return found


def label(case: dict[str, Any]) -> str:
    """A case by what is unusual about it."""
    return " ".join([case["model"], *(f"{k}={case[k]}" for k, v in USUAL.items() if case[k] != v)])


def versions() -> dict[str, Any]:
    """The packages here."""
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "method": METHOD}
    for name in ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "trl"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write(folder: Path, machine: dict[str, Any], done: list[Any], failed: list[Any]) -> None:
    """The truth file, whole at every moment."""
    cases = [{k: v for k, v in case.items() if k != "architecture"} for case in sorted(done, key=lambda c: c["number"])]
    document = {
        "measured_with": machine,
        "architectures": {case["model"]: case["architecture"] for case in done},
        "cases": cases,
        "not_measured": [{k: v for k, v in case.items() if k != "architecture"} for case in failed],
    }
    partial = folder / "measured.json.part"
    partial.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    partial.replace(folder / "measured.json")


def main() -> int:
    """Measure, or with ``--dry-run`` see that every setup can be built and trained; 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=140, help="stop after this time")
    parser.add_argument("--workers", type=int, default=8, help="setups at a time")
    parser.add_argument("--only", default="", help="only setups whose description holds this text")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".")), help="folder for the results")
    parser.add_argument("--dry-run", action="store_true", help="every setup, shrunk, on the CPU")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--device", default="cuda", help=argparse.SUPPRESS)
    parser.add_argument("--tape", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--context", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case or options.context:
        try:
            found = context() if options.context else measure(json.loads(options.case), options.device, options.tape)
        except Exception as error:
            import traceback

            where = traceback.format_exc().strip().splitlines()[-8:]
            found = {"error": f"{type(error).__name__}: {str(error)[:400]}", "traceback": where}
        print("\n" + json.dumps(found), flush=True)
        os._exit(0)  # nothing to wait for: no time is spent on taking CUDA down
    cases = [
        USUAL | case | {"number": number, "architecture": ARCHITECTURES[case["model"]]}
        for number, case in enumerate(CASES)
    ]
    cases = [case for case in cases if options.only in label(case)]
    options.out.mkdir(parents=True, exist_ok=True)
    done, failed = run([shrunk(case) for case in cases] if options.dry_run else cases, options)
    print(f"{len(done)} setups, {len(failed)} without a result")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
