"""Setup: what a config means, whatever dialect it was written in.

A value that the file does not give is ``None`` here; ``origins`` says for every canonical path whether the value was
written down, is a default and whose, or cannot be known. Names are those of BitsAndBytesConfig, LoraConfig,
TrainingArguments and SFTConfig.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from ..core.as_json import Sparse
from ..core.place import Place
from ..tables.conditions import Condition
from .traits import NATIVE, Traits

Source = Literal["explicit", "dialect_default", "library_default", "unknown"]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, protected_namespaces=())


class Origin(_Section):
    """Where a value comes from."""

    source: Source
    place: Place | None = None
    note: str | None = None
    """Whose default (with its version), or why it cannot be known."""


@dataclass(frozen=True)
class OwnKey:
    """A key of a dialect that sets a canonical path.

    Attributes:
        key: dotted below the top of the file.
        convert: written value → what Setup takes; None where the two are the same, or the reader concludes it.
    """

    key: str
    convert: Callable[[Any], Any] | None = None


class Model(_Section):
    """``model``: a hub id or a folder, or a mapping with from_pretrained's names."""

    name_or_path: str | None = None
    revision: str | None = None
    dtype: str | None = None
    attn_implementation: str | None = None
    trust_remote_code: bool | None = None
    device_map: str | dict[str, Any] | None = None
    use_cache: bool | None = None
    adapter: str | None = None
    """Folder of an adapter to continue from (PeftModel.from_pretrained), instead of a fresh LoraConfig."""
    adapter_is_trainable: bool | None = None
    task: str | None = None
    """Which Auto class loads it: ``causal-lm``, ``image-text-to-text``, ``seq2seq-lm``, ``speech-seq2seq``,
    ``multimodal-lm``, ``sequence-classification``, ``token-classification``, ``multiple-choice`` or
    ``question-answering``; None leaves that to the checkpoint's ``architectures``."""
    model_class: str | None = None
    """The class of transformers that loads it by name: ``AutoModelForCausalLM``, ``MistralForCausalLM``, …"""
    num_labels: int | None = None
    extra: dict[str, Any] = {}
    """Further arguments of from_pretrained under their own names, passed on as they are."""


class Quantization(_Section):
    """BitsAndBytesConfig's names."""

    load_in_4bit: bool | None = None
    load_in_8bit: bool | None = None
    bnb_4bit_quant_type: str | None = None
    bnb_4bit_use_double_quant: bool | None = None
    bnb_4bit_compute_dtype: str | None = None
    bnb_4bit_quant_storage: str | None = None
    llm_int8_skip_modules: list[str] | None = None
    llm_int8_enable_fp32_cpu_offload: bool | None = None
    backend: str | None = None
    """``bitsandbytes`` where silent; other dialects name ``torchao``, ``hqq``, ``gptq``, …"""
    extra: dict[str, Any] = {}
    """Further arguments of BitsAndBytesConfig, passed on as they are."""


class Lora(_Section):
    """LoraConfig's names."""

    r: int | None = None
    lora_alpha: float | None = None
    lora_dropout: float | None = None
    target_modules: list[str] | str | None = None
    targets_beside_linear: list[str] | None = None
    """Names that a trainer adds to every linear layer, where target_modules is ``all-linear``: axolotl's add up."""
    exclude_modules: list[str] | str | None = None
    target_parameters: list[str] | None = None
    modules_to_save: list[str] | None = None
    bias: str | None = None
    task_type: str | None = None
    use_rslora: bool | None = None
    use_dora: bool | None = None
    init_lora_weights: bool | str | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, float] | None = None
    fan_in_fan_out: bool | None = None
    trainable_token_indices: list[int] | dict[str, list[int]] | None = None
    autocast_adapter_dtype: bool | None = None
    """Argument of get_peft_model: cast 16-bit adapter weights to float32 (PEFT's default: true)."""
    extra: dict[str, Any] = {}
    """Further arguments of LoraConfig (``loftq_config``, …), passed on as they are."""


SUPERVISED = (None, "sft", "pretrain")
"""Methods whose loss is the next token's; None where a config names none."""
ONLINE = ("online-dpo", "online_dpo", "nash-md", "nash_md", "xpo")
"""Methods that compare answers of the model's own, as TRL's pages and ms-swift's arguments spell them."""


class Training(_Section):
    """TrainingArguments' and SFTConfig's names, plus ``trainer`` and ``prepare_for_kbit_training``."""

    trainer: Literal["transformers", "trl"] | None = None
    method: str | None = None
    kernels: list[str] | None = None
    """What runs the model in place of transformers' own code, beside Liger: ``unsloth``, ``cut_cross_entropy``, …"""
    prepare_for_kbit_training: bool | None = None
    per_device_train_batch_size: int | None = None
    per_device_eval_batch_size: int | None = None
    gradient_accumulation_steps: int | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    max_grad_norm: float | None = None
    max_steps: int | None = None
    num_train_epochs: float | None = None
    lr_scheduler_type: str | None = None
    warmup_ratio: float | None = None
    warmup_steps: int | float | None = None
    """Steps, or from transformers 5 on a share of all steps where it is below 1."""
    optim: str | None = None
    optim_target_modules: list[str] | str | None = None
    bf16: bool | None = None
    fp16: bool | None = None
    gradient_checkpointing: bool | None = None
    gradient_checkpointing_kwargs: dict[str, Any] | None = None
    max_length: int | None = None
    """Tokens of a sample at most; ``max_seq_length`` is read as an alias."""
    packing: bool | None = None
    padding_free: bool | None = None
    compute_metrics: bool | None = None
    """The trainer is given a function for metrics and none that makes logits small: an evaluation keeps all."""
    group_by_length: bool | None = None
    use_liger_kernel: bool | None = None
    loss_type: str | None = None
    completion_only_loss: bool | None = None
    assistant_only_loss: bool | None = None
    neftune_noise_alpha: float | None = None
    eval_strategy: str | None = None
    label_names: list[str] | None = None
    seed: int | None = None
    data_seed: int | None = None
    full_determinism: bool | None = None
    torch_compile: bool | None = None
    fsdp: str | list[str] | None = None
    fsdp_config: dict[str, Any] | str | None = None
    deepspeed: dict[str, Any] | str | None = None
    ddp_find_unused_parameters: bool | None = None
    dataloader_num_workers: int | None = None
    dataset_text_field: str | None = None
    logging_strategy: str | None = None
    logging_steps: float | None = None
    """Updates between two log lines, or a share of all updates where it is below 1; so the two that follow."""
    save_strategy: str | None = None
    save_steps: float | None = None
    eval_steps: float | None = None
    load_best_model_at_end: bool | None = None
    resume_from_checkpoint: str | bool | None = None
    report_to: list[str] | str | None = None
    output_dir: str | None = None
    beta: float | None = None
    """Of preference training: how strongly the policy is held to its reference; of GRPO: the weight of the KL term."""
    label_smoothing: float | None = None
    """Of DPO: the share of pairs that are taken to be the wrong way round."""
    num_generations: int | None = None
    """Of GRPO and RLOO: answers to one prompt, which are compared with each other."""
    num_generations_eval: int | None = None
    generation_batch_size: int | None = None
    steps_per_generation: int | None = None
    use_vllm: bool | None = None
    """Answers are generated by vLLM, which gets the weights of the policy again and again."""
    extra: dict[str, Any] = {}
    """Further arguments of TrainingArguments or SFTConfig (``adam_beta2``, …), passed on as they are."""


class Data(_Section):
    """The samples to train on."""

    train: str | None = None
    eval: str | None = None
    format: (
        Literal["text", "prompt-completion", "messages", "preference", "unpaired-preference", "prompt-only"] | None
    ) = None
    text_field: str | None = None
    chat_template: str | None = None
    image_size: int | list[int] | None = None
    """Pixels of a sample's image, height and width, as its processor makes them; for models that take any size."""


class NamedData(_Section):
    """Samples that a config names, in its dialect's own words, whether or not they can be looked at from here.

    ``data.train`` is what can be read as the trainer would read it; this is all that is named, for whoever can follow
    more of it.
    """

    role: Literal["train", "eval"] = "train"
    kind: Literal["hub", "file", "folder", "registry", "code"] = "hub"
    """``hub``: an id; ``file`` and ``folder``: a path; ``registry``: a name in the trainer's own list of data sets, as
    in dataset_info.json; ``code``: a class or function that brings its samples."""
    name: str | None = None
    """As written; None where the file does not tell it."""
    subset: str | None = None
    split: str | None = None
    files: list[str] = []
    """``data_files``."""
    format: str | None = None
    """What the trainer calls the form of the samples: axolotl's ``type``, LLaMA-Factory's ``formatting``."""
    template: str | None = None
    """The template that forms the text, by the trainer's name for it."""
    columns: dict[str, str] = {}
    """What the samples' columns are for, in the trainer's words: ``{"prompt": "instruction"}``."""
    transforms: list[str] = []
    """What code does to them on the way: ``map (line 12)``."""
    key: str | None = None
    """The key of the file that names them, dotted; of a script the function that loads them."""
    place: Place | None = None
    settings: dict[str, Any] = {}
    """What else decides how they are formed, under the trainer's own names: of their own entry, and of the file's top
    where the entry is silent."""
    not_followed: str | None = None
    """Why they are not looked at, or not as they are; None where ``data`` holds all of it."""


class Hardware(_Section):
    """The card that the run is meant for."""

    gpu: str | None = None
    memory: str | int | None = None
    count: int | None = None
    expandable_segments: bool | None = None


class Budgets(_Section):
    """Limits that a gate holds a setup against."""

    peak_memory: str | int | None = None
    trainable_ratio: float | dict[str, float] | None = None
    """A largest ratio, or ``{min: …, max: …}``."""
    step_seconds: float | None = None


SECTIONS: dict[str, type[BaseModel]] = {
    "model": Model,
    "quantization": Quantization,
    "lora": Lora,
    "training": Training,
    "data": Data,
    "hardware": Hardware,
    "budgets": Budgets,
}
"""Name of each section of a Setup → its model; the one list of them."""


class Change(_Section):
    """One thing that a script does with what it loaded, before it trains; the real stages make it as well.

    Attributes:
        kind: ``config`` (a field of the model's config is set), ``tokenizer`` (one of the tokenizer), ``add-tokens``,
            ``add-special-tokens``, ``resize`` (of the embeddings), ``cast``, ``requires-grad``, ``mode`` (true: train).
        when: after the load, after the preparation, or after the adapter was attached.
        name: the field.
        value: what it is set to: a plain value, or the name of a dtype.
        of_tokenizer: what it is set to is asked of the tokenizer: the name there, or ``len``.
        if_none: only where this field of the tokenizer is None.
        over: ``model``, ``parameters`` or ``modules``: what is cast or switched.
        tests: all of these hold of what is changed, each as words: ``requires_grad``; ``named`` and any of the words
            behind it; ``under`` and the path of a part; ``dtype`` and its name; ``ndim`` and a number; ``instance`` and
            names of classes; ``has`` and an attribute; ``floating``; a leading ``not`` turns it.
    """

    kind: str
    when: str = "loaded"
    name: str | None = None
    value: Any = None
    of_tokenizer: str | None = None
    if_none: str | None = None
    over: str | None = None
    tests: list[list[str]] = []
    place: Place | None = None


class NotFollowed(_Section):
    """A statement of a script that changes the training and that no stage makes; ``facts.config`` lists the kinds."""

    kind: str
    note: str
    place: Place | None = None


class Asked(_Section):
    """The versions of a package that a project asks for by itself."""

    exact: str | None = None
    at_least: str | None = None
    below: str | None = None
    by: str
    """Which file asks, and in which words: ``requirements.txt asks for trl>=0.9,<0.12``."""


class LibraryUse(_Section):
    """Something of a library that a script imports or calls, for a stage that has the library at hand to try it.

    Attributes:
        kind: ``import``, ``call`` of a class that configures, or ``load``: from_pretrained of a model.
        package: that has it.
        module, name: what is imported, or called.
        arguments: keywords with their values in plain form; of a load, values that are known.
        whole: all arguments are among them.
        key: under which its place is kept.
        version: of the package that the project pins; None where it pins none.
    """

    kind: Literal["import", "call", "load"]
    package: str
    module: str
    name: str | None = None
    arguments: dict[str, Any] = {}
    whole: bool = True
    key: str
    version: str | None = None


class KeyNote(Sparse, _Section):
    """What is said of a key that the reader does not know, no longer takes, or warns of."""

    key: str
    closest: str | None = None
    """The key's name now, or the known key that looks most like it."""
    note: str | None = None
    machine: Condition | None = None
    """Where it depends on what is installed."""
    value: str | None = None
    """Of a deprecated key: what to write, where it is not what stands there."""


class Remark(Sparse, _Section):
    """Keys that together mean something else than they say, or at which the trainer stops."""

    kind: str
    effect: Literal["other-meaning", "refused"]
    key: str | None = None
    note: str | None = None
    about: str | None = None
    """Of a refusal: one of the subjects of ``facts.Remark``."""
    machine: Condition | None = None
    """Where it is so on some machines only."""
    id: str | None = None
    """Of a row of ``tables.refusals``."""


class Setup(_Section):
    """What was understood of one config."""

    dialect: str = "native"
    dialect_confidence: float = 1.0
    """How sure the content makes it that the dialect is this one."""
    dialect_named: bool = False
    """The user named the dialect, whatever the content looks like."""
    dialect_version: str | None = None
    traits: Traits = NATIVE
    """Of the dialect's trainer; no part of a report."""
    file: str | None = None
    model: Model = Field(default_factory=Model)
    quantization: Quantization = Field(default_factory=Quantization)
    lora: Lora = Field(default_factory=Lora)
    training: Training = Field(default_factory=Training)
    data: Data = Field(default_factory=Data)
    hardware: Hardware = Field(default_factory=Hardware)
    budgets: Budgets = Field(default_factory=Budgets)
    origins: dict[str, Origin] = {}
    """By canonical path, ``lora.target_modules``; a path that is missing is silent: the library's default stands."""
    unknown_keys: list[KeyNote] = []
    """Keys that the reader does not know."""
    duplicate_keys: list[str] = []
    string_numbers: list[str] = []
    removed_keys: list[KeyNote] = []
    """Keys that it no longer accepts."""
    deprecated_keys: list[KeyNote] = []
    """Keys that it still takes and warns of."""
    remarks: list[Remark] = []
    named_data: list[NamedData] = []
    """All samples that the config names, in their order."""
    changes: list[Change] = []
    """What a script does with the model and the tokenizer that it loaded, in its order."""
    not_followed: list[NotFollowed] = []
    """What it does besides, which no stage makes."""
    uses: list[LibraryUse] = []
    """What it surely imports from the libraries, and the calls that the libraries judge by themselves."""
    stored_keys: dict[str, bool] = {}
    """Keys of an adapter_config.json: whether each is set to more than its empty or false default."""
    versions: dict[str, Asked] = Field(default_factory=dict)
    """By package, the versions that the run's project asks for; of the others those that are installed count."""
    stops_at_unknown_keys: bool = False
    """The reader ends the run at the first of ``unknown_keys``; else it passes them by."""
    _locate: Callable[[str], Place] | None = PrivateAttr(default=None)
    """JSON pointer → place with line and column; a reader sets it, so that places are looked up only when asked for."""
    _document: Any = PrivateAttr(default=None)
    """The ``reading.document.Document`` it was read from; None for a mapping from memory."""
    _keys_of: "Callable[[str], list[OwnKey]] | None" = PrivateAttr(default=None)
    """Canonical path → the keys of the dialect that set it; a reader that translates sets it."""

    def says(self, kind: str) -> bool:
        """True where a remark of this kind was made."""
        return any(remark.kind == kind for remark in self.remarks)

    def is_unknown(self, path: str) -> bool:
        """True where the value at this canonical path is decided by something that was not read."""
        origin = self.origins.get(path)
        return origin is not None and origin.source == "unknown"

    def place(self, path: str) -> Place | None:
        """Where the value at this canonical path (or the nearest section above it) stands in the user's file."""
        parts = path.split(".")
        while parts:
            origin = self.origins.get(".".join(parts))
            if origin is not None and origin.place is not None:
                return self._located(origin.place)
            parts.pop()
        return None

    def lines(self) -> dict[str, dict[str, int | None]]:
        """Line and column, by canonical path, of every origin that has a place; the file is parsed for it once more."""
        found = {}
        for path, origin in self.origins.items():
            place = self._located(origin.place) if origin.place is not None else None
            if place is not None and place.line is not None:
                spans = ("line", "column", "end_line", "end_column")
                found[path] = {name: getattr(place, name) for name in spans}
        return found

    def _located(self, place: Place) -> Place:
        if place.line is not None or place.pointer is None or self._locate is None:
            return place
        return self._locate(place.pointer)
