"""The base model as built on the meta device (stage ``structure``)."""

from .base import Fact


class CheckpointQuantization(Fact):
    """How the checkpoint itself says that it is quantized (``quantization_config`` of its config.json)."""

    method: str
    bits: int | None = None
    quant_type: str | None = None
    double_quant: bool | None = None
    compute_dtype: str | None = None
    missing_packages: list[str] | None = None
    """Packages that transformers wants to load it and that are not installed here."""


class ClassMisfit(Fact):
    """A class that the config loads the model with, against the one that the checkpoint was saved from."""

    named: str
    own: str
    random: list[str]
    """Weights of the named class's base that the own class has not; they would start from random values."""
    unread: int
    """Weights of the own class's base that the named class has not; they would be left in the file."""
    weights: int
    """Weights that the named class's base has."""


class ModelFacts(Fact):
    """The base before any adapter. Parameter counts are logical (elements of the weights as designed); a tied weight
    counts once."""

    source: str | None = None
    """``folder`` or ``table``."""
    model_type: str | None = None
    architecture: str | None = None
    model_class: str | None = None
    """The class that was built, e.g. ``LlamaForCausalLM``."""
    class_misfit: ClassMisfit | None = None
    """The class that the config names against the checkpoint's own; None where it fits, or nothing tells."""
    class_fits: bool | None = None
    """Whether the class has no weights that the checkpoint's own lacks; true where the checkpoint names it."""
    dtype: str | None = None
    layers: int | None = None
    hidden_size: int | None = None
    vocab_size: int | None = None
    context_length: int | None = None
    tied_embeddings: bool | None = None
    total_parameters: int | None = None
    published_parameters: int | None = None
    embedding_parameters: int | None = None
    head_parameters: int | None = None
    """Parameters of the output head that are not shared with the embeddings (0 where tied)."""
    linear_parameters: int | None = None
    """Weights of all linear layers (nn.Linear and its subclasses, Conv1D), biases and output head left out."""
    linear_modules: int | None = None
    conv1d_modules: int | None = None
    expert_parameters: int | None = None
    """Weights of mixture-of-experts experts, in whatever form they are held."""
    expert_parameters_3d: int | None = None
    """Of these, the ones held as 3-D parameters, which bitsandbytes and target_modules do not reach."""
    fused_modules: list[str] | None = None
    """Kinds of layers that hold several projections in one weight (``qkv_proj``, ``gate_up_proj``, ``c_attn``)."""
    module_kinds: list[str] | None = None
    """Distinct last names of linear layers, the names that target_modules can match."""
    block_classes: list[str] | None = None
    """Classes of the modules that stand in the model's lists of layers."""
    wraps_missing: list[str] | None = None
    """Classes that the config tells FSDP to wrap and that no module of the model has."""
    remote_code: bool | None = None
    checkpoint_quantization: CheckpointQuantization | None = None
    checkpoint_conflicts: list[str] | None = None
    """Settings of the config that the checkpoint's own quantization overrides, as ``name: asked, has``."""
    supports_checkpointing: bool | None = None
    """Whether the class has gradient checkpointing (``supports_gradient_checkpointing``)."""
    prepare_error: str | None = None
    """Why prepare_model_for_kbit_training, or turning gradient checkpointing on, refuses the model."""
    prepare_error_kind: str | None = None
    """``none``, ``no-checkpointing`` (the class does not support it), ``other``."""
    build_error: str | None = None
    """Why the architecture could not be built; the other facts are then unknown."""
    build_error_kind: str | None = None
    """``none`` where it was built; else ``missing-config``, ``no-such-model`` (the hub says so),
    ``unknown-architecture``, ``remote-code``, ``invalid-config``, ``unsupported`` (a kind of model that no stage
    builds), ``other``; or how the check itself ended before it was: ``timeout``, ``killed``, ``interrupted``,
    ``host-out-of-memory``."""
