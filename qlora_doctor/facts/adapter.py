"""The adapter as PEFT attached it (stage ``structure``, or live objects)."""

from .base import Fact


class UnmatchedTarget(Fact):
    """A name in target_modules that no module of the model has."""

    target: str
    closest: list[str]
    """Module kinds of this model that are nearest in spelling or hold the same projection, best first."""


class ProjectionCoverage(Fact):
    """One column of the layer × projection matrix."""

    projection: str
    """Name inside the layer, e.g. ``self_attn.q_proj``."""
    layers: list[int]
    """Layers that have this projection."""
    adapted: list[int]
    """Layers in which it carries an adapter."""
    four_bit: list[int]
    """Layers in which its weight is (or will be) 4-bit."""


class TrainableGroup(Fact):
    """Trainable parameters of one kind."""

    group: str
    """``lora``, ``dora``, ``modules_to_save``, ``embeddings``, ``head``, ``bias``, ``norm``, ``base``."""
    parameters: int
    ratio: float
    """Share of all logical parameters."""


class StoredMisfit(Fact):
    """A tensor of a stored adapter whose shape is another one than PEFT makes for this base."""

    tensor: str
    """Name of the module and its part, e.g. ``model.layers.0.self_attn.q_proj.lora_A.weight``."""
    stored: list[int]
    expected: list[int]


class AdapterFacts(Fact):
    """What LoRA was attached to, and what trains."""

    attached: bool | None = None
    failure: str | None = None
    """``none`` where the adapter attached, else why PEFT refused: ``no-match``, ``empty-targets``,
    ``no-default-targets``, ``unsupported-class``, ``dropout-with-parameters``, ``quantized-init``, ``mamba-fused``,
    ``no-modules-to-save``, ``refused-options`` (options that exclude each other), ``stored-adapter`` (an adapter that
    is continued does not go into this base), ``endless-pattern`` (a regular expression that is never done with the
    names of the modules), ``quantized-head`` (the head that it trains in full is 4-bit), ``other``."""
    failure_message: str | None = None

    stored_tensors: int | None = None
    """Tensors in the file of the adapter that is continued; None where there is none, or none that can be read."""
    stored_misfits: list[StoredMisfit] | None = None
    """Those of another shape than the adapter has on this base; PEFT stops at them. ``[]`` for a new adapter."""
    stored_unread: list[str] | None = None
    """Those that no module of the base takes; PEFT skips them and gives no warning. ``[]`` for a new adapter."""
    stored_missing: list[str] | None = None
    """Parts of the adapter that the file lacks, which start again; PEFT warns. ``[]`` for a new adapter."""

    stored_damage: str | None = None
    """Why the file of the adapter cannot be read, as a sentence; ``none`` where it can, or where nothing is stored."""
    stored_nonfinite: list[str] | None = None
    """Its tensors with NaN or infinite values. ``[]`` for a new adapter."""
    stored_foreign: str | None = None
    """What its names have, or lack, beside those that PEFT writes, as the end of "they …": ``begin with _orig_mod.``;
    ``none`` where they are PEFT's, or where that is not the reason for tensors without a place."""

    matched_modules: list[str] | None = None
    matched_parameters: list[str] | None = None
    """Parameters adapted through target_parameters."""
    unmatched_targets: list[UnmatchedTarget] | None = None
    fused_targets: list[UnmatchedTarget] | None = None
    """Of the unmatched ones, those whose projection lives inside a fused weight (``closest`` names it)."""
    unsupported_targets: list[str] | None = None
    """Modules that match but whose class LoRA cannot adapt, as ``name (Class)``."""

    patterns_without_match: list[str] | None = None
    """Keys of rank_pattern and alpha_pattern that PEFT's rule finds in the name of no adapted module."""
    layers_beyond: list[int] | None = None
    """Numbers in layers_to_transform that no layer of the model has."""

    trainable_parameters: int | None = None
    total_parameters: int | None = None
    """Logical: a 4-bit weight counts its elements, adapter included."""
    trainable_ratio: float | None = None
    packed_parameters: int | None = None
    """What a plain sum of ``numel()`` reads: 4-bit weights are packed two to a byte."""
    trainable_groups: list[TrainableGroup] | None = None
    expected_trainable_parameters: int | None = None
    """r × (in + out) summed over the matched modules, plus modules_to_save and the biases asked for."""

    adapted_layers: int | None = None
    total_layers: int | None = None
    layer_coverage_ratio: float | None = None
    adapted_linear_parameters: int | None = None
    linear_coverage_ratio: float | None = None
    """Share of the linear weights of the layers (output head left out) that carry an adapter."""
    projections: list[ProjectionCoverage] | None = None
    conv1d_modules: list[str] | None = None
    """Adapted layers of class Conv1D (weight stored transposed)."""
    adapted_classes: list[str] | None = None
    """Classes of the adapted layers as ``Class × count``."""

    expert_parameters_adapted: int | None = None
    expert_coverage_ratio: float | None = None
    """Share of the routed experts' weights that carry an adapter; None where the model has none."""
    shared_experts_only: bool | None = None
    """True where adapters sit on shared experts or dense layers of a mixture and on no routed expert."""
    router_modules: list[str] | None = None
    head_adapted: bool | None = None
    embeddings_adapted: bool | None = None
    tied_weights_trained: list[str] | None = None
    """Modules that share a tied weight and are adapted or trained, so that both ends drift apart."""
    saved_modules: list[str] | None = None
    """Modules trained in full through modules_to_save."""
    unmatched_modules_to_save: list[str] | None = None
    targets_also_saved: list[str] | None = None
    """Modules that are both adapted and saved in full; PEFT lets one of them win."""
    random_heads: list[str] | None = None
    """Heads that are newly initialised for the task and neither trained nor saved."""
    fully_trained_embedding_parameters: int | None = None
    base_parameters_trainable: list[str] | None = None
    """Base tensors that require a gradient and are no part of the adapter, modules_to_save or bias."""
    float16_trainable_lora: int | None = None
    """Trainable adapter parameters held in float16."""
    float16_trainable_saved: int | None = None
    """Trainable parameters of modules_to_save held in float16."""
    active_adapters: list[str] | None = None
    irregular: bool | None = None
    """PEFT's own status says that layers disagree about the active adapter, requires_grad or merging."""
    all_frozen: bool | None = None
    """True where adapters are attached and not one of their parameters requires a gradient."""
    trains: bool | None = None
    """True where the adapter is attached, switched on, not merged, and something of it requires a gradient."""
    nested: bool | None = None
    """True where a PeftModel wraps another PeftModel."""
    task_type: str | None = None
    task_type_expected: str | None = None
    """The task type that fits the class of the model."""
    bypassed_modules: list[str] | None = None
    """Adapted layers whose weight is read past the module's forward (Mamba's conv1d), as its kernels, where they are
    installed here, read that of out_proj."""
    kernel_fed_modules: list[str] | None = None
    """Adapted 16-bit layers whose weight a fused kernel would read where it is installed, which it is not here."""
    enabled: bool | None = None
    """False where the adapter layers are switched off (``disable_adapter_layers``), as PEFT's model status says."""
    merged_adapters: list[str] | None = None
    """Adapters whose weights are merged into the base; a merged layer's forward passes its LoRA matrices by."""
    inference_mode: bool | None = None
    """``inference_mode`` of PEFT's config: True where the adapter was loaded without ``is_trainable=True``."""
    bias_parameters: int | None = None
    """Parameters of the base's own biases that train through LoraConfig's ``bias`` (0 where it asks for none)."""
    lora_b_zero: bool | None = None
    """True where every lora_B is exactly zero, so that the adapter starts as identity."""
