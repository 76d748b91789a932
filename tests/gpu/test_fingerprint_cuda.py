"""The kernel gives the numbers of the definition, sees every bit, holds no memory and reads at memory speed."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from qlora_doctor.probes.observing import fingerprint_cuda  # noqa: E402
from qlora_doctor.probes.observing.fingerprint import CHUNK, fingerprint, fingerprints  # noqa: E402

SIZES = [1, 7, 8, 9, 15, 16, 17, 4095, CHUNK * 8 - 1, CHUNK * 8, CHUNK * 8 + 1, 3 * CHUNK * 8 + 77]


def test_the_kernel_is_there(cuda: torch.device) -> None:
    """A CUDA build of torch brings NVRTC along; without the kernel all below would test the plain path only."""
    assert fingerprint_cuda._kernel(cuda.index) is not None


@pytest.mark.parametrize("plain", [False, True], ids=["kernel", "plain torch"])
@pytest.mark.parametrize("size", SIZES)
def test_same_numbers_as_on_the_cpu(
    cuda: torch.device, size: int, plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if plain:
        monkeypatch.setattr(fingerprint_cuda, "_kernel", lambda device: None)
    data = torch.randint(0, 256, (size,), dtype=torch.uint8)
    assert fingerprint(data.to(cuda)) == fingerprint(data)


def test_many_tensors_in_one_launch(cuda: torch.device) -> None:
    on_cpu = {f"t{n}": torch.randn(n * 37 % 5000 + 1) for n in range(300)}
    on_cpu |= {"empty": torch.empty(0), "transposed": torch.randn(40, 50).T, "bf16": torch.randn(99).bfloat16()}
    on_cuda = {name: tensor.to(cuda) for name, tensor in on_cpu.items()}
    on_cuda["transposed"] = on_cpu["transposed"].T.contiguous().to(cuda).T
    assert not on_cuda["transposed"].is_contiguous()
    on_cuda["between words"] = torch.arange(100, dtype=torch.uint8, device=cuda)[3:90]
    on_cpu["between words"] = torch.arange(100, dtype=torch.uint8)[3:90]
    assert fingerprints(on_cuda) == fingerprints(on_cpu)


def test_every_single_bit_counts(cuda: torch.device) -> None:
    data = torch.zeros(CHUNK * 8 + 21, dtype=torch.uint8, device=cuda)
    seen = {fingerprint(data)}
    for position in (0, 7, 8, 15, 16, CHUNK * 8 - 1, CHUNK * 8, CHUNK * 8 + 20):
        for bit in range(8):
            data[position] ^= 1 << bit
            seen.add(fingerprint(data))
            data[position] ^= 1 << bit
    assert len(seen) == 1 + 8 * 8


def test_takes_little_memory_and_keeps_none(cuda: torch.device) -> None:
    data = torch.randint(0, 256, (1 << 30,), dtype=torch.uint8, device=cuda)
    fingerprint(data)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    fingerprint(data)
    assert torch.cuda.memory_allocated() == before
    assert torch.cuda.max_memory_allocated() - before < 1 << 20


def test_plain_path_stays_within_its_bound(cuda: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint_cuda, "_kernel", lambda device: None)
    data = torch.randint(0, 256, (1 << 28,), dtype=torch.uint8, device=cuda)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    fingerprint(data)
    assert torch.cuda.max_memory_allocated() - before <= 40 << 20
