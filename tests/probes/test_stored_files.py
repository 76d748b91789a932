"""The file of a stored adapter by itself: cut short, no numbers, names that PEFT did not write."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("bitsandbytes")

from safetensors.torch import load_file, save_file  # noqa: E402

from qlora_doctor import check  # noqa: E402
from qlora_doctor.probes.structure.look import look_at_structure  # noqa: E402
from qlora_doctor.reading import read_setup  # noqa: E402
from qlora_doctor.setup.setup import Model  # noqa: E402
from tests.probes.conftest import make_setup  # noqa: E402

PREFIX = "base_model.model."
Change = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.fixture
def stored(qlora: Callable[..., Any], tmp_path: Path) -> Callable[[Change], Path]:
    """``stored(change)``: a saved adapter whose tensors went through ``change``."""

    def save(change: Change) -> Path:
        qlora().save_pretrained(tmp_path / "adapter")
        file = tmp_path / "adapter" / "adapter_model.safetensors"
        save_file(change(load_file(file)), file)
        return file

    return save


def facts(file: Path, base: Path, how: str) -> Any:
    """Facts of the adapter, by its own config or by a setup that continues it."""
    if how == "bare":
        return look_at_structure(read_setup(file.parent / "adapter_config.json")).adapter
    model = Model(name_or_path=str(base), adapter=str(file.parent), adapter_is_trainable=True)
    return look_at_structure(make_setup(base).model_copy(update={"model": model})).adapter


both = pytest.mark.parametrize("how", ["bare", "continued"])


@both
def test_a_sound_file(stored: Callable[[Change], Path], tiny_llama: Path, how: str) -> None:
    seen = facts(stored(lambda tensors: tensors), tiny_llama, how)
    assert (seen.stored_damage, seen.stored_nonfinite, seen.stored_unread, seen.stored_missing) == ("none", [], [], [])


@both
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_values_that_are_no_numbers(stored: Callable[[Change], Path], tiny_llama: Path, how: str, value: float) -> None:
    name = f"{PREFIX}model.layers.1.mlp.up_proj.lora_B.weight"

    def spoil(tensors: dict[str, Any]) -> dict[str, Any]:
        tensors[name].view(-1)[5] = value
        return tensors

    assert facts(stored(spoil), tiny_llama, how).stored_nonfinite == [name.removeprefix(PREFIX)]


@both
def test_a_file_that_was_cut_short(stored: Callable[[Change], Path], tiny_llama: Path, how: str) -> None:
    file = stored(lambda tensors: tensors)
    file.write_bytes(file.read_bytes()[:-200])
    assert "is truncated" in facts(file, tiny_llama, how).stored_damage


def test_a_damaged_adapter_is_one_finding(stored: Callable[[Change], Path], tiny_llama: Path, tmp_path: Path) -> None:
    """What keeps the adapter from being loaded is told once: no step is tried that would stop at the same."""
    file = stored(lambda tensors: tensors)
    config = tmp_path / "resumed.yaml"
    config.write_text(
        f"model: {{name_or_path: {tiny_llama}, adapter: {file.parent}, adapter_is_trainable: true}}\n"
        "training: {max_length: 32, per_device_train_batch_size: 1}\n"
    )
    file.write_bytes(file.read_bytes()[:-200])
    report = check(config, stages=("structure", "load", "step"), cache=False)
    assert [each.rule for each in report.findings if each.severity == "error"] == ["QD356"]
    assert next(each for each in report.stages if each.name == "step").status == "skipped"
    file.unlink()
    report = check(config, stages=("structure",), cache=False)
    assert [each.rule for each in report.findings if each.severity == "error"] == ["QD356"]


def test_a_damaged_file_is_told_where_the_base_is_not_at_hand(stored: Callable[[Change], Path]) -> None:
    file = stored(lambda tensors: tensors)
    config = file.parent / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": "nobody/has-this"}))
    file.write_bytes(file.read_bytes()[:40])
    seen = look_at_structure(read_setup(config))
    assert seen.failure is not None and seen.adapter is not None and "before its header" in seen.adapter.stored_damage


FOREIGN: dict[str, tuple[Callable[[str], str], str]] = {
    "compiled": (lambda name: f"_orig_mod.{name}", "hold _orig_mod"),
    "ddp": (lambda name: f"module.{name}", "begin with module."),
    "fsdp": (lambda name: name.replace(".self_attn.", "._fsdp_wrapped_module.self_attn."), "hold _fsdp_wrapped_module"),
    "bare": (lambda name: name.removeprefix(PREFIX), f"lack {PREFIX}"),
    "other layers": (lambda name: name.replace(".layers.1.", ".layers.7."), "none"),
}


@both
@pytest.mark.parametrize("kind", FOREIGN)
def test_names_that_peft_did_not_write(stored: Callable[[Change], Path], tiny_llama: Path, how: str, kind: str) -> None:
    rename, words = FOREIGN[kind]
    seen = facts(stored(lambda tensors: {rename(name): each for name, each in tensors.items()}), tiny_llama, how)
    assert seen.stored_unread and seen.stored_foreign == words


class Thing:
    """An object in a pickle."""


PICKLES: dict[str, tuple[Callable[[dict[str, Any]], Any], int | None, str, list[str]]] = {
    "sound": (lambda tensors: tensors, None, "none", []),
    "cut short": (lambda tensors: tensors, 5_000, "truncated", []),
    "objects": (lambda tensors: {**tensors, "x": Thing()}, None, "more than tensors", []),
    "no numbers": (
        lambda tensors: {n: t * float("nan") if "q_proj.lora_B" in n else t for n, t in tensors.items()},
        None,
        "none",
        [f"model.layers.{layer}.self_attn.q_proj.lora_B.weight" for layer in (0, 1)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", PICKLES)
def test_a_file_of_torchs_own(stored: Callable[[Change], Path], tiny_llama: Path, kind: str) -> None:
    change, length, damage, nonfinite = PICKLES[kind]
    file = stored(lambda tensors: tensors)
    tensors = {name: value.clone() for name, value in load_file(file).items()}
    file.unlink()
    pickled = file.with_name("adapter_model.bin")
    torch.save(change(tensors), pickled)
    pickled.write_bytes(pickled.read_bytes()[:length])
    seen = facts(pickled, tiny_llama, "bare")
    assert damage in seen.stored_damage and (seen.stored_nonfinite or []) == nonfinite
    assert seen.stored_unread == ([] if kind in ("sound", "no numbers") else None)


def test_names_of_another_wrapper_in_a_file_of_torchs_own(stored: Callable[[Change], Path], tiny_llama: Path) -> None:
    file = stored(lambda tensors: tensors)
    tensors = {f"module.{name}": value.clone() for name, value in load_file(file).items()}
    file.unlink()
    torch.save(tensors, file.with_name("adapter_model.bin"))
    seen = facts(file, tiny_llama, "bare")
    assert seen.stored_foreign == "begin with module." and len(seen.stored_unread) == len(tensors)
