"""Versions, GPUs and native libraries, told without a heavy import."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qlora_doctor.facts.environment import Gpu
from qlora_doctor.probes import environment
from qlora_doctor.probes.environment import look_at_environment, version_tuple

GPU = Gpu(index=0, name="NVIDIA L4", memory_bytes=24 * 2**30, capability=8.9)


def test_versions_are_those_of_the_metadata() -> None:
    packages = look_at_environment().packages.model_dump()
    names = {"flash_attn": "flash-attn", "liger_kernel": "liger-kernel"}
    for name, version in packages.items():
        try:
            expected = metadata.version(names.get(name, name))
        except metadata.PackageNotFoundError:
            expected = None
        assert version == expected, name


def test_torch_is_read_not_imported() -> None:
    torch = pytest.importorskip("torch")
    assert look_at_environment().torch_cuda == (torch.version.cuda or "cpu")


@pytest.mark.parametrize(
    ("text", "cuda"),
    [
        ("cuda: Optional[str] = '12.8'\nhip: Optional[str] = None", "12.8"),
        ("cuda: Optional[str] = None\nhip: Optional[str] = None", "cpu"),
        ("cuda: Optional[str] = None\nhip: Optional[str] = '6.3'", None),
        ("cuda = '11.8'", "11.8"),
        ("nothing of the kind", None),
        (None, None),
    ],
)
def test_the_cuda_version_of_torch(monkeypatch: pytest.MonkeyPatch, text: str | None, cuda: str | None) -> None:
    monkeypatch.setattr(environment, "_file_text", lambda *names: text)
    assert environment._torch_cuda() == cuda


@pytest.mark.parametrize(
    ("gpus", "torch_cuda", "backends", "version", "expected"),
    [
        ([], "12.8", ["cpu", "cuda128"], "0.50.0", (None, None)),
        (None, "12.8", ["cpu", "cuda128"], "0.50.0", (None, None)),
        ([GPU], None, ["cpu"], "0.50.0", (None, None)),
        ([GPU], "12.8", None, None, (None, None)),
        ([GPU], "12.8", ["cpu", "cuda128"], "0.49.0", (True, False)),
        ([GPU], "12.9", ["cpu", "cuda128"], "0.49.0", (False, True)),
        ([GPU], "12.9", ["cpu", "cuda128"], "0.50.0", (True, False)),
        ([GPU], "13.0", ["cpu", "cuda128"], "0.50.0", (False, True)),
        ([GPU], "cpu", ["cpu", "cuda128"], "0.50.0", (False, True)),
    ],
)
def test_native_libraries(
    monkeypatch: pytest.MonkeyPatch,
    gpus: list[Gpu] | None,
    torch_cuda: str | None,
    backends: list[str] | None,
    version: str | None,
    expected: tuple[bool | None, bool | None],
) -> None:
    monkeypatch.delenv("BNB_CUDA_VERSION", raising=False)
    assert environment._native_library(gpus, torch_cuda, backends, version) == expected


def test_the_files_of_bitsandbytes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("libbitsandbytes_cpu.so", "libbitsandbytes_cuda130.so", "libbitsandbytes_rocm63.so", "x.py"):
        (tmp_path / name).touch()
    found = SimpleNamespace(locate_file=lambda name: tmp_path)
    monkeypatch.setattr(environment.metadata, "distribution", lambda name: found)
    assert environment._bitsandbytes_backends() == ["cpu", "cuda130", "rocm63"]


@pytest.mark.parametrize(
    ("visible", "expected"),
    [(None, [0, 1, 2]), ("1", [1]), ("2,0", [2, 0]), ("", []), ("-1", []), ("0,7,1", [0]), ("GPU-8a", [0, 1, 2])],
)
def test_hidden_gpus(monkeypatch: pytest.MonkeyPatch, visible: str | None, expected: list[int]) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    cards = [GPU.model_copy(update={"index": index}) for index in range(3)]
    assert [gpu.index for gpu in environment._visible(cards)] == expected


def test_nvml_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    pynvml = pytest.importorskip("pynvml")

    def refuse() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NO_PERMISSION)

    monkeypatch.setattr(environment, "_has_nvml", lambda: True)
    monkeypatch.setattr(pynvml, "nvmlInit", refuse)
    gpus, driver, problem = environment._gpus()
    assert gpus is None and driver is None and problem


def test_nvml_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    pynvml = pytest.importorskip("pynvml")
    answers: dict[str, Any] = {
        "nvmlInit": None,
        "nvmlShutdown": None,
        "nvmlSystemGetDriverVersion": b"570.1",
        "nvmlDeviceGetCount": 1,
        "nvmlDeviceGetHandleByIndex": 0,
        "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=24 * 2**30, free=20 * 2**30),
        "nvmlDeviceGetCudaComputeCapability": (12, 0),
        "nvmlDeviceGetName": "NVIDIA L4",
    }
    for name, answer in answers.items():
        monkeypatch.setattr(pynvml, name, lambda *a, answer=answer: answer)
    monkeypatch.setattr(environment, "_has_nvml", lambda: True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    gpus, driver, problem = environment._gpus()
    assert problem is None and driver == "570.1" and gpus is not None
    assert (gpus[0].name, gpus[0].capability, gpus[0].free_bytes) == ("NVIDIA L4", 12.0, 20 * 2**30)


@pytest.mark.parametrize(
    ("version", "expected"),
    [("2.13.0+cpu", (2, 13, 0)), ("5.0.0rc1", (5, 0, 0)), ("0.50.dev0", (0, 50)), (None, None), ("x", None)],
)
def test_version_tuples(version: str | None, expected: tuple[int, ...] | None) -> None:
    assert version_tuple(version) == expected
