"""Hold predictions of runs beyond plain fine-tuning on one card against what was measured of them.

    python benchmarks/memory/compare_kinds.py KINDS.json

The file is one that measures each kind of run (DPO, reward models, evaluation, …) with the architectures of its models:
``architectures``, and ``cases`` of ``{case: {model, method, bs, seq, …}, peaks: [[allocated, reserved, seconds], …],
evals: [[allocated, reserved], …], ranks}``. Each case is written as the config that a user would write, in a folder
with the model's config.json, and predicted by the stage ``memory``: once with the weights brought to the card as they
were where it was measured, and once as ``qlora-doctor check`` takes it, by from_pretrained. Most runs were measured
with weights that came layer by layer, which leaves other free blocks behind than from_pretrained does; what is
allocated is the same, what is reserved is not.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

ALLOCATED, RESERVED, EVALUATION = 4.0, 10.0, 5.0
"""Per cent: a kind of run that is predicted stays within these."""
WIDER = {"grpo": 8.0, "rloo": 8.0, "compile": 8.0}
"""Kinds for which allocated may be further off."""
GIB = 2**30
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
"""What an adapter is put on where a case of axolotl or Unsloth says no more."""
TRL = ("dpo", "kto", "reward", "orpo", "cpo", "simpo", "grpo", "rloo")
"""Methods that trl's own trainers train by."""


@dataclass
class Row:
    """One case; bytes, None where there is no such figure."""

    name: str
    wider: float
    reason: str | None = None
    step: tuple[int, int] | None = None
    evaluation: tuple[int, int] | None = None
    measured: tuple[int, int] = (0, 0)
    measured_evaluation: tuple[int, int] | None = None
    checked: int | None = None
    """What is reserved where the model comes by from_pretrained, as ``check`` tells it."""
    seconds: float = 0.0

    def errors(self) -> dict[str, float]:
        """Per cent by what is compared; positive where the prediction is too high."""
        found = {}
        if self.step is not None:
            found["allocated"] = _off(self.step[0], self.measured[0])
            reserved = max(self.step[1], self.evaluation[1] if self.evaluation else 0)
            found["reserved"] = _off(reserved, self.measured[1])
        if self.evaluation is not None and self.measured_evaluation is not None:
            found["evaluation"] = _off(self.evaluation[0], self.measured_evaluation[0])
        if self.checked is not None:
            found["checked"] = _off(self.checked, self.measured[1])
        return found

    def within(self) -> bool:
        """Whether every error is within its bar."""
        bars = {"allocated": max(ALLOCATED, self.wider), "reserved": RESERVED, "evaluation": EVALUATION}
        return all(abs(error) <= bars[name] for name, error in self.errors().items() if name in bars)


def ranks_of(entry: dict[str, Any]) -> int:
    """Cards of a case; where the file does not count them, a sharded or data-parallel one ran on two."""
    case = entry["case"]
    return int(entry.get("ranks") or (2 if any(case.get(name) for name in ("fsdp", "zero", "ddp")) else 1))


def _off(predicted: int, measured: int) -> float:
    return 100 * (predicted / measured - 1)


def config_of(case: dict[str, Any], ranks: int, folder: Path) -> dict[str, Any]:
    """The native config of a measured case."""
    method = case.get("method", "sft")
    with_trl = method in TRL or case.get("trainer") == "trl"
    fsdp = case.get("fsdp")
    sharded = fsdp or case.get("zero")
    training: dict[str, Any] = {
        "trainer": "trl" if with_trl else "transformers",
        "prepare_for_kbit_training": case.get("prep", not sharded),
        "per_device_train_batch_size": case["bs"],
        "gradient_accumulation_steps": case.get("accum", 1),
        "max_length": case["seq"],
        "bf16": True,
        "gradient_checkpointing": case.get("gc", True),
        "gradient_checkpointing_kwargs": {"use_reentrant": case.get("reentrant", False)},
        "optim": case.get("optim", "adamw_torch_fused"),
        **case.get("extra", {}),
    }
    if method in TRL:
        training["method"] = method
    if method == "simpo":
        training["cpo_alpha"] = 0.0
    if method in ("grpo", "rloo"):
        training |= {"max_completion_length": case["completion"], "num_generations": case["gens"]}
    if case.get("eval"):
        training |= {"eval_strategy": "steps", "per_device_eval_batch_size": case["eval"]}
    for name, key, value in (
        ("liger", "use_liger_kernel", True), ("neftune", "neftune_noise_alpha", 5), ("compile", "torch_compile", True),
        ("packing", "packing", True),
    ):  # fmt: skip
        if case.get(name):
            training[key] = value
    if fsdp:
        training |= {
            "fsdp": "full_shard auto_wrap",
            "fsdp_config": {"fsdp_version": fsdp, **case.get("fsdp_config", {})},
        }
    if case.get("zero"):
        zero = {"stage": case["zero"], **case.get("zero_config", {})}
        training["deepspeed"] = {"bf16": {"enabled": "auto"}, "zero_optimization": zero}
    if case.get("best"):
        training["load_best_model_at_end"] = True
    if case.get("ddp"):
        training["ddp_find_unused_parameters"] = False
    model: dict[str, Any] = {"name_or_path": str(folder), "attn_implementation": case.get("attn", "sdpa")}
    if method in ("cls", "reward"):
        model |= {"task": "sequence-classification", "num_labels": case.get("labels", 1 if method == "reward" else 3)}
    if case.get("generate"):
        training["predict_with_generate"] = True
    if case.get("metrics") and not case.get("argmax"):
        training["compute_metrics"] = True
        rows = folder.parent / "evaluation.jsonl"
        rows.write_text('{"text": "w1"}\n' * case.get("eval_rows", 16), encoding="utf-8")
    if method == "s2s":
        model |= {"task": "seq2seq-lm"}
    as_floats = case.get("bf16_storage", bool(fsdp or case.get("zero") == 3))
    storage = "bfloat16" if as_floats else "uint8"
    config = {
        "model": model | {"dtype": "bfloat16"},
        "quantization": {
            "load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": case.get("dq", True),
            "bnb_4bit_compute_dtype": "bfloat16", "bnb_4bit_quant_storage": storage,
        },
        "lora": {
            "r": case.get("r", 16), "lora_alpha": case.get("alpha", 32), "lora_dropout": case.get("dropout", 0.05),
            "target_modules": case.get("targets", "all-linear"),
            "task_type": {"cls": "SEQ_CLS", "reward": "SEQ_CLS", "s2s": "SEQ_2_SEQ_LM"}.get(method, "CAUSAL_LM"),
        },
        "training": training,
        "hardware": {"gpu": "H200", "count": ranks, "expandable_segments": bool(case.get("expandable"))},
    }  # fmt: skip
    if case.get("grid"):
        patch = 14
        config["data"] = {"image_size": [patch * side for side in case["grid"]]}
    if training.get("compute_metrics"):
        config["data"] = {"eval": str(folder.parent / "evaluation.jsonl")}
    if method == "tiles":
        config["data"] = {"image_size": case["image"]}
    if fsdp:
        config["lora"]["autocast_adapter_dtype"] = case.get("adapter32", False)
    return config


def axolotl_of(case: dict[str, Any], folder: Path) -> dict[str, Any]:
    """axolotl's config of a case that was measured with its code: kernels, and dtypes as its loader leaves them."""
    config: dict[str, Any] = {
        "base_model": str(folder), "adapter": "qlora", "load_in_4bit": True, "bf16": True,
        "lora_r": case.get("r", 16), "lora_alpha": 32, "lora_dropout": case["dropout"],
        "lora_target_modules": case["targets"], "datasets": [{"path": "rows.jsonl", "type": "alpaca"}],
        "micro_batch_size": case["bs"], "sequence_len": case["seq"], "learning_rate": 1e-4,
        "gradient_accumulation_steps": case.get("accum", 1), "optimizer": case.get("optim", "adamw_torch_fused"),
        "gradient_checkpointing": case.get("gc", True),
        "gradient_checkpointing_kwargs": {"use_reentrant": case.get("reentrant", False)},
    }  # fmt: skip
    if not case.get("kernels", True):
        config |= dict.fromkeys(("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel"), False)
    if case.get("liger_ax"):
        config["plugins"] = ["axolotl.integrations.liger.LigerPlugin"]
        names = ("rope", "rms_norm", "glu_activation", "fused_linear_cross_entropy")
        config |= {f"liger_{name}": True for name in names}
    if case.get("cce"):
        config["plugins"] = ["axolotl.integrations.cut_cross_entropy.CutCrossEntropyPlugin"]
    if case.get("chunked"):
        config["chunked_cross_entropy"] = True
    if case.get("dora"):
        config["peft_use_dora"] = True
    if case.get("eval"):
        config |= {"val_set_size": 0.1, "eval_steps": 1, "eval_batch_size": case["eval"]}
    return config


UNSLOTH = """from unsloth import FastLanguageModel
from trl import SFTConfig, SFTTrainer
from datasets import load_dataset

model, tokenizer = FastLanguageModel.from_pretrained({folder!r}, max_seq_length={seq}, load_in_4bit=True)
model = FastLanguageModel.get_peft_model(
    model, r={r}, target_modules={targets}, lora_alpha=16, lora_dropout={dropout}, bias="none",
    use_gradient_checkpointing={gc!r}, random_state=3407,
)
rows = load_dataset("json", data_files="rows.jsonl", split="train")
arguments = SFTConfig(
    output_dir="out", per_device_train_batch_size={bs}, gradient_accumulation_steps={accum}, max_steps=3,
    optim={optim!r}, max_length={seq}, bf16=True{more},
)
SFTTrainer(model=model, processing_class=tokenizer, train_dataset=rows, args=arguments).train()
"""
"""The script of a case that was measured with Unsloth."""


def unsloth_of(case: dict[str, Any], folder: Path) -> str:
    """The script of such a case."""
    evaluates = ', eval_strategy="steps", eval_steps=1, per_device_eval_batch_size='
    more = f"{evaluates}{case['eval']}" if case.get("eval") else ""
    # Samples of several lengths are counted as their sum: a batch is one row without padding.
    length = -(-case["batch"]["input_ids"][1] // case["bs"]) if case.get("padded") else case["seq"]
    return UNSLOTH.format(**{"r": 16, "accum": 1} | case | {"seq": length}, folder=str(folder), more=more)


def predict_case(entry: dict[str, Any], architectures: dict[str, Any], folder: Path) -> Row:
    """One case of the file, predicted."""
    import qlora_doctor
    from qlora_doctor.reading import read_setup

    case = entry["case"]
    architecture = dict(architectures[case["model"]], dtype="bfloat16") | case.get("override", {})
    if case.get("method") in ("cls", "reward"):
        architecture["pad_token_id"] = 0
    model = folder / "model"
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text(json.dumps(architecture), encoding="utf-8")
    path = folder / "config.json"
    engine = case.get("engine")
    if engine == "unsloth":
        path = folder / "train.py"
        path.write_text(unsloth_of(case, model), encoding="utf-8")
    else:
        own = axolotl_of(case, model) if engine == "axolotl" else config_of(case, ranks_of(entry), model)
        path.write_text(json.dumps(own), encoding="utf-8")
    setup = read_setup(path)
    hardware = {"gpu": "H200", "expandable_segments": bool(case.get("expandable") or engine == "unsloth")}
    setup = setup.model_copy(update={"hardware": setup.hardware.model_copy(update=hardware)})
    peaks, evals = entry["peaks"], entry.get("evals") or []
    row = Row(
        name=describe(case, ranks_of(entry)),
        wider=max(WIDER.get(case.get("method", ""), 0.0), WIDER["compile"] if case.get("compile") else 0.0),
        # Where results are moved to the host in between, the cache is emptied: its peak is the evaluation's.
        measured=(max(p[0] for p in peaks), max(p[1] for p in [*peaks, *evals])),
        measured_evaluation=(max(e[0] for e in evals), max(e[1] for e in evals)) if evals else None,
    )
    began = time.perf_counter()
    with in_this_process(), coming(case):
        report = qlora_doctor.check(setup, stages=["memory"], cache=False, offline=True)
    row.seconds = time.perf_counter() - began
    memory = report.facts.memory
    if memory is None or memory.predicted is None:
        record = next(record for record in report.stages if record.name == "memory")
        row.reason = (memory.prediction_failure if memory is not None else None) or record.reason or "no reason"
        return row
    for phase in memory.predicted.phases or []:
        if phase.phase in ("step", "evaluation"):
            setattr(row, phase.phase, (phase.peak_allocated_bytes, phase.peak_reserved_bytes))
    if not loaded(case):
        with in_this_process():
            memory = qlora_doctor.check(setup, stages=["memory"], cache=False, offline=True).facts.memory
        row.checked = memory.predicted.peak_reserved_bytes if memory is not None and memory.predicted else None
    return row


def loaded(case: dict[str, Any]) -> bool:
    """Whether the measured model came by from_pretrained, not layer by layer."""
    return bool(case.get("fsdp") or case.get("zero") or case.get("loaded") or case.get("engine") == "unsloth")


@contextmanager
def coming(case: dict[str, Any]) -> Iterator[None]:
    """Within, a model comes to the card as the one that was measured."""
    from qlora_doctor.memory import subject

    original = subject.subject_of_setup

    def as_measured(*args: Any, **kwargs: Any) -> Any:
        made = original(*args, **kwargs)
        return replace(made, load=replace(made.load, warm_up=loaded(case)))

    with patch.object(subject, "subject_of_setup", as_measured):
        yield


@contextmanager
def in_this_process() -> Iterator[None]:
    """Within, stages do not run in a process of their own."""
    from qlora_doctor.worker import runner
    from qlora_doctor.worker.worker import run_job

    def here(job: Any) -> Iterator[Any]:
        events: list[Any] = []
        run_job(job, events.append)
        yield from events

    with patch.object(runner, "run_stages", here):
        yield


def describe(case: dict[str, Any], ranks: int) -> str:
    """A case in a few words."""
    words = [case["model"], case.get("method", "sft"), f"{case['bs']}×{case['seq']}"]
    words += [f"{k}={v}" if v is not True else k for k, v in case.items()
              if k not in ("model", "method", "bs", "seq", "batch") and v != ALL]  # fmt: skip
    return " ".join([*words, *([f"ranks={ranks}"] if ranks > 1 else [])])


def rotary_by_product() -> None:
    """Rotary embeddings as transformers 5.17 computes them, in this process.

    Their product of matrices is the first that a step makes: cuBLAS takes its workspace before the first layer's norm,
    and not in its first projection, so that other free blocks are left behind.
    """
    import importlib

    import torch

    def forward(self: Any, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        frequencies = self.inv_freq[None, :, None].float().expand(position_ids.shape[0], -1, 1).to(x.device)
        with torch.autocast(device_type=x.device.type, enabled=False):
            angles = (frequencies @ position_ids[:, None, :].float()).transpose(1, 2)
        both = torch.cat((angles, angles), dim=-1)
        cos, sin = both.cos() * self.attention_scaling, both.sin() * self.attention_scaling
        return cos.to(dtype=x.dtype), sin.to(dtype=x.dtype)

    for family in ("llama", "qwen2", "qwen3", "mistral", "gemma"):
        module = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
        getattr(module, f"{family.capitalize()}RotaryEmbedding").forward = torch.no_grad()(forward)


def main(arguments: list[str] | None = None) -> int:
    """Compare; returns 1 where something that is predicted misses its bar."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", type=Path)
    parser.add_argument("--only", default="", help="only cases whose description holds this text")
    parser.add_argument("--json", type=Path, help="write the rows into this file")
    parser.add_argument("--rotary-product", action="store_true", help="positions times frequencies by a product of "
                        "matrices, as transformers 5.17 has them and 5.23 no longer")  # fmt: skip
    options = parser.parse_args(arguments)
    if options.rotary_product:
        rotary_by_product()
    truth = json.loads(options.kinds.read_text(encoding="utf-8"))
    rows = []
    for entry in truth["cases"]:
        if options.only not in describe(entry["case"], ranks_of(entry)) or not entry.get("peaks"):
            continue
        with tempfile.TemporaryDirectory() as folder:
            row = predict_case(entry, truth["architectures"], Path(folder))
        rows.append(row)
        if options.json:
            _write(options.json, rows)
        measured = f"measured {row.measured[0] / GIB:.2f} / {row.measured[1] / GIB:.2f} GiB"
        if row.step is None:
            print(f"    {row.name}: {measured}; not predicted: {row.reason}", flush=True)
            continue
        errors = ", ".join(f"{name} {error:+.2f}%" for name, error in row.errors().items())
        said = f"{'ok ' if row.within() else 'BAD'} {row.name}: {measured}; {errors}; {row.seconds:.0f} s"
        print(said, flush=True)
    return 0 if all(row.within() for row in rows) else 1


def _write(path: Path, rows: list[Row]) -> None:
    told = [{"case": r.name, "predicted": r.step is not None, "reason": r.reason, **r.errors()} for r in rows]
    path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
