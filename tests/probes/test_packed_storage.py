"""Packed 4-bit bytes stored as a float (``bnb_4bit_quant_storage``) are bytes all the same: they hold no numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("bitsandbytes")

import qlora_doctor  # noqa: E402
from qlora_doctor.pipeline import attach, build_base, prepare  # noqa: E402
from qlora_doctor.probes.load.loaded import loaded_facts, nonfinite_tensors  # noqa: E402
from qlora_doctor.probes.load.look import look_at_load  # noqa: E402
from qlora_doctor.probes.observing import snapshot  # noqa: E402
from qlora_doctor.probes.structure.quantization import quantization_facts  # noqa: E402
from qlora_doctor.probes.tensors import base_tensors  # noqa: E402
from qlora_doctor.setup.setup import Setup  # noqa: E402
from tests.probes.conftest import make_setup, silent  # noqa: E402

STORAGES = ["bfloat16", "float16", "float32"]


def stored_as(folder: Path | str, storage: str) -> Setup:
    setup = make_setup(folder)
    changed = setup.quantization.model_copy(update={"bnb_4bit_quant_storage": storage})
    return setup.model_copy(update={"quantization": changed})


def load(folder: Path | str, storage: str) -> Any:
    return build_base(stored_as(folder, storage), "cpu").model


def trained(folder: Path | str, storage: str) -> Any:
    setup = stored_as(folder, storage)
    base = build_base(setup, "cpu")
    prepare(base, setup)
    return attach(base, setup)


@pytest.mark.parametrize("storage", STORAGES)
def test_a_float_storage_changes_no_fact_of_a_healthy_base(tiny_llama: Path, storage: str) -> None:
    plain, stored = load(tiny_llama, "uint8"), load(tiny_llama, storage)
    weights = [f.tensor for f in base_tensors(stored).values() if f.kind == "packed"]
    assert len(weights) == 14 and {w.dtype for w in weights} == {getattr(torch, storage)}
    assert any(not torch.isfinite(w).all() for w in weights), "the patterns that must not be read as numbers are there"
    assert nonfinite_tensors(stored) == []
    for look in (loaded_facts, lambda m: quantization_facts(m).model_dump()):
        one, other = look(plain), look(stored)
        assert {k for k in one if one[k] != other[k]} <= {"classes", "storage_dtype"}


def test_a_nan_beside_them_is_still_found(tiny_llama: Path) -> None:
    model = load(tiny_llama, "bfloat16")
    model.model.norm.weight.data[3] = float("nan")
    model.model.layers[0].mlp.up_proj.weight.quant_state.state2.absmax[0] = float("inf")
    assert nonfinite_tensors(model) == ["model.layers.0.mlp.up_proj.weight.state2.absmax", "model.norm.weight"]


def test_a_checkpoint_in_4bit_with_float_storage(tiny_llama: Path, tmp_path: Path) -> None:
    """Its packed tensors have a float dtype on disk too."""
    load(tiny_llama, "bfloat16").save_pretrained(tmp_path)
    seen = look_at_load(stored_as(tmp_path, "bfloat16"), "cpu", silent)
    assert seen.error is None and seen.facts.nonfinite_tensors == []
    assert seen.facts.missing_quant_state == [] and not seen.facts.quantization_errors


def test_examined_objects_with_float_storage_are_healthy(tiny_llama: Path) -> None:
    model = trained(tiny_llama, "bfloat16")
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-4)
    ids = torch.randint(0, 512, (2, 16), generator=torch.Generator().manual_seed(1))
    report = qlora_doctor.examine(model, optimizer, {"input_ids": ids, "labels": ids.clone()})
    assert report.findings == [], [(f.rule, f.message) for f in report.findings]


@pytest.mark.parametrize("change", ["one byte", "another dtype"])
def test_a_changed_packed_weight_is_a_changed_base(tiny_llama: Path, change: str) -> None:
    """A cast is judged by value where there are values; a packed weight in another dtype is another weight."""
    model = load(tiny_llama, "bfloat16")
    before = snapshot.take(model)
    weight = model.model.layers[1].mlp.down_proj.weight
    if change == "one byte":
        weight.data.view(torch.uint8)[0, 0] += 1
    else:
        weight.data = weight.data.float()
    changes = snapshot.compare(before, model, snapshot.take(model, keep_small=False))
    assert changes.changed == ["model.layers.1.mlp.down_proj.weight"] and changes.cast == []


def test_what_lies_nowhere_is_not_read() -> None:
    """Sharding frees a parameter's storage beneath it; reading there would end the process."""
    from qlora_doctor.probes.observing.fingerprint import fingerprint
    from qlora_doctor.probes.tensors import is_readable

    freed = torch.zeros(64)
    freed.untyped_storage().resize_(0)
    for nowhere in (freed, torch.empty(4, device="meta")):
        assert not is_readable(nowhere) and fingerprint(nowhere) is None
    assert is_readable(torch.zeros(6, 8).T[1:]) and is_readable(torch.empty(0))
