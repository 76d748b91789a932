"""axolotl's LoRA kernels: who has them, what they take, and the measured runs that hold them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from qlora_doctor.facts import Facts
from qlora_doctor.facts.memory import MemoryFacts
from qlora_doctor.memory.kernel_switches import LigerKernels, LoraKernels
from qlora_doctor.memory.lora_kernels import _joined, _mlp
from qlora_doctor.memory.operators import register_bitsandbytes
from qlora_doctor.memory.stage import look_at_memory
from qlora_doctor.memory.tape import Tape
from qlora_doctor.memory.trace import Recorder
from qlora_doctor.probes.config.conclude import conclude
from qlora_doctor.reading import read_setup
from qlora_doctor.setup.setup import Setup
from tests.memory.cases import LLAMA

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "memory"
PLAIN = {"lora_mlp_kernel": False, "lora_qkv_kernel": False, "lora_o_kernel": False}
LIGER = {"plugins": ["axolotl.integrations.liger.LigerPlugin"], "liger_rope": True, "liger_swiglu": True}


def read(folder: Path, architecture: dict[str, Any] = LLAMA, **more: Any) -> Setup:
    """An axolotl config as its examples are written, of a small model."""
    (folder / "config.json").write_text(json.dumps(architecture), encoding="utf-8")
    config = {
        "base_model": str(folder), "adapter": "qlora", "load_in_4bit": True, "lora_r": 8, "lora_alpha": 16,
        "lora_target_linear": True, "sequence_len": 256, "micro_batch_size": 2, "learning_rate": 1e-4,
        "datasets": [{"path": "rows.jsonl", "type": "alpaca"}], "bf16": True,
    }  # fmt: skip
    path = folder / "axolotl.yml"
    path.write_text(yaml.safe_dump(config | more), encoding="utf-8")
    return read_setup(path)


def memory_of(setup: Setup) -> MemoryFacts:
    return look_at_memory(setup, Facts(config=conclude(setup, None)), lambda *_: None, with_savings=False)


def test_a_silent_config_has_them_and_a_figure(tmp_path: Path) -> None:
    silent, plain = read(tmp_path), read(tmp_path, **PLAIN)
    assert LoraKernels.of(silent) == LoraKernels() and LoraKernels.of(plain) is None
    with_kernels, without = memory_of(silent).predicted, memory_of(plain).predicted
    assert with_kernels is not None and without is not None
    assert with_kernels.peak_allocated_bytes < without.peak_allocated_bytes * 0.97
    assert any("LoRA kernels" in said for said in with_kernels.assumptions or ())


def test_norms_and_embeddings_are_trained_beside_in_16_bits(tmp_path: Path) -> None:
    found = memory_of(read(tmp_path, **PLAIN)).predicted
    kept = memory_of(read(tmp_path, **PLAIN, embeddings_skip_upcast=True)).predicted
    assert found is not None and kept is not None and found.breakdown and kept.breakdown
    words = LLAMA["vocab_size"] * LLAMA["hidden_size"]
    assert found.breakdown["base_32bit"] < words < kept.breakdown["base_32bit"]


def test_what_a_plugin_reads_needs_the_plugin(tmp_path: Path) -> None:
    lone = read(tmp_path, liger_rope=True, liger_fused_linear_cross_entropy=True)
    assert LigerKernels.of(lone, fuses_head=False) is None and lone.training.use_liger_kernel is False
    with_plugin = LigerKernels.of(read(tmp_path, **LIGER), fuses_head=False)
    assert with_plugin == LigerKernels(rms_norm=False, fused_linear_cross_entropy=False)
    cut = read(tmp_path, plugins=["axolotl.integrations.cut_cross_entropy.CutCrossEntropyPlugin"])
    assert cut.training.kernels == ["cut_cross_entropy"]
    assert "cut_cross_entropy" in str(memory_of(cut).prediction_failure)


PHI = LLAMA | {"model_type": "phi3", "pad_token_id": 0}
UNFIT: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "an attention of other lines": (PHI, {}, "phi3"),
    "dora": (LLAMA, {"peft_use_dora": True}, "DoRA"),
    "preferences": (LLAMA, {"rl": "dpo", "lora_mlp_kernel": True}, "dpo"),
    "another activation": (LLAMA | {"hidden_act": "relu"}, {}, "llama"),
}


@pytest.mark.parametrize(("architecture", "more", "word"), UNFIT.values(), ids=UNFIT)
def test_what_is_not_restated_has_no_figure(
    architecture: dict[str, Any], more: dict[str, Any], word: str, tmp_path: Path
) -> None:
    memory = memory_of(read(tmp_path, architecture, **more))
    assert memory.predicted is None and word in str(memory.prediction_failure)


def projection(out: int, wide: int) -> Any:
    """What the kernels see of a 4-bit layer with an adapter of rank 4."""
    import bitsandbytes
    from peft.tuners.lora import LoraConfig
    from peft.tuners.lora.bnb import Linear4bit

    base = bitsandbytes.nn.Linear4bit(wide, out, bias=False, compute_dtype=torch.bfloat16)
    packed = torch.empty((out * wide // 2, 1), dtype=torch.uint8, device="meta")
    statistics = torch.empty(out * wide // 64, device="meta")
    state = SimpleNamespace(
        shape=torch.Size((out, wide)), dtype=torch.bfloat16, absmax=statistics, blocksize=64, quant_type="nf4",
        nested=False,
    )  # fmt: skip
    layer = Linear4bit(base, "default", LoraConfig(r=4), r=4, lora_alpha=8)
    weight = torch.nn.Parameter(packed, requires_grad=False)
    weight.quant_state = state
    base._parameters["weight"] = weight
    for part in (layer.lora_A, layer.lora_B):
        part["default"].to("meta")
    return layer


def test_a_weight_is_let_go_before_the_next_and_of_an_mlp_gate_and_up_are_kept() -> None:
    register_bitsandbytes()
    wide, inner, tokens = 1024, 2048, 512
    attention = [projection(wide, wide) for _ in range(3)]
    mlp = SimpleNamespace(
        gate_proj=projection(inner, wide), up_proj=projection(inner, wide), down_proj=projection(wide, inner)
    )
    states = torch.empty((1, tokens, wide), dtype=torch.bfloat16, device="meta", requires_grad=True)
    tape = Tape()
    with Recorder(tape):

        def alive(run: Any) -> list[int]:
            start = len(tape.sizes)
            kept = run()  # noqa: F841
            gone = {event >> 2 for event in tape.events if event & 3 == 1}
            return sorted(size for place, size in enumerate(tape.sizes) if place >= start and place not in gone)

        halves = [tokens * wide * 2] * 3
        assert alive(lambda: _joined(states, attention))[-3:] == halves
        assert alive(lambda: _mlp(mlp, states))[-3:] == [tokens * wide * 2] + [tokens * inner * 2] * 2
    assert max(tape.sizes) == max(inner * wide, tokens * inner) * 2


def test_a_recorded_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARK))
    sys.modules.pop("compare_kinds", None)
    import compare_kinds  # type: ignore[import-not-found]

    truth = json.loads((BENCHMARK / "kinds_axolotl_h200.json").read_text(encoding="utf-8"))
    wanted = {"model": "llama3.2-1b", "dropout": 0.05, "gc": False, "bs": 2, "seq": 1024}
    entry = next(
        entry for entry in truth["cases"] if all(entry["case"].get(name) == value for name, value in wanted.items())
    )
    entry = entry | {"case": entry["case"] | {"loaded": True}}
    row = compare_kinds.predict_case(entry, truth["architectures"], tmp_path)
    errors = row.errors()
    assert abs(errors["allocated"]) < 0.1 and abs(errors["reserved"]) < 1
