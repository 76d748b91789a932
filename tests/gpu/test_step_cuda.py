"""A real load and step on CUDA: peaks of the run alone, phases, and nothing left behind."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("bitsandbytes")

from qlora_doctor import pipeline  # noqa: E402
from qlora_doctor.probes.live.objects import examine_objects  # noqa: E402
from qlora_doctor.probes.load.look import look_at_load  # noqa: E402
from qlora_doctor.probes.observing import snapshot  # noqa: E402
from qlora_doctor.probes.observing.aside import aside  # noqa: E402
from qlora_doctor.probes.step.look import look_at_step  # noqa: E402
from tests.probes.conftest import make_setup, silent  # noqa: E402


def plain_peaks(setup: Any, device: torch.device) -> tuple[int, list[tuple[int, int]]]:
    """Load peak, and (allocated, reserved) of each step, as the user's script has them without the doctor."""
    from transformers import TrainerCallback

    class Peaks(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.steps: list[tuple[int, int]] = []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            torch.cuda.synchronize()
            self.steps.append((torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()))

    peaks = Peaks()
    base = pipeline.build_base(setup, device)
    load_peak = torch.cuda.max_memory_allocated()
    pipeline.prepare(base, setup)
    model = pipeline.attach(base, setup)
    batches = pipeline.make_batches(setup, model)
    pipeline.make_trainer(setup, model, batches, device, callbacks=[peaks]).train()
    return load_peak, peaks.steps


def clean() -> None:
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_same_peaks_as_without_the_doctor(
    cuda: torch.device, small_llama: Callable[[], Path], checkpointing: bool
) -> None:
    setup = make_setup(
        small_llama(),
        per_device_train_batch_size=4,
        max_length=512,
        gradient_checkpointing=checkpointing,
        lora={"r": 16, "lora_dropout": 0.05},
    )
    plain_peaks(setup, cuda)  # the first run of a process initialises libraries
    clean()
    load_peak, steps = plain_peaks(setup, cuda)
    clean()
    loaded = look_at_load(setup, cuda, silent)
    assert loaded.base is not None
    seen = look_at_step(setup, loaded.base, loaded.timeline, silent)
    assert seen.error is None and seen.measured is not None
    assert loaded.facts.peak_allocated_bytes == pytest.approx(load_peak, rel=0.01)
    own = [(step.allocated, step.reserved) for step in loaded.timeline.steps]
    for (allocated, reserved), (plain_allocated, plain_reserved) in zip(own, steps, strict=True):
        assert allocated == pytest.approx(plain_allocated, rel=0.01)
        assert reserved == pytest.approx(plain_reserved, rel=0.05)
    assert seen.measured.peak_allocated_bytes == max(allocated for allocated, _ in own)


def test_picture(cuda: torch.device, small_llama: Callable[[], Path]) -> None:
    setup = make_setup(small_llama(), per_device_train_batch_size=2, max_length=256)
    loaded = look_at_load(setup, cuda, silent)
    assert loaded.base is not None
    seen = look_at_step(setup, loaded.base, loaded.timeline, silent)
    picture, facts = seen.measured, seen.facts
    assert picture is not None and facts.failure is not None and facts.failure.kind == "none"
    assert picture.breakdown is not None and picture.peak_allocated_bytes == sum(picture.breakdown.values())
    assert picture.breakdown["base_4bit"] and picture.breakdown["adapter"] and picture.breakdown["activations"]
    assert picture.step_phases is not None
    assert {"load", "prepare", "forward", "backward", "optimizer"} <= {p.phase for p in picture.step_phases}
    assert picture.timeline is not None and 20 <= len(picture.timeline) <= 600
    assert [p.at for p in picture.timeline] == sorted(p.at for p in picture.timeline)
    assert max(p.allocated_bytes for p in picture.timeline) == picture.peak_allocated_bytes
    assert facts.changed_base_tensors == [] and facts.parameters_not_updated == []
    assert facts.adapter_identity and facts.adapter_effective and facts.gradients_sound


def test_own_work_leaves_the_allocator_as_it_was(cuda: torch.device) -> None:
    weights = torch.randn(1 << 20, device=cuda)
    before = (torch.cuda.memory_allocated(), torch.cuda.memory_reserved())
    with aside(cuda):
        own = torch.empty(512 << 20, dtype=torch.uint8, device=cuda)
        product = weights.view(1024, 1024) @ weights.view(1024, 1024)
        del own, product
    assert (torch.cuda.memory_allocated(), torch.cuda.memory_reserved()) == before


def test_fingerprinting_a_model_leaves_the_allocator_as_it_was(
    cuda: torch.device, small_llama: Callable[[], Path]
) -> None:
    base = pipeline.build_base(make_setup(small_llama()), cuda)
    before = (torch.cuda.memory_allocated(), torch.cuda.memory_reserved())
    taken = snapshot.take(base.model)
    assert taken.nbytes > 50 << 20
    assert (torch.cuda.memory_allocated(), torch.cuda.memory_reserved()) == before


def test_out_of_memory_is_a_sentence(cuda: torch.device, small_llama: Callable[[], Path]) -> None:
    """The allocator is given too little for the step: the stage ends typed, with what was seen before."""
    setup = make_setup(small_llama(), per_device_train_batch_size=8, max_length=1024, gradient_checkpointing=False)
    loaded = look_at_load(setup, cuda, silent)
    assert loaded.base is not None
    total = torch.cuda.get_device_properties(cuda).total_memory
    limit = torch.cuda.memory_reserved() + (256 << 20)
    torch.cuda.set_per_process_memory_fraction(limit / total)
    try:
        seen = look_at_step(setup, loaded.base, loaded.timeline, silent)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert seen.error is not None and seen.error.kind == "out-of-memory"
    assert seen.facts.failure is not None and seen.facts.failure.phase in ("forward", "backward", "optimizer")
    assert seen.facts.optimizer is not None and seen.facts.fingerprinted_tensors


def test_float16_with_a_gradient_scaler(cuda: torch.device, small_llama: Callable[[], Path]) -> None:
    """An overflow in the first steps is the scaler at work, not a fault."""
    setup = make_setup(small_llama(), bf16=None, fp16=True, max_length=128)
    loaded = look_at_load(setup, cuda, silent)
    assert loaded.base is not None
    facts = look_at_step(setup, loaded.base, loaded.timeline, silent).facts
    assert facts.failure is not None and facts.failure.kind == "none" and facts.autocast_dtype == "float16"
    assert facts.skipped_steps is not None
    if facts.skipped_steps < 2:
        assert facts.parameters_nonfinite_gradient == []
        assert facts.gradient_norm is not None and facts.gradient_norm < 1000, "unscaled"


def test_live_objects_are_left_as_found(cuda: torch.device, small_llama: Callable[[], Path]) -> None:
    setup = make_setup(small_llama(), lora={"lora_dropout": 0.1})
    base = pipeline.build_base(setup, cuda)
    pipeline.prepare(base, setup)
    model = pipeline.attach(base, setup)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    ids = torch.randint(0, 512, (2, 64), device=cuda)
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    before = snapshot.take(model)
    values = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    states = [{k: v.clone() for k, v in s.items()} for s in optimizer.state.values()]
    gradients = {name: p.grad for name, p in model.named_parameters()}
    random_state = torch.cuda.get_rng_state()
    facts = examine_objects(model, optimizer, {"input_ids": ids})
    assert facts.step is not None and facts.step.failure is not None and facts.step.failure.kind == "none"
    assert facts.memory is not None and facts.memory.measured is not None
    assert snapshot.take(model).fingerprints == before.fingerprints
    assert all(torch.equal(values[n], p) for n, p in model.named_parameters() if n in values)
    assert all(gradients[n] is p.grad for n, p in model.named_parameters())
    for old, new in zip(states, optimizer.state.values(), strict=True):
        assert all(torch.equal(value, new[key]) for key, value in old.items())
    assert torch.equal(random_state, torch.cuda.get_rng_state())
