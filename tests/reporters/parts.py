"""Facts that could have been measured: a 7B Llama on one card, and what a test changes about it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from qlora_doctor.core.report import StageRecord
from qlora_doctor.facts import (
    AdapterFacts,
    ConfigFacts,
    DataFacts,
    EnvironmentFacts,
    LoadFacts,
    MemoryFacts,
    ModelFacts,
    QuantizationFacts,
    StepFacts,
)
from qlora_doctor.facts.adapter import ProjectionCoverage, TrainableGroup
from qlora_doctor.facts.environment import Gpu, Packages
from qlora_doctor.facts.load import LoadFailure, ModuleClass, QuantizationError
from qlora_doctor.facts.memory import HeldTensors, MemoryPicture, PhasePeak, PlanCell, Saving, TimelinePoint
from qlora_doctor.facts.step import GradientColumn, OptimizerFacts

GIB = 2**30
MIB = 2**20
CREATED = "2026-11-24T09:30:00Z"
PROJECTIONS = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
# Ids and names of our pages; a report does not need the page to exist.
PASSED = (
    ("QD102", "unknown-keys", "config"),
    ("QD112", "float32-compute-dtype", "config"),
    ("QD207", "fp4-quant-type", "config"),
    ("QD110", "bf16-training-on-older-card", "config"),
    ("QD120", "learning-rate-of-full-fine-tuning", "config"),
    ("QD202", "nothing-in-4bit", "structure"),
    ("QD301", "target-modules-match-nothing", "structure"),
    ("QD304", "target-modules-partly-unmatched", "structure"),
    ("QD333", "trainable-ratio-over-budget", "structure"),
    ("QD401", "base-weights-changed", "step"),
    ("QD417", "optimizer-holds-frozen-tensors", "step"),
    ("QD403", "checkpointing-starves-adapters", "step"),
    ("QD408", "loss-not-finite", "step"),
    ("QD503", "predicted-peak-over-card", "memory"),
    ("QD605", "all-labels-masked", "data"),
)


def stages(**changed: dict[str, Any]) -> list[StageRecord]:
    """All six stages done, but for what is changed by name."""
    seconds = {"config": 0.021, "structure": 3.94, "memory": 2.31, "data": 1.72, "load": 21.4, "step": 6.8}
    records = [{"name": name, "status": "done", "seconds": took} for name, took in seconds.items()]
    return [StageRecord(**{**record, **changed.get(str(record["name"]), {})}) for record in records]


def environment(gpu: bool = True) -> EnvironmentFacts:
    cards = [
        Gpu(
            index=0,
            name="NVIDIA GeForce RTX 4090",
            memory_bytes=25_757_220_864,
            free_bytes=25_300_000_000,
            capability=8.9,
            driver="580.82.07",
        )
    ]
    return EnvironmentFacts(
        tool_version="0.1.0",
        python="3.11.9",
        platform="Linux-6.8.0-x86_64-with-glibc2.39",
        packages=Packages(
            torch="2.13.0+cu130",
            transformers="5.23.0",
            peft="0.21.2",
            bitsandbytes="0.50.2",
            accelerate="1.15.0",
            trl="1.16.0",
            datasets="5.2.0",
            safetensors="0.8.1",
        ),
        gpus=cards if gpu else [],
        driver="580.82.07" if gpu else None,
        torch_cuda="13.0",
        bitsandbytes_backends=["cpu", "cuda130"],
        bitsandbytes_matches_torch=True if gpu else None,
        host_memory_bytes=64 * GIB,
        host_available_bytes=51 * GIB,
        cpu_count=16,
    )


def config(**changed: Any) -> ConfigFacts:
    values: dict[str, Any] = {
        "dialect": "native",
        "dialect_confidence": 1.0,
        "model": "meta-llama/Llama-2-7b-hf",
        "model_kind": "table",
        "model_dtype": "bfloat16",
        "four_bit": True,
        "quantization_backend": "bitsandbytes",
        "quant_type": "nf4",
        "double_quant": True,
        "compute_dtype": "bfloat16",
        "lora_r": 64,
        "lora_alpha": 16.0,
        "lora_dropout": 0.05,
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"],
        "modules_to_save": [],
        "bias": "none",
        "task_type": "CAUSAL_LM",
        "scaling": 0.25,
        "alpha_over_r": 0.25,
        "trainer": "transformers",
        "prepare_for_kbit_training": True,
        "learning_rate": 2e-4,
        "optimizer": "paged_adamw_8bit",
        "batch": 2,
        "gradient_accumulation": 8,
        "sequence": 1024,
        "bf16": True,
        "gradient_checkpointing": True,
        "gpu": "RTX 4090",
        "gpu_memory_bytes": 25_757_220_864,
        "gpu_capability": 8.9,
        "gpu_source": "present",
        "distributed": "none",
        "unknown_keys": [],
    }
    return ConfigFacts(**{**values, **changed})


def setup(**changed: Any) -> dict[str, Any]:
    def given(line: int) -> dict[str, Any]:
        return {"source": "explicit", "place": {"file": "runs/llama2-7b.json", "line": line, "column": 5}, "note": None}

    peft_default = {"source": "library_default", "place": None, "note": "PEFT 0.21.2"}
    values: dict[str, Any] = {
        "dialect": "native",
        "dialect_confidence": 1.0,
        "file": "runs/llama2-7b.json",
        "model": {"name_or_path": "meta-llama/Llama-2-7b-hf", "dtype": "bfloat16"},
        "quantization": {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": "bfloat16",
            "llm_int8_skip_modules": None,
        },
        "lora": {
            "r": 64,
            "lora_alpha": 16.0,
            "lora_dropout": 0.05,
            "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"],
            "bias": "none",
            "task_type": "CAUSAL_LM",
        },
        "training": {
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 8,
            "learning_rate": 2e-4,
            "bf16": True,
            "gradient_checkpointing": True,
            "max_length": 1024,
            "optim": "paged_adamw_8bit",
        },
        "data": {"train": "data/train.jsonl", "format": "messages"},
        "hardware": {"gpu": "RTX 4090"},
        "budgets": {"peak_memory": "22GiB"},
        "origins": {
            "model.name_or_path": given(2),
            "quantization.load_in_4bit": given(5),
            "lora.r": given(11),
            "lora.target_modules": given(14),
            "lora.bias": peft_default,
            "training.learning_rate": given(21),
        },
    }
    return {**values, **changed}


def coverage(layers: int, adapted: Callable[[str, int], bool], four_bit: Callable[[str, int], bool]) -> list[Any]:
    every = range(layers)
    return [
        ProjectionCoverage(
            projection=name,
            layers=list(every),
            adapted=[i for i in every if adapted(name, i)],
            four_bit=[i for i in every if four_bit(name, i)],
        )
        for name in PROJECTIONS
    ]


def gradients(layers: int, names: tuple[str, ...], dead: int | None = None) -> list[GradientColumn]:
    """Norms that fall with depth and differ by projection; ``dead``: from this layer on nothing arrives."""

    def norm(layer: int, column: int) -> float | None:
        if dead is not None and layer >= dead:
            return None
        wave = 1 + 0.35 * math.sin(layer * 1.7 + column * 2.3)
        return round(0.012 * (column + 1) * math.exp(-1.8 * layer / layers) * wave, 7)

    return [
        GradientColumn(projection=name, layers=list(range(layers)), norms=[norm(i, c) for i in range(layers)])
        for c, name in enumerate(names)
    ]


def quantization_errors(layers: int, every: int) -> list[QuantizationError]:
    return [
        QuantizationError(
            module=f"model.layers.{i}.{name}",
            relative_error=0.0912 + 0.004 * math.sin(i + c),
            max_error=0.021 + 0.001 * c,
        )
        for i in range(0, layers, every)
        for c, name in enumerate(PROJECTIONS)
    ]


def timeline(base: int, peak: int, points: int = 600) -> list[TimelinePoint]:
    """Load, then two steps; the second a little higher for the optimizer's state."""
    phases = (
        ("load", 0.0, 0.30),
        ("prepare", 0.30, 0.36),
        ("forward", 0.36, 0.48),
        ("backward", 0.48, 0.62),
        ("optimizer", 0.62, 0.66),
        ("forward", 0.66, 0.79),
        ("backward", 0.79, 0.94),
        ("optimizer", 0.94, 1.0),
    )

    def at(position: float) -> TimelinePoint:
        phase, start, end = next(p for p in phases if position < p[2] or p[2] == 1.0)
        share = (position - start) / (end - start)
        room = peak - base
        level = {
            "load": base * share,
            "prepare": base * (1 + 0.03 * share),
            "forward": base * 1.03 + room * 0.7 * share,
            "backward": base * 1.03 + room * (0.72 + 0.25 * math.sin(share * 2.2) + (0.02 if start > 0.7 else 0)),
            "optimizer": base * 1.03 + room * 0.12,
        }[phase]
        return TimelinePoint(at=round(position, 5), allocated_bytes=min(int(level), peak), phase=phase)

    return [at(i / (points - 1)) for i in range(points)]


def tensors(scale: float = 1.0) -> list[HeldTensors]:
    """What two phases hold."""
    rows = [
        ("base_4bit", "model.layers.*.mlp.down_proj.weight", None, [29360128, 1], "uint8", 32, 940),
        ("base_4bit", "model.layers.*.self_attn.q_proj.weight", None, [8388608, 1], "uint8", 32, 268),
        ("base_32bit", "model.embed_tokens.weight", None, [128256, 4096], "float32", 1, 2101),
        ("activations", "model.layers.*.mlp.act_fn", "silu", [1, 1024, 14336], "bfloat16", 1, 29),
        ("activations", None, None, None, None, 12, 3),
    ]
    return [
        HeldTensors(phase=phase, part=part, module=module, operator=operator, shape=shape, dtype=dtype, count=count,
                    bytes=int(size * MIB * scale * share))
        for phase, share in (("forward", 0.5), ("backward", 1.0))
        for part, module, operator, shape, dtype, count, size in rows
    ]  # fmt: skip


def picture(scale: float = 1.0, measured: bool = False, points: int = 600) -> MemoryPicture:
    """The peak of a 7B in 4-bit; ``scale`` stretches every part."""
    jitter = 1.012 if measured else 1.0
    parts = {
        "base_4bit": 3_238_002_688,
        "quantization_statistics": 102_563_840,
        "base_16bit": 532_676_608,
        "adapter": 268_435_456,
        "gradients": 268_435_456,
        "optimizer": 139_264_000,
        "activations": 2_147_483_648,
        "logits_and_loss": 786_432_000,
        "dequantized_weights": 90_177_536,
        "workspaces": 17_039_360,
    }
    breakdown = {name: int(size * scale * jitter) for name, size in parts.items()}
    peak = sum(breakdown.values())
    reserved = int(peak * 1.045)
    base = breakdown["base_4bit"] + breakdown["base_16bit"]
    phases = [("load", 0.62), ("prepare", 0.64), ("forward", 0.91), ("backward", 1.0), ("optimizer", 0.66)]
    return MemoryPicture(
        peak_allocated_bytes=peak,
        peak_reserved_bytes=reserved,
        breakdown=None if measured else breakdown,
        phases=[
            PhasePeak(phase=p, peak_allocated_bytes=int(peak * f), peak_reserved_bytes=int(reserved * f))
            for p, f in phases
        ],
        timeline=timeline(base, peak, points),
        tensors=None if measured else tensors(scale),
        device="NVIDIA GeForce RTX 4090",
        batch=2,
        sequence=1024,
        versions={"torch": "2.13.0", "bitsandbytes": "0.50.2"},
        assumptions=None if measured else ["Attention is computed by sdpa, the default of transformers 5.23.0."],
    )


def memory(scale: float = 1.0, card: int = 25_300_000_000, measured: bool = True) -> MemoryFacts:
    predicted = picture(scale)
    seen = picture(scale, measured=True, points=420) if measured else None
    peak, reserved = predicted.peak_allocated_bytes or 0, predicted.peak_reserved_bytes or 0
    changes = [
        ("gradient_accumulation at batch 1", "/training/per_device_train_batch_size", "1", 0.19),
        ("a sequence of 512 tokens", "/training/max_length", "512", 0.17),
        ("paged 8-bit AdamW", "/training/optim", "paged_adamw_8bit", 0.018),
    ]

    def cell(batch: int, sequence: int) -> PlanCell:
        size = int(peak * (0.62 + 0.38 * batch * sequence / 2048))
        return PlanCell(
            batch=batch,
            sequence=sequence,
            peak_allocated_bytes=size,
            peak_reserved_bytes=int(size * 1.045),
            fits=size * 1.045 < card,
            traced=(batch, sequence) in {(1, 512), (2, 1024), (8, 4096)},
        )

    return MemoryFacts(
        predicted=predicted,
        measured=seen,
        card="NVIDIA GeForce RTX 4090",
        card_bytes=card,
        context_bytes=457_000_000,
        predicted_ratio=reserved / card,
        measured_ratio=(seen.peak_reserved_bytes or 0) / card if seen else None,
        difference_ratio=-0.0119 if seen else None,
        margin_ratio=0.06,
        savings=[
            Saving(change=c, pointer=p, value=v, peak_allocated_bytes=int(peak * (1 - f)), saved_bytes=int(peak * f))
            for c, p, v, f in changes
        ],
        plan=[cell(b, s) for b in (1, 2, 4, 8) for s in (512, 1024, 2048, 4096)],
        logits_bytes=786_432_000,
        logits_ratio=0.1,
        activations_ratio=0.28,
        peak_phase="backward",
        with_checkpointing_bytes=peak,
        without_checkpointing_bytes=int(peak * 2.4),
    )


def model(layers: int = 32, parameters: int = 6_738_415_616, **changed: Any) -> ModelFacts:
    values: dict[str, Any] = {
        "source": "folder",
        "model_type": "llama",
        "architecture": "LlamaForCausalLM",
        "model_class": "LlamaForCausalLM",
        "dtype": "bfloat16",
        "layers": layers,
        "hidden_size": 4096,
        "vocab_size": 32000,
        "context_length": 4096,
        "tied_embeddings": False,
        "total_parameters": parameters,
        "embedding_parameters": 131_072_000,
        "head_parameters": 131_072_000,
        "linear_parameters": 6_476_005_376,
        "linear_modules": 7 * layers,
        "module_kinds": [p.split(".")[1] for p in PROJECTIONS],
        "build_error_kind": "none",
    }
    return ModelFacts(**{**values, **changed})


def adapter(layers: int = 32, parameters: int = 6_738_415_616, **changed: Any) -> AdapterFacts:
    attention = PROJECTIONS[:4]
    trainable = 67_108_864 * layers // 32
    values: dict[str, Any] = {
        "attached": True,
        "failure": "none",
        "matched_modules": [f"model.layers.{i}.{p}" for i in range(layers) for p in attention],
        "unmatched_targets": [],
        "trainable_parameters": trainable,
        "total_parameters": parameters + trainable,
        "trainable_ratio": trainable / (parameters + trainable),
        "packed_parameters": parameters // 2,
        "trainable_groups": [
            TrainableGroup(group="lora", parameters=trainable, ratio=trainable / (parameters + trainable))
        ],
        "expected_trainable_parameters": trainable,
        "adapted_layers": layers,
        "total_layers": layers,
        "layer_coverage_ratio": 1.0,
        "linear_coverage_ratio": 0.3316,
        "projections": coverage(layers, lambda p, _: p in attention, lambda *_: True),
        "adapted_classes": [f"Linear4bit × {4 * layers}"],
        "active_adapters": ["default"],
    }
    return AdapterFacts(**{**values, **changed})


def quantization(layers: int = 32, **changed: Any) -> QuantizationFacts:
    size = 6_476_005_376 * layers // 32
    values: dict[str, Any] = {
        "enabled": True,
        "quantized_parameters": size,
        "quantizable_parameters": size,
        "coverage_ratio": 1.0,
        "quantized_modules": 7 * layers,
        "quantizable_modules": 7 * layers,
        "left_out": [],
        "bits_per_parameter": 4.127,
        "expected_bits_per_parameter": 4.127,
        "base_bytes": 3_873_243_136 * layers // 32,
        "base_bytes_ideal": 3_873_243_136 * layers // 32,
        "bytes_by_dtype": {"uint8": 3_238_002_688, "bfloat16": 532_676_608, "float32": 102_563_840},
        "quant_type": "nf4",
        "double_quant": True,
        "compute_dtype": "bfloat16",
        "storage_dtype": "uint8",
        "kbit_upcast_bytes": 524_820_480,
        "kbit_upcast_ratio": 0.1355,
    }
    return QuantizationFacts(**{**values, **changed})


def load(layers: int = 32, **changed: Any) -> LoadFacts:
    values: dict[str, Any] = {
        "device": "cuda:0",
        "devices": {"cuda:0": 3_873_243_136},
        "seconds": 18.2,
        "bytes_read": 13_476_839_424,
        "peak_allocated_bytes": 4_573_349_888,
        "classes": [
            ModuleClass(
                module_class="Linear4bit",
                modules=7 * layers,
                parameters=6_476_005_376,
                quant_type="nf4",
                storage_dtype="uint8",
                compute_dtype="bfloat16",
                nested=True,
            ),
            ModuleClass(module_class="LlamaRMSNorm", modules=2 * layers + 1, parameters=266_240),
        ],
        "missing_quant_state": [],
        "compute_dtypes": ["bfloat16"],
        "nested_ratio": 1.0,
        "nonfinite_tensors": [],
        "quantization_errors": quantization_errors(layers, 4),
        "mean_quantization_error": 0.0913,
        "max_quantization_error": 0.0952,
        "differences": [],
        "failure": LoadFailure(kind="none", message=""),
    }
    return LoadFacts(**{**values, **changed})


def step(layers: int = 32, **changed: Any) -> StepFacts:
    values: dict[str, Any] = {
        "trainer": "transformers",
        "device": "cuda:0",
        "data": "file",
        "batch": 2,
        "sequence": 1024,
        "steps": 2,
        "seconds": [1.92, 1.41],
        "fingerprinted_tensors": 9 * layers + 3,
        "fingerprinted_bytes": 3_873_243_136,
        "fingerprint_seconds": 0.021,
        "changed_base_tensors": [],
        "cast_base_tensors": [],
        "loss_before": 1.8423,
        "loss_after": 1.8017,
        "losses": [1.8423, 1.8207],
        "loss_finite": True,
        "loss_moved": True,
        "logits_finite": True,
        "trainable_tensors": 8 * layers,
        "parameters_without_gradient": [],
        "parameters_zero_gradient": [],
        "parameters_nonfinite_gradient": [],
        "parameters_not_updated": [],
        "gradient_norm": 0.412,
        "gradients": gradients(layers, PROJECTIONS[:4]),
        "optimizer": OptimizerFacts(
            name="AdamW",
            parameters=8 * layers,
            elements=67_108_864,
            frozen_parameters=[],
            missing_parameters=[],
            stale_parameters=0,
            state_bytes=139_264_000,
            learning_rates=[2e-4],
        ),
        "adapter_identity": True,
        "adapter_identity_difference": 0.0,
        "adapter_effective": True,
        "inputs_require_grad": True,
        "gradient_checkpointing": True,
        "use_reentrant": False,
        "use_cache": False,
        "forward_dtypes": ["bfloat16", "float32"],
        "autocast_dtype": "bfloat16",
        "trained_tokens": 1536,
        "vocab_rows": 32000,
        "max_token_id": 31999,
        "tokens_out_of_range": 0,
        "warnings": [],
        "failure": LoadFailure(kind="none", message=""),
    }
    return StepFacts(**{**values, **changed})


def data(**changed: Any) -> DataFacts:
    values: dict[str, Any] = {
        "source": "data/train.jsonl",
        "format": "messages",
        "columns": ["messages"],
        "rows": 9846,
        "rows_seen": 512,
        "tokens_mean": 412.7,
        "tokens_median": 371,
        "tokens_max": 2210,
        "truncated_ratio": 0.031,
        "labels_masked_ratio": 0.412,
        "rows_fully_masked": 0,
        "max_token_id": 31999,
        "vocab_rows": 32000,
        "tokens_out_of_range": 0,
        "eos_supervised_ratio": 1.0,
        "double_bos_rows": 0,
        "chat_template": True,
    }
    return DataFacts(**{**values, **changed})
