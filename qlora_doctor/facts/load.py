"""The base as from_pretrained really loaded it (stage ``load``, or live objects)."""

from .base import Fact


class ModuleClass(Fact):
    """Modules of one class with the same quantization."""

    module_class: str
    modules: int
    parameters: int
    quant_type: str | None = None
    storage_dtype: str | None = None
    compute_dtype: str | None = None
    nested: bool | None = None


class QuantizationError(Fact):
    """Error of one layer's 4-bit weight against the checkpoint's own weight."""

    module: str
    relative_error: float
    """‖W4 − W‖ / ‖W‖ (Frobenius)."""
    max_error: float


class LoadFailure(Fact):
    """Why a load or a step ended early."""

    kind: str
    """``none`` where it ended well; else ``missing-file``, ``truncated``, ``corrupt``, ``wrong-shape``,
    ``pickle-only``, ``remote-code``, ``out-of-memory``, ``host-out-of-memory``, ``disk``, ``needs-gpu`` (this machine
    lacks it, no fault of the setup), ``timeout``, ``killed``, ``interrupted``, ``dtype-mismatch``, ``no-rows`` (the
    data gives none), ``no-gradient``
    (backward found no graph: "element 0 of tensors does not require grad"), ``float16-gradients`` (the gradient scaler
    refused float16 gradients), ``no-adapter`` (the trainer refused a quantized model without adapters),
    ``token-out-of-range`` (the batch holds ids that the embedding has no row for), ``adapted-router`` (in the forward
    of a router that LoRA adapts), ``other``."""
    message: str
    phase: str | None = None
    """What was under way: ``load``, ``prepare``, ``attach``, ``batch``, ``forward``, ``backward``, ``optimizer``, …"""
    module: str | None = None
    """The innermost adapted module whose forward was under way, by its plain name; None where there was none."""


class LoadFacts(Fact):
    """The loaded state, before any training."""

    device: str | None = None
    devices: dict[str, int] | None = None
    """Bytes of parameters and buffers on each device."""
    seconds: float | None = None
    bytes_read: int | None = None
    peak_allocated_bytes: int | None = None
    """Highest CUDA allocation during the load; None on the CPU."""
    classes: list[ModuleClass] | None = None
    bytes_by_dtype: dict[str, int] | None = None
    """Packed weights count as ``uint8``, whatever dtype their bytes are stored as."""
    missing_quant_state: list[str] | None = None
    compute_dtypes: list[str] | None = None
    nested_ratio: float | None = None
    """Share of the 4-bit layers whose statistics are quantized again."""
    nonfinite_tensors: list[str] | None = None
    """Tensors of the base with NaN or infinite values."""
    missing_keys: list[str] | None = None
    unexpected_keys: list[str] | None = None
    mismatched_keys: list[str] | None = None
    newly_initialised: list[str] | None = None
    """Of the missing ones, those outside of a head that the task needs and no checkpoint holds."""
    quantization_errors: list[QuantizationError] | None = None
    mean_quantization_error: float | None = None
    max_quantization_error: float | None = None
    differences: list[str] | None = None
    """Where the loaded state differs from what structure predicted, one sentence each."""
    float32_upcast_bytes: int | None = None
    """Bytes that prepare_model_for_kbit_training really added."""
    adapter_file_frozen: bool | None = None
    failure: LoadFailure | None = None
