"""What a run has stored: an adapter's folder, a checkpoint, a merged model (stage ``stored``); from the files alone."""

from pydantic import Field

from .base import Fact


class ForeignPrefix(Fact):
    """A wrapper's part in the names of tensors, which no loader takes away."""

    prefix: str
    made_by: str
    tensors: int


class OtherShape(Fact):
    """A tensor whose shape is not what the config, or the base, makes it."""

    tensor: str
    stored: list[int]
    expected: list[int]


class LearnedModule(Fact):
    """What an adapter does to one module: ΔW = scaling · B · A."""

    module: str
    layer: int | None = None
    projection: str
    rank: int
    scaling: float
    norm: float
    """Frobenius norm of ΔW."""
    relative_norm: float | None = None
    """The same over the norm of W; None where the base's weights are not at hand."""
    effective_rank: float | None = None
    """exp of the entropy of the singular values' shares, 1…rank (Roy and Vetterli 2007); None for a ΔW of zero."""
    zero: bool
    """True where ΔW is exactly zero: B, or A, is zero everywhere."""


class Server(Fact):
    """Whether a program can serve the adapter as it is."""

    name: str
    status: str
    """``serves``, ``needs`` (with the option in ``note``), ``alters`` (it loads it, and serves something else),
    ``refuses``."""
    note: str | None = None


class Way(Fact):
    """One way to serve, measured against the adapter on the base that it was trained on."""

    way: str
    """``adapter-on-4bit``, ``adapter-on-16bit``, ``merged-16bit``, ``merged-dequantized``, ``merged-4bit``,
    ``merged-quantized-again``, ``merged-as-stored`` (the merged model that was looked at), ``base``."""
    divergence: float | None = None
    """Mean Kullback-Leibler divergence per token from the reference, in nats."""
    agreement_ratio: float | None = None
    """Share of tokens whose likeliest next token is the reference's."""
    perplexity: float | None = None
    kept_ratio: float | None = None
    """How much of what the adapter does is left: the change of the log-probabilities from the way's own base without
    the adapter, projected on the change that the adapter makes on the 4-bit base; 1 is all of it."""
    bytes: int | None = None
    peak_bytes: int | None = None
    prefill_tokens_per_second: float | None = None
    decode_tokens_per_second: float | None = None
    decode_spread: float | None = None
    """Standard deviation of the decode speed over the repetitions."""
    failure: str | None = None


class MergedTensor(Fact):
    """How one tensor of a merged checkpoint came about."""

    tensor: str
    verdict: str
    """``applied``, ``applied-to-dequantized``, ``applied-and-quantized``, ``not-applied``, ``twice``, ``other-scale``,
    ``without-magnitudes`` (DoRA as if it were LoRA), ``other-base``, ``not-finite``, ``undecided``."""
    scale: float | None = None
    """Of the adapter's change, by least squares: 1 where it was applied once."""
    residual: float | None = None
    """What the replay does not explain, over the spacing of the stored dtype; of packed weights the distance of the
    nearest explanation over that of the next."""


class StoredFacts(Fact):
    """What lies in a folder, and whether it is worth shipping."""

    folder: str | None = None
    kind: str | None = None
    """``adapter``, ``merged`` (a whole model), ``none``."""
    files: list[str] = Field(default_factory=list)
    bytes: int | None = None
    tensors: int | None = None
    dtypes: dict[str, int] | None = None
    """Elements by dtype, as safetensors names them."""
    weights: str | None = None
    """``whole``, ``missing``, ``truncated``, ``corrupt``, ``pickled``, ``empty``."""
    weights_failure: str | None = None
    sharded: str | None = None
    """Where no weights lie in the folder itself: the folder in it with the parts that the ranks wrote; ``none`` where
    there is none such."""
    inner: list[str] | None = None
    """Of a folder with neither adapter nor model: those in it that hold an adapter."""
    config_failure: str | None = None
    """Why adapter_config.json (or config.json) cannot be used; ``none`` where it can."""

    # -- complete
    foreign_prefixes: list[ForeignPrefix] | None = None
    unknown_tensors: list[str] | None = None
    """Tensors that are no part of an adapter."""
    named_after_adapter: bool | None = None
    """True where the adapter's name stands in those of the tensors (``lora_A.default.weight``), as in a state_dict:
    PEFT reads such names, other programs do not."""
    halves: list[str] | None = None
    """Modules that have one of the two matrices alone."""
    nonfinite: list[str] | None = None
    integer_tensors: list[str] | None = None
    """Tensors of LoRA that are stored as integers: PEFT reads these as if they were the values themselves."""
    eight_bit_tensors: list[str] | None = None
    """Matrices of LoRA that are stored as floats of one byte, with two or three bits of mantissa."""
    eight_bit_zero_ratio: float | None = None
    """Share of the numbers of these that are zero: beneath the smallest that such a float holds."""
    misfits: list[OtherShape] | None = None
    """Against rank and patterns of the config, and where they are known against the base's dimensions."""
    modules: int | None = None
    modules_not_in_base: list[str] | None = None
    """Modules that the base's checkpoint has no weight of; None where its headers are not at hand, or name things
    otherwise."""
    targets_without_tensors: list[str] | None = None
    """Names in target_modules of which no module is stored."""
    tensors_without_target: list[str] | None = None
    """Stored modules that the config does not target, so that PEFT leaves them unread."""
    layers_without_tensors: list[int] | None = None
    """Layers that lack a projection which others have, where the config does not leave them out."""
    magnitude: str | None = None
    """DoRA: ``ok``, ``missing`` (use_dora without magnitudes), ``unasked`` (magnitudes without use_dora)."""
    saved_missing: list[str] | None = None
    """Names in modules_to_save of which nothing is stored."""
    task_head_missing: bool | None = None
    """True where it is the head of task_type that is missing, which PEFT names by itself."""
    parts_missing: list[str] | None = None
    """What else the config says was trained and is not stored: rows of tokens, biases."""
    saved_unasked: list[str] | None = None
    """Whole modules that are stored and that modules_to_save does not name."""
    base_tensors: int | None = None
    """Tensors of the base itself in an adapter's file, as in a state_dict of the whole model."""
    base_tensor_bytes: int | None = None
    empty_tensors: list[str] | None = None
    """Tensors without a number, as a partitioned parameter is outside of its gathering."""
    init_changes_base: str | None = None
    """``init_lora_weights`` where it takes a part out of the base's weights and the adapter was not converted, else
    ``none``."""

    # -- what it is
    peft_type: str | None = None
    peft_version: str | None = None
    base: str | None = None
    base_named: bool | None = None
    base_elsewhere: bool | None = None
    """True where the base is named by a path that does not exist here."""
    base_revision: str | None = None
    """Of the base, as adapter_config.json records it."""
    base_commit: str | None = None
    """Of the base that is at hand, where its folder says it."""
    base_differences: list[str] | None = None
    """In what the base at hand, or that of the config, is not the one of the training, one sentence each; None where
    neither side says anything."""
    rank: int | None = None
    """The largest of the stored ranks."""
    scaling: float | None = None
    use_dora: bool | None = None
    use_rslora: bool | None = None
    bias: str | None = None

    # -- what it learned
    learned: list[LearnedModule] | None = None
    all_zero: bool | None = None
    """True where every ΔW is exactly zero."""
    zero_modules: list[str] | None = None
    """Modules with a ΔW of zero, where others have learned."""
    zero_layers: list[int] | None = None
    effective_rank: float | None = None
    """Median over the modules."""
    used_ratio: float | None = None
    """Median share of the rank that is used."""
    written_share: float | None = None
    """The share of lora_B's rows that hold numbers where it is the same part of nearly all modules and the rest is
    exactly zero; 1 of an adapter that is whole."""
    outliers: list[str] | None = None
    """Modules whose ΔW is far beyond those of the same projection in other layers."""
    modules_beyond_weights: list[str] | None = None
    """Modules whose ΔW has a root mean square above one: larger than any weight of a trained model."""
    carrying_layers: list[int] | None = None
    """The fewest layers that hold half of the squared norm of all ΔW."""

    # -- tokens and template
    tokenizer_rows: int | None = None
    base_rows: int | None = None
    embeddings_missing: bool | None = None
    """True where the tokenizer has tokens beyond the base's rows and no embeddings, or too few of them, are stored."""
    embedding_rows: int | None = None
    """Rows of the embeddings that are stored whole."""
    head_rows_missing: bool | None = None
    """True where new embeddings are stored and the output head, which is not tied to them, is not."""
    special_tokens_differ: list[str] | None = None
    """Special tokens that the folder's tokenizer sets otherwise than the base's, one sentence each."""
    template_differs: bool | None = None
    """True where folder and base have different chat templates."""

    training_source: str | None = None
    """What told of the tokenizer of the training: a report, a checkpoint, an adapter's folder, or the config."""
    training_differences: list[str] | None = None
    """In what the folder's tokenizer is not that of the training, one sentence each; None where nothing says it."""
    stops_missing: list[str] | None = None
    """Tokens that the training ended answers with and at which generation does not stop, one sentence each; None where
    one side is not known."""

    servers: list[Server] | None = None

    # -- a whole model
    quantization_config: str | None = None
    """Of config.json: ``4-bit``, ``8-bit``, a method's name, ``none``."""
    stale_quantization: bool | None = None
    """True where config.json speaks of quantized weights and those stored are 16-bit or 32-bit."""
    quantization_missing: bool | None = None
    """True where the weights are packed, with their statistics beside them, and config.json does not say so."""
    adapter_left: list[str] | None = None
    """Tensors of an adapter, or of wrapped layers, inside of a model that passes for a whole one."""
    missing_files: list[str] | None = None

    # -- a merge, replayed from base and adapter
    merge: str | None = None
    """``applied``, ``not-applied``, ``twice``, ``other-scale``, ``other-base``, ``partly``, ``without-magnitudes``,
    ``applied-to-dequantized``, ``applied-and-quantized``, ``not-finite``, ``undecided``."""
    merge_scale: float | None = None
    merge_tensors: list[MergedTensor] | None = None
    merge_note: str | None = None

    # -- a reload, held against what the run kept
    reload: str | None = None
    """``same``, ``differs``, ``as-base`` (it says what the base says without the adapter), ``other-weights`` (the file
    holds others than the adapter had at that moment); None where nothing was kept of this adapter."""
    reload_way: str | None = None
    """The base under which it comes nearest: ``adapter-on-4bit`` or ``adapter-on-16bit``."""
    reload_step: int | None = None
    """Optimizer steps that were done at that moment."""
    reload_divergence: float | None = None
    """Mean Kullback-Leibler divergence per token of the reloaded model from the trained one, in nats, over the tokens
    that were likeliest then and the rest as one."""
    base_divergence: float | None = None
    """The same of the base without the adapter: what the adapter does."""
    reload_agreement_ratio: float | None = None
    """Share of the tokens whose likeliest next token is the trained model's."""

    # -- the ways to serve
    ways: list[Way] | None = None
    best_way: str | None = None
    destroying_ways: list[str] | None = None
    """Ways that keep less than half of what the adapter does."""
    losing_ways: list[str] | None = None
    """Ways that keep half or more of it, and less than nine tenths."""
    data: str | None = None
    """What the ways were measured on: ``given`` rows or the ``built-in`` set, and how many tokens."""
