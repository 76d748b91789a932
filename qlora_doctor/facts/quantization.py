"""What is 4-bit and what is not (stages ``structure`` and ``load``, or live objects)."""

from .base import Fact


class LinearLeftOut(Fact):
    """A linear layer that stays out of 4-bit; layers of the same kind are reported once."""

    name: str
    """Name with the layer's number as ``*``."""
    module_class: str
    modules: int
    parameters: int
    reason: str
    """``subclass``, ``skipped-by-default``, ``skipped-by-config``, ``kept-in-float32``, ``raw-parameter`` (no layer of
    its own), ``unknown``."""


class SkipMatch(Fact):
    """What an entry of llm_int8_skip_modules holds back."""

    entry: str
    modules: list[str]


class QuantizationFacts(Fact):
    """Coverage by 4-bit. ``quantizable``: every weight of a matrix product of the base, be it a linear layer, an expert
    or a parameter of some module, without output head and embeddings."""

    enabled: bool | None = None
    quantized_parameters: int | None = None
    quantizable_parameters: int | None = None
    coverage_ratio: float | None = None
    quantized_modules: int | None = None
    quantizable_modules: int | None = None
    left_out: list[LinearLeftOut] | None = None
    expert_parameters_left_out: int | None = None
    """Elements of experts held in one parameter for all of a layer, which stay in 16 or 32 bits."""
    raw_parameters_left_out: int | None = None
    """Elements of weights that a module holds itself, no linear layer and no expert (XLNet's attention)."""

    bits_per_parameter: float | None = None
    """True bits for each quantized weight: packed data, absmax, nested statistics, code tables."""
    expected_bits_per_parameter: float | None = None
    """4 + 8/64 + 32/(64·256) = 4.127 with double quantization, 4.5 without (QLoRA, section 3)."""
    base_bytes: int | None = None
    """Bytes of the whole base as it will be in memory."""
    base_bytes_ideal: int | None = None
    """What it would be if every quantizable weight were 4-bit."""
    bytes_by_dtype: dict[str, int] | None = None
    """Packed weights count as ``uint8``, whatever dtype their bytes are stored as."""

    quant_type: str | None = None
    double_quant: bool | None = None
    compute_dtype: str | None = None
    storage_dtype: str | None = None

    skip_entries: list[SkipMatch] | None = None
    skip_without_match: list[str] | None = None
    skip_overmatch: list[SkipMatch] | None = None
    """Entries that hold back layers whose own name is not the entry (a substring or prefix too many)."""
    head_quantized: bool | None = None
    """True where the output head is a 4-bit layer; one that is tied then lies over the embeddings' 16-bit weight."""
    classifier_quantized: list[str] | None = None
    """Newly initialised classification heads that are 4-bit."""
    heads_quantized: list[str] | None = None
    """Heads of a task (not the output head of a language model) that are 4-bit layers, new or stored."""
    packed_factors: list[str] | None = None
    """4-bit layers of which the model, or a kernel installed here, multiplies the weight as if it were numbers."""
    kernel_fed_packed: list[str] | None = None
    """4-bit layers whose packed weight a fused kernel would multiply where it is installed, which it is not here."""
    routers_quantized: list[str] | None = None
    uneven_modules: list[str] | None = None
    """Layers whose element count is no multiple of the block size (64)."""

    kbit_upcast_bytes: int | None = None
    """What prepare_model_for_kbit_training adds by casting 16-bit parameters to float32."""
    kbit_upcast_ratio: float | None = None
    """The same, as a share of the base's bytes before it."""
    float32_experts_bytes: int | None = None
