"""The traces that come with the package: small, without torch, and what a trace of the model in full says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from qlora_doctor.memory.folded import STATES
from qlora_doctor.memory.machine import Machine
from qlora_doctor.memory.replay import replay_peaks
from qlora_doctor.memory.shipped import MODELS, Variant, fits_versions, shipped_for, variant_of, variants
from qlora_doctor.setup.changed import with_value
from qlora_doctor.tables.cards import find_card
from qlora_doctor.tables.traces import read
from qlora_doctor.writing.starter import starter_config, starter_setup
from tools.traces import setup_of

FOLDER = Path(__file__).resolve().parents[2] / "qlora_doctor" / "tables" / "traces"

WITHOUT_TORCH = """
import importlib.abc, importlib.metadata, importlib.util, sys
GONE = {"torch", "transformers", "peft", "bitsandbytes", "accelerate", "trl"}
class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in GONE:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
real, found = importlib.metadata.distribution, importlib.util.find_spec
def distribution(name):
    if name in GONE:
        raise importlib.metadata.PackageNotFoundError(name)
    return real(name)
importlib.metadata.distribution = distribution  # version() asks it
importlib.util.find_spec = lambda name, package=None: None if name in GONE else found(name, package)
from qlora_doctor.cli import main
main()
"""


def plan(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run("plan", *arguments)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT_TORCH, *arguments, "-q"]
    environment = os.environ | {"QLORA_DOCTOR_CACHE": "off", "COLUMNS": "300"}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (("--model", "meta-llama/Llama-3.1-8B", "--gpu", "rtx-4090", "--batch", "1", "--sequence", "1024"), "Yes: "),
        (("--model", "unsloth/Llama-3.2-3B", "--gpu", "t4", "--r", "8", "--batch", "1", "--sequence", "500"), "Yes: "),
        (("--model", "meta-llama/Llama-3.1-8B", "--gpu", "rtx-4090", "--batch", "4", "--sequence", "4096"), "No: "),
    ],
)  # fmt: skip
def test_answers_where_torch_is_not_installed(arguments: tuple[str, ...], answer: str) -> None:
    ended = plan(*arguments)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith(answer)
    assert "come with qlora-doctor" in ended.stdout
    if answer == "No: ":
        assert "Fits: batch 1 × " in ended.stdout and ", or batch 4 × 4,096 with " in ended.stdout


def test_a_table_says_where_what_comes_with_the_package_ends() -> None:
    """The model has positions for more tokens than its tapes reach: no reason to ask for torch."""
    arguments = "--model meta-llama/Llama-3.2-1B --gpu h100 --batch 1,2 --sequence 1024,2048"
    ended = plan(*arguments.split())
    assert ended.returncode == 0, ended.stderr
    assert "or batch 1 × 16,384 at least." in ended.stdout
    assert "Longest sequence at batch 1: at least 16,384 tokens." in ended.stdout


def test_a_cure_needs_no_torch_where_the_traces_are_there(tmp_path: Path) -> None:
    config = tmp_path / "large.yaml"
    text = starter_config("meta-llama/Llama-3.1-8B", "rtx-4090")
    for key, value in (("per_device_train_batch_size", 4), ("max_length", 4096)):
        text = re.sub(rf"(  {key}: )\d+", rf"\g<1>{value}", text)
    config.write_text(text)
    ended = run("cure", str(config), "--offline", "-o", str(tmp_path / "cured.yaml"))
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("Batch 1 × 64 accumulated instead of 4 × 16: ")
    assert "Checked again: no error, peak " in ended.stdout
    assert "per_device_train_batch_size: 1" in (tmp_path / "cured.yaml").read_text()


def test_what_does_not_come_with_the_package_asks_for_torch() -> None:
    ended = plan("--model", "google/gemma-2-27b", "--gpu", "rtx-4090", "--batch", "1", "--sequence", "512")
    assert ended.returncode == 3
    assert "which are not installed" in ended.stderr


def test_all_are_there_and_small() -> None:
    files = list(FOLDER.glob("*.traces"))
    assert {path.name for path in files} == {variant.file for variant in variants()}
    assert len(MODELS) == 20
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 3_000_000


def test_a_setup_is_recognised_by_what_a_trace_depends_on() -> None:
    setup = starter_setup("unsloth/Llama-3.2-1B", "rtx-4090")
    assert variant_of(setup) == Variant("meta-llama/Llama-3.2-1B", "transformers", "all-linear", True)
    for path, value in (("learning_rate", 1e-5), ("r", 64), ("max_length", 4096), ("optim", "adamw_8bit")):
        assert variant_of(with_value(setup, path, value)) is not None, path
    for path, value in (
        ("target_modules", ["q_proj"]),
        ("packing", True),
        ("gradient_accumulation_steps", 1),
        ("bnb_4bit_use_double_quant", False),
        ("attn_implementation", "eager"),
        ("neftune_noise_alpha", 5.0),
        ("optim", "adamw_torch"),
        ("use_dora", True),
        ("hardware.count", 2),
    ):
        assert variant_of(with_value(setup, path, value)) is None, path


def test_states_are_those_of_the_traced_optimizers() -> None:
    torch = pytest.importorskip("torch")
    from qlora_doctor.memory.optimizers import Optimizer
    from qlora_doctor.memory.tape import Tape
    from qlora_doctor.memory.trace import Recorder

    for name, states in STATES.items():
        for shape in ((16, 64), (16, 4096), (64, 4096)):
            parameter = torch.nn.Parameter(torch.empty(shape, device="meta"))
            tape = Tape()
            with Recorder(tape) as recorder:
                recorder.keep(optimizer := Optimizer(name, recorder))
                optimizer.step([parameter])
                recorder.close()
            shared = [1024, 1024] if "8bit" in name and parameter.numel() >= 4096 else []
            assert tape.sizes == shared + states(parameter.numel(), 4), name


HELD = [
    (Variant("Qwen/Qwen2.5-0.5B", "transformers", "all-linear", True), "rtx-4090", 1, 2048, 16, 16),
    (Variant("Qwen/Qwen2.5-0.5B", "trl", "qkvo", False), "h100", 4, 1024, 32, 2),
    (Variant("meta-llama/Llama-3.2-1B", "transformers", "all-linear", False), "t4", 3, 501, 64, 5),
]


@pytest.mark.parametrize(("variant", "card", "batch", "sequence", "rank", "accumulation"), HELD)
def test_equals_a_trace_of_the_model_in_full(
    variant: Variant, card: str, batch: int, sequence: int, rank: int, accumulation: int
) -> None:
    """``make traces`` holds a fifth of all of them so."""
    pytest.importorskip("trl")
    if not fits_versions() or read(variant.file) is None:
        pytest.skip("other versions are installed than those that were traced")
    from qlora_doctor.memory.predict import traced
    from qlora_doctor.memory.subject import subject_of_setup

    setup = with_value(setup_of(variant, card), "lora.r", rank)
    setup = with_value(setup, "gradient_accumulation_steps", accumulation)
    shipped = shipped_for(setup)
    assert shipped is not None
    machine = Machine(find_card(card))
    found = shipped.scalable(machine, batch, sequence)
    assert found is not None
    subject = subject_of_setup(setup, batch=batch, sequence=sequence, offline=True)
    assert replay_peaks(found.at(batch, sequence), machine) == replay_peaks(traced(subject, machine), machine)


def test_a_cure_among_what_comes_with_the_package_builds_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    from qlora_doctor.memory.cure import Room, Search
    from qlora_doctor.memory.folded_search import FoldedSearch
    from qlora_doctor.memory.levers import levers_of
    from qlora_doctor.memory.stage import machine_for

    if not fits_versions():
        pytest.skip("other versions than those that were traced")
    setup = starter_setup("Qwen/Qwen2.5-0.5B", "rtx-4090")
    setup = with_value(setup, "training.per_device_train_batch_size", 4)

    def refused(*arguments: object, **named: object) -> None:
        raise AssertionError("a model is built")

    monkeypatch.setattr("qlora_doctor.memory.subject.subject_of_setup", refused)
    card = find_card("rtx-4090")
    around = (setup, lambda changed: machine_for(changed, card), lambda changed: None, Room(reserved=24 << 30), None)
    lever = next(each for each in levers_of(setup) if each.kind == "batch")
    cure = Search(*around).predicted((lever,))
    other = FoldedSearch(*around).predicted((lever,))
    assert cure is not None and other is not None
    assert cure.peak_allocated_bytes == other.peak_allocated_bytes
    whole = Search(*around).prediction(setup).peak_reserved_bytes
    assert cure.peak_reserved_bytes is not None and cure.peak_reserved_bytes < whole


@pytest.mark.parametrize("model", ["Qwen/Qwen2.5-0.5B", "meta-llama/Llama-3.2-1B"])
def test_stacks_of_few_layers_tell_what_is_in_use(model: str) -> None:
    from qlora_doctor.memory.moments import most_in_use
    from qlora_doctor.memory.shipped import shipped_tape
    from qlora_doctor.memory.stage import machine_for

    if not fits_versions():
        pytest.skip("other versions than those that were traced")
    setup = with_value(starter_setup(model), "training.max_length", 1024)
    shipped, machine = shipped_for(setup), machine_for(setup, find_card("l4"))
    found = shipped_tape(setup, machine)
    assert shipped is not None and found is not None
    exact, rough = most_in_use(found[1], machine), shipped.most_in_use(machine, 1, 1024)
    assert rough is not None and 0.97 * exact <= rough <= exact
