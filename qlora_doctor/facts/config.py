"""What the config means, flattened for judging (stage ``config``).

The sections of the config are values and where they come from; here they are conclusions: a value that the file does
not set stands with the default of the library (or dialect) that will read it, ``[]`` says "known to be none", and
``None`` says that it cannot be known from this file.
"""

from pydantic import Field

from .base import Fact
from .schedule import PreferenceFacts, ScheduleFacts


class HeldBudget(Fact):
    """A limit of a fact (in the fact's own unit) and how the fact stands to it."""

    fact: str
    max: int | float | None = None
    min: int | float | None = None
    level: str = "error"
    value: int | float | None = None
    status: str
    """``kept``, ``broken``, or ``unknown`` where the fact is."""
    sentence: str


class UnknownKey(Fact):
    """A key that the reader of this file ignores or refuses."""

    key: str
    closest: str | None = None
    meant: str | None = None
    """The canonical path that the closest key would set and of which the file says nothing else."""
    note: str | None = None


class AskedPackage(Fact):
    """A package that an option of the config needs."""

    name: str
    """As ``Packages`` has it."""
    by: str
    """The option, in words."""


class Remark(Fact):
    """Keys that together mean something else than they say, or that the trainer refuses."""

    id: str | None = None
    """Of a refusal in a trainer's catalogue, the row's id, which ``--ignore``, ``--select`` and ``explain`` know."""
    kind: str
    about: str | None = None
    """Of a refusal: ``quantization`` (switches that contradict each other), ``freezing`` (what trains),
    ``optimizer``, ``kernels``, ``distribution``, ``sharded-preference``, ``best-model`` (what load_best_model_at_end
    needs), ``generations`` (groups of answers), ``keys`` (names that the reader stops at), or ``trainer`` for all
    else."""
    key: str | None = None
    note: str | None = None


class Undecided(Fact):
    """A value that decides the run and that the config does not tell."""

    path: str
    """Canonical path, for example ``lora.r``."""
    why: str | None = None
    line: int | None = None
    """Where reading stopped, in the config's own file."""


class NotFollowed(Fact):
    """A statement of a script that changes the training and that no stage makes."""

    kind: str
    """``training-loop``, ``overridden-method`` (a trainer's), ``trainer`` (one that is not known), ``loss``,
    ``optimizer``, ``scheduler-by-hand``, ``collator``, ``callback``, ``monkey-patch``, ``module-replaced``, ``hook``,
    ``loop-over-model``, ``given-to-unread-code`` (the model is), or a change to something that is not known: ``cast``,
    ``requires-grad``, ``mode``, ``resize``, ``config`` (the model's), ``tokenizer``, ``add-tokens``. Of a trainer's
    compute_loss also ``loss-ignores-count`` and ``loss-takes-no-count``, of a loop ``scheduler-per-micro-batch``."""
    note: str
    file: str | None = None
    line: int | None = None
    cell: int | None = None


class Versions(Fact):
    """Versions that decide what a config means: those that its project asks for, else those that are installed.

    None where it asks for a range, and where a package is neither asked for nor installed.
    """

    torch: str | None = None
    transformers: str | None = None
    trl: str | None = None
    peft: str | None = None


class ConfigFacts(Fact):
    """Facts of the config file alone."""

    dialect: str | None = None
    dialect_confidence: float | None = None
    versions: Versions | None = None

    decided_by: list[str] | None = None
    """Canonical paths of what decides this run: model, 4 bits, rank, rate and batch, as far as the run has them."""
    undecided: list[Undecided] | None = None
    """Those of them that the config does not say, or for which it names a folder that is not here."""

    # -- model
    model: str | None = None
    model_kind: str | None = None
    """``folder``, ``table`` (a bundled architecture), ``hub`` (an id that is not at hand), ``adapter``, ``missing``,
    ``elsewhere`` (a path of a trainer's own file that is not on this machine)."""
    model_closest: str | None = None
    """The known hub id that the model's is a slip of: one letter in one word."""
    language_model: bool | None = None
    """False for a model of speech, images, proteins or the like, by its name, its type or the script's classes."""
    model_dtype: str | None = None
    """``dtype`` of from_pretrained, as torch names it (``bfloat16``), ``auto`` where left to the checkpoint."""
    attn_implementation: str | None = None
    trust_remote_code: bool | None = None
    stored_adapter: str | None = None
    """The adapter that the config loads and continues, as written; None where there is none."""
    adapter_base: str | None = None
    """``base_model_name_or_path`` of its adapter_config.json: the name of the base that it was trained on."""
    adapter_base_revision: str | None = None
    """``revision`` of that base, where it is recorded and the base is the config's own."""
    adapter_base_differs: bool | None = None
    """True where it was trained on another model, or on another revision, than the config loads.

    False where both are names of one model, and where the config continues no adapter; None where it cannot be known:
    a name that says nothing, a path of another machine, an adapter that is not here.
    """
    revision: str | None = None
    """``revision`` of the model, where the config gives one."""
    model_named_adapter: bool | None = None
    """True where the hub id's name ends as that of an adapter does (``-adapter``, ``-lora``)."""
    load_switches: list[str] | None = None
    """``load_in_4bit`` and ``load_in_8bit`` as arguments of from_pretrained itself, where they are on;
    transformers before 4.38 leaves them aside where there is a quantization_config."""
    load_switches_taken: bool | None = None
    """True where from_pretrained still takes them: before transformers 5."""
    quantization_written: bool | None = None
    """True where the config sets options of a quantization_config."""

    # -- quantization
    four_bit: bool | None = None
    eight_bit: bool | None = None
    bits_of_checkpoint: bool | None = None
    """True where the checkpoint is stored in 4 or 8 bits and the config does not ask for it."""
    quantization_backend: str | None = None
    """``bitsandbytes`` or another backend's name (``torchao``, ``hqq``, …); the facts of 4 bits that follow are those
    of bitsandbytes and None with another one."""
    quant_type: str | None = None
    double_quant: bool | None = None
    compute_dtype: str | None = None
    storage_dtype: str | None = None
    skip_modules: list[str] | None = None

    # -- adapter
    lora_r: int | None = None
    lora_alpha: float | None = None
    lora_dropout: float | None = None
    target_modules: list[str] | None = None
    """The list as given; a string (regex or ``all-linear``) is a list of one; ``[]`` is an explicitly empty list.

    ``None`` where the config is silent (PEFT's table for the architecture decides) or it is unknown.
    """
    modules_to_save: list[str] | None = None
    target_parameters: list[str] | None = None
    bias: str | None = None
    task_type: str | None = None
    use_rslora: bool | None = None
    use_dora: bool | None = None
    init_lora_weights: str | None = None
    """``true``, ``false``, or the name of an initialisation (``loftq``, ``pissa``, ``olora``, ``gaussian``, …)."""
    scaling: float | None = None
    """What LoRA multiplies its product with: alpha / r, or alpha / sqrt(r) with rsLoRA."""
    plain_alpha: float | None = None
    """The alpha with which LoRA without rsLoRA would scale the same: scaling times r; at least that where it is not
    known whether rsLoRA scales."""
    alpha_over_r: float | None = None
    pattern_ranks: bool | None = None
    """True where rank_pattern or alpha_pattern override r or alpha for some modules."""
    layers_to_transform: list[int] | None = None
    targets_also_saved: list[str] | None = None
    """Names that stand both in target_modules and in modules_to_save."""
    idle_initialisation_options: list[str] | None = None
    """Options of an initialisation (``loftq_config``, ``eva_config``, …) that init_lora_weights does not ask for."""
    keys_newer_than_peft: list[UnknownKey] | None = None
    """Keys of an adapter_config.json that the installed PEFT does not know and that are set to something."""
    peft_refuses_keys: bool | None = None
    """True where the installed PEFT stops at keys that it does not know: before 0.14."""

    # -- training
    trainer: str | None = None
    method: str | None = None
    """``sft``, ``dpo``, ``pretrain``, …; None where a command or a script decides."""
    compares_answers: bool | None = None
    """True for preference and reinforcement methods; False also where the method is not told and no word of a
    home-made file speaks of one."""
    loss_type: str | None = None
    """As the config sets it, several joined by commas; None where it is silent or unknown."""
    prepare_for_kbit_training: bool | None = None
    learning_rate: float | None = None
    optimizer: str | None = None
    batch: int | None = None
    eval_batch: int | None = None
    gradient_accumulation: int | None = None
    sequence: int | None = None
    sequence_is_default: bool | None = None
    """True where the file sets no length, so that the default of the trainer cuts the samples."""
    bf16: bool | None = None
    fp16: bool | None = None
    gradient_checkpointing: bool | None = None
    use_reentrant: bool | None = None
    use_cache: bool | None = None
    max_grad_norm: float | None = None
    packing: bool | None = None
    padding_free: bool | None = None
    liger: bool | None = None
    evaluates: bool | None = None
    """True where the config asks for evaluation during training."""
    neftune_noise_alpha: float | None = None
    schedule: ScheduleFacts | None = None
    """The trainer's arithmetic; None of trainers that count in a way of their own."""
    preference: PreferenceFacts | None = None
    """What a preference or reinforcement method holds the policy to; None where the method is unknown or another."""
    samples_mix: str | None = None
    """How packed or padding-free samples come to attend to each other: ``none``, ``attention`` (it does not see where
    samples end), ``wrapped`` (trl's strategy joins them), ``trainer`` (it hands over no borders)."""
    loss_mask_lost: str | None = None
    """Why the loss is on more than completions though these are asked for: ``format``, ``packing``, ``liger``; or
    ``none``."""
    head_targeted: bool | None = None
    """True where target_modules names the output head."""
    head_loss: str | None = None
    """What the loss is computed from: ``logits``, or the head's weight past its adapter (``liger``; ``trl``, which then
    refuses an adapter on the head)."""
    head_refused: bool | None = None
    """True where both are so: the head is named, and trl refuses that."""

    # -- hardware and distribution
    gpu: str | None = None
    gpu_memory_bytes: int | None = None
    """Memory that the target card really offers: of the named card, or of the one present."""
    gpu_capability: float | None = None
    """CUDA compute capability of the target card as major.minor, for example 7.5."""
    gpu_bf16: bool | None = None
    """True where the target card has bf16 arithmetic in hardware (compute capability 8.0 and above)."""
    gpu_source: str | None = None
    """``named`` in the config, ``present`` in this machine, or None: no card is known."""
    device_map: str | None = None
    distributed: str | None = None
    """``none``, ``ddp``, ``fsdp1``, ``fsdp2``, ``zero2``, ``zero3``, … where the config tells."""
    fsdp_loads_unsynced: bool | None = None
    """True where FSDP 1 loads on one rank alone (cpu_ram_efficient_loading) and sync_module_states is false."""
    world_size: int | None = None
    several_processes: bool | None = None
    """True where the config asks for a distributed run itself (FSDP, DeepSpeed, ``ddp_…``), not only for more cards."""
    launch: str | None = None
    """``alone``: the command or the notebook is one process; ``unsaid``: a launcher may start it; ``several``: the
    config asks for a distributed run; None where it cannot be known, or the trainer starts its processes itself."""
    visible_cards: int | None = None
    """Cards that one process of such a run sees, with all of the model on the first; None where it cannot be known."""
    find_unused_parameters: bool | None = None
    """What DistributedDataParallel is given; Trainer takes True for a PeftModel where nothing is said."""
    flattened_dtypes: list[str] | None = None
    """Floating-point dtypes that meet in one flat tensor of FSDP 1: the storage of 4-bit weights and that of norms."""

    # -- budgets
    budget_peak_memory_bytes: int | None = None
    budget_trainable_ratio_max: float | None = None
    budget_trainable_ratio_min: float | None = None
    budget_step_seconds: float | None = None
    budgets: list[HeldBudget] = Field(default_factory=list)
    """Budgets of the settings, each held against its fact; filled in when the last stage has ended."""
    broken_budgets: list[str] | None = Field(default_factory=list)
    """Those of level error that are broken, one sentence each; None where that cannot be known yet."""
    broken_budget_warnings: list[str] | None = Field(default_factory=list)
    """The same of level warning."""

    # -- the file itself
    unknown_keys: list[UnknownKey] | None = None
    stops_at_unknown_keys: bool | None = None
    """True where the reader of the file ends the run at them."""
    duplicate_keys: list[str] | None = None
    string_numbers: list[str] | None = None
    """Keys whose number was written so that YAML 1.1 reads a string (``2e-4``)."""
    removed_keys: list[UnknownKey] | None = None
    """Keys that the installed (or stated) version of the reader no longer accepts."""
    deprecated_keys: list[UnknownKey] | None = None
    """Keys, or values of theirs, that the reader still takes and warns of."""
    missing_packages: list[AskedPackage] | None = None
    """Packages that options of the config need and that are not installed here."""
    refused: list[Remark] | None = None
    """Combinations at which the trainer that reads the file stops by itself."""
    remarks: list[str] | None = None
    """Kinds of ``Remark`` that are no refusals: keys that mean something else than they say.

    ``reward-constant`` (no reward function of a script tells one completion from another),
    ``four-bit-switch-without-effect`` (axolotl: ``adapter: lora`` with ``load_in_4bit``), ``lora-switched-off``
    (``use_peft``, ``peft``, ``lora`` is false), ``lora-not-switched-on`` (it is missing beside options that need it),
    ``no-lora`` (another method than LoRA is asked for),
    ``quantization-switched-off`` (bits without a method), ``bf16-auto`` (bf16 where the GPU has it, else fp16),
    ``bf16-or-float32`` (the same where fp16 is declined),
    ``quantization-method-renamed`` (LLaMA-Factory: bitsandbytes is bnb since 0.9.3),
    ``string-numbers-converted`` (the reader turns numbers written as text into numbers), ``several-runs``,
    ``prepared-after-attach`` (a script prepares for k-bit training what has an adapter already), ``attached-twice``,
    ``checkpointing-arguments-replaced`` (those given to the model, by the trainer's),
    ``quantization-switch-of-from-pretrained`` (load_in_4bit as its argument, without a quantization_config),
    ``no-mixed-precision``, ``norms-not-upcast`` and ``packing-joins-samples`` (LLaMA-Factory), ``kernels-passed-by``
    (Unsloth's fast LoRA kernels do not run), ``launched-without-torchrun`` and ``evaluated-while-quantized``
    (LLaMA-Factory), ``zero3-with-plain-checkpointing``, ``slower-offloading``, ``fixed-tokens-not-trained``,
    ``kernels-by-default``, ``torch-too-old`` and ``optimizer-arguments-dropped``, ``held-out-unused`` (rows are held
    out of training and never evaluated), ``best-model-dropped`` (axolotl does not do what it asks
    for), ``reference-given`` (a script hands its trainer a reference model or names a reference adapter), of scripts
    ``adapter-never-active``, ``optimizer-before-adapter``, ``gradients-cleared-early``, ``optimizer-never-steps``,
    ``gradients-off``, ``initialisation-not-made``, ``layers-of-another-class``, ``base-saved`` (for the adapter),
    ``merged-into-4bit``, ``tokenizer-of-another-model``, ``quantization-not-passed``, ``base-of-random-weights``,
    ``method-not-called``, ``adapter-saved-below``, ``data-step-not-kept``, ``gradients-clipped-late``,
    ``schedule-of-one-epoch``, ``merge-not-kept``, ``resume-not-passed``, ``tokenizer-not-passed``,
    ``labels-not-found``, ``optimizer-made-anew``, ``left-in-eval-mode``, ``loss-kept-with-graph``,
    ``loaded-adapter-renewed``, ``best-adapter-not-loaded``, ``metrics-not-shifted``, ``ranks-never-allocated``
    (AdaLoRA), ``loaded-by-other-names`` and ``part-replaced-after-attach``.
    """
    not_followed: list[NotFollowed] | None = None
    """What a script does besides that changes the training; ``[]`` of a config."""
    adapter_cast: str | None = None
    """The dtype that a script casts the trainable parameters to once the adapter is attached; ``none`` where it does
    not."""
    loop_in_eval_mode: bool | None = None
    """True where a script's own loop trains the base as from_pretrained returns it: in evaluation mode."""
    remark_notes: list[Remark] | None = None
    """The same with the key and what is to be said of it."""
    template: str | None = None
    """The chat template that the file names, by the trainer's name for it."""
    model_family: str | None = None
    """What the model's name says of its vocabulary: ``Qwen``, ``Llama 3``; None where it tells nothing."""
    template_foreign_marks: list[str] | None = None
    """Control tokens that the template writes and the model's vocabulary does not have; ``[]``: it has all of them."""
    splits_overlap: str | None = None
    """Slices of one split that are trained on and evaluated on, in words; ``none`` where the file names none."""
    stale_prepared: str | None = None
    """Prepared data that is older than the file it was made of, in words; ``none`` where it is younger."""
    idle_four_bit_options: list[str] | None = None
    """bnb_4bit_* options that the file sets although it does not quantize to 4 bits; None where that is unknown."""
