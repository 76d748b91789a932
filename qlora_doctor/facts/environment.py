"""What is installed and what hardware is there (stage ``config``): package metadata and NVML, no heavy import."""

from .base import Fact


class Gpu(Fact):
    """One CUDA device as the driver describes it."""

    index: int
    name: str
    memory_bytes: int
    free_bytes: int | None = None
    capability: float | None = None
    driver: str | None = None


class Packages(Fact):
    """Installed versions; None where a package is not installed."""

    torch: str | None = None
    transformers: str | None = None
    peft: str | None = None
    bitsandbytes: str | None = None
    accelerate: str | None = None
    trl: str | None = None
    datasets: str | None = None
    safetensors: str | None = None
    tokenizers: str | None = None
    flash_attn: str | None = None
    deepspeed: str | None = None
    liger_kernel: str | None = None
    unsloth: str | None = None
    axolotl: str | None = None
    llamafactory: str | None = None
    kernels: str | None = None
    gptqmodel: str | None = None
    optimum: str | None = None
    optimum_quanto: str | None = None
    autoawq: str | None = None
    aqlm: str | None = None
    hqq: str | None = None
    eetq: str | None = None
    compressed_tensors: str | None = None
    torchao: str | None = None
    schedulefree: str | None = None
    torch_npu: str | None = None


class EnvironmentFacts(Fact):
    """The machine that judged; ``gpus`` is empty where NVML answered that there is none, None where it is unknown."""

    tool_version: str
    python: str
    platform: str
    packages: Packages
    gpus: list[Gpu] | None = None
    driver: str | None = None
    nvml_error: str | None = None
    torch_cuda: str | None = None
    """CUDA version torch was built for, from its metadata; ``cpu`` for a CPU build, None where unknown."""
    bitsandbytes_backends: list[str] | None = None
    """Native libraries that the installed bitsandbytes holds: ``cpu``, ``cuda130``, ``rocm63``, …"""
    bitsandbytes_matches_torch: bool | None = None
    """True where bitsandbytes holds a native library for the CUDA version of the installed torch; None without GPU."""
    bitsandbytes_native_missing: bool | None = None
    """True where a GPU is present and no CUDA library of bitsandbytes can serve it."""
    host_memory_bytes: int | None = None
    host_available_bytes: int | None = None
    cpu_count: int | None = None
