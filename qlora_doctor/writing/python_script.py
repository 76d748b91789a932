"""A Setup as a training script in transformers and PEFT, with TRL's SFTTrainer where the setup trains with it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..setup.meaning import Meaning, meanings, standing
from ..setup.setup import Lora, Quantization, Setup, Training
from ..tables.known_arguments import TRAINING

if TYPE_CHECKING:
    from .extras import Extras

Unsaid = tuple[str, Any, str]
"""(key, value, why) of what the script does not say."""

_SFT_ONLY = ("max_length", "packing", "padding_free", "completion_only_loss", "assistant_only_loss", "loss_type",
             "dataset_text_field")  # fmt: skip
_NOT_OF_PEFT = ("extra", "autocast_adapter_dtype", "targets_beside_linear")
_EVALUATES = ("eval_strategy", "eval_steps", "load_best_model_at_end")
_COMPARES = ("beta", "label_smoothing", "num_generations", "num_generations_eval", "generation_batch_size",
             "steps_per_generation", "use_vllm")  # fmt: skip
_NOT_ARGUMENTS = ("trainer", "method", "prepare_for_kbit_training", "extra")
DATA_FILES = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet", ".txt": "text"}
"""The builder of ``datasets`` that reads a local file, by suffix."""
NO_MODEL = "your/model"
"""Stands where the model is not known: every trainer asks for one."""
_WIDTH = 100
_DTYPES = ("bfloat16", "float16", "float32", "float64", "uint8", "int8")


def script(setup: Setup, extras: Extras) -> tuple[str, list[Unsaid]]:
    """The text of a script, and what it does not say."""
    return _Script(setup, extras).write()


_AUTO_CLASSES = {
    "image-text-to-text": "AutoModelForImageTextToText",
    "seq2seq-lm": "AutoModelForSeq2SeqLM",
    "speech-seq2seq": "AutoModelForSpeechSeq2Seq",
    "multimodal-lm": "AutoModelForMultimodalLM",
    "sequence-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "multiple-choice": "AutoModelForMultipleChoice",
    "question-answering": "AutoModelForQuestionAnswering",
}
"""``model.task`` → the Auto class that a script calls."""
_CLASS = re.compile(r"[A-Z]\w*", re.ASCII)


class _Script:
    """One script on its way."""

    def __init__(self, setup: Setup, extras: Extras) -> None:
        self.setup = setup
        self.extras = extras
        self.known: dict[str, Meaning] = meanings(setup)
        self.trl = self.get("training.trainer") == "trl"
        self.unsaid: list[Unsaid] = []
        self._silent = Setup(
            dialect="python",
            quantization=Quantization(load_in_4bit=self.get("quantization.load_in_4bit")),
            training=Training(
                trainer="trl" if self.trl else "transformers",
                fp16=self.get("training.fp16"),
                prepare_for_kbit_training=self.get("training.prepare_for_kbit_training"),
            ),
        )

    def get(self, path: str) -> Any:
        """What the setup stands for at a path; None where that is not known."""
        meaning = self.known.get(path)
        return meaning.value if meaning is not None else None

    def said(self, path: str) -> Any:
        """The same, where it has to be said: None also where the library does so by itself."""
        meaning = self.known.get(path)
        if meaning is None or not (meaning.explicit or meaning.value != standing(self._silent, path)):
            return None
        return meaning.value

    def drop(self, path: str, why: str) -> None:
        """Note that the script does not say a path, where it would have to be said."""
        meaning = self.known.get(path)
        if meaning is not None and self.said(path) is not None:
            default = "" if meaning.explicit else " (a default of the source)"
            self.unsaid.append((f"{meaning.key}{default}", meaning.value, why))

    def write(self) -> tuple[str, list[Unsaid]]:
        """The whole text."""
        parts = [self._load(), self._adapter(), self._data(), self._training()]
        source = Path(self.setup.file).name if self.setup.file is not None else self.setup.dialect
        head = f'"""QLoRA fine-tuning, converted by qlora-doctor from {_safe(source)} ({self.setup.dialect})."""'
        for path in ("hardware.gpu", "hardware.memory", "hardware.count", "hardware.expandable_segments",
                     "budgets.peak_memory", "budgets.trainable_ratio", "budgets.step_seconds"):  # fmt: skip
            self.drop(path, "a script has no place for it")
        self.drop("training.kernels", "the script runs transformers' own code")
        return "\n\n".join([head, self._imports("\n".join(parts)), *parts]) + "\n", self.unsaid

    def _imports(self, body: str) -> str:
        modules = {
            "datasets": ["load_dataset"],
            "peft": ["LoraConfig", "PeftModel", "get_peft_model", "prepare_model_for_kbit_training"],
            "transformers": [
                self._model_class(),
                "AutoTokenizer",
                "BitsAndBytesConfig",
                "DataCollatorForLanguageModeling",
                "Trainer",
                "TrainingArguments",
            ],
            "trl": ["SFTConfig", "SFTTrainer"],
        }
        lines = ["import torch"] if "torch." in body else []
        for module, names in modules.items():
            used = [name for name in names if re.search(rf"\b{name}[(.]", body)]
            if used:
                line = f"from {module} import {', '.join(used)}"
                long = "\n".join([f"from {module} import (", *(f"    {name}," for name in used), ")"])
                lines.append(line if len(line) <= _WIDTH else long)
        return "\n".join(lines)

    # -- the base

    def _load(self) -> str:
        lines = [f"MODEL = {_source(self.get('model.name_or_path') or NO_MODEL)}"]
        arguments = self._quantization(lines)
        classifies = self.get("model.task") == "sequence-classification"
        for field in ("revision", "attn_implementation", "trust_remote_code", "device_map", "num_labels"):
            if self.get(f"model.{field}") is not None and (field != "num_labels" or classifies):
                arguments[field] = _source(self.get(f"model.{field}"))
        arguments |= {key: _source(value) for key, value in self.extras.others.get("model", {}).items()}
        dtype = self.get("model.dtype")
        if dtype is not None:
            arguments["dtype"] = _torch(dtype)
        if not _CLASS.fullmatch(str(self.get("model.model_class") or "A")):
            self.drop("model.model_class", "it is no name of a class")
        lines.append(_call(f"model = {self._model_class()}.from_pretrained(", ["MODEL", *_pairs(arguments)]))
        if self.get("model.use_cache") is not None:
            lines.append(f"model.config.use_cache = {self.get('model.use_cache')!r}")
        lines.append("tokenizer = AutoTokenizer.from_pretrained(MODEL)")
        lines += ["if tokenizer.pad_token is None:", "    tokenizer.pad_token = tokenizer.eos_token"]
        return "\n".join(lines)

    def _model_class(self) -> str:
        named, task = str(self.get("model.model_class") or ""), self.get("model.task")
        return named if _CLASS.fullmatch(named) else _AUTO_CLASSES.get(str(task), "AutoModelForCausalLM")

    def _quantization(self, lines: list[str]) -> dict[str, str]:
        if not (self.get("quantization.load_in_4bit") or self.get("quantization.load_in_8bit")):
            if self.get("quantization.backend") != "bitsandbytes":
                self.drop("quantization.backend", "the script quantizes with bitsandbytes only")
            for field in Quantization.model_fields:
                if field.startswith("bnb_"):
                    self.drop(f"quantization.{field}", "the base is not in 4-bit, so there is nothing that it is about")
            return {}
        if self.get("quantization.backend") not in (None, "bitsandbytes"):
            backend = self.known["quantization.backend"]
            self.unsaid.append((backend.key, backend.value, "the script quantizes with bitsandbytes"))
        arguments = {}
        for field in Quantization.model_fields:
            value = (
                self.get("quantization.load_in_4bit") if field == "load_in_4bit" else self.said(f"quantization.{field}")
            )
            if field in ("backend", "extra") or value is None or (field == "load_in_8bit" and not value):
                continue
            arguments[field] = _torch(value) if field == "bnb_4bit_compute_dtype" else _source(value)
        arguments |= {key: _source(value) for key, value in self.extras.others.get("quantization", {}).items()}
        lines.append(_call("quantization = BitsAndBytesConfig(", _pairs(arguments)))
        return {"quantization_config": "quantization"}

    # -- the adapter

    def _adapter(self) -> str:
        lines = []
        in_bits = self.get("quantization.load_in_4bit") or self.get("quantization.load_in_8bit")
        prepare = self.get("training.prepare_for_kbit_training")
        if prepare or (prepare is None and in_bits):
            checkpointing = self.get("training.gradient_checkpointing")
            kwargs = self.get("training.gradient_checkpointing_kwargs")
            arguments = {} if checkpointing is None else {"use_gradient_checkpointing": _source(checkpointing)}
            arguments |= {} if kwargs is None else {"gradient_checkpointing_kwargs": _source(kwargs)}
            lines.append(_call("model = prepare_model_for_kbit_training(", ["model", *_pairs(arguments)]))
        if prepare is False and in_bits and self.trl:
            meaning = self.known["training.prepare_for_kbit_training"]
            why = "TRL's trainers prepare a quantized base themselves up to 0.26, later ones do not"
            self.unsaid.append((meaning.key, False, why))
        if self.get("model.adapter") is not None:
            trainable = self.get("model.adapter_is_trainable")
            options = [] if trainable is None else [f"is_trainable={trainable!r}"]
            adapter = _source(self.get("model.adapter"))
            lines.append(_call("model = PeftModel.from_pretrained(", ["model", adapter, *options]))
            return "\n".join(lines)
        lora = {
            field: _source(self.said(f"lora.{field}"))
            for field in Lora.model_fields
            if field not in _NOT_OF_PEFT and self.said(f"lora.{field}") is not None
        }
        lora |= {key: _source(value) for key, value in self.extras.others.get("lora", {}).items()}
        lines.append(_call("lora = LoraConfig(", _pairs(lora)))
        self.drop("lora.targets_beside_linear", "PEFT takes all-linear or a list of names, and not both together")
        cast = self.get("lora.autocast_adapter_dtype")
        more = [] if cast is None else [f"autocast_adapter_dtype={cast!r}"]
        lines += [_call("model = get_peft_model(", ["model", "lora", *more]), "model.print_trainable_parameters()"]
        return "\n".join(lines)

    # -- the data

    def _data(self) -> str:
        train = self.get("data.train")
        if train is None and not self.setup.is_unknown("data.train"):
            self.unsaid.append(("data.train", None, 'not known; the script names "your/dataset" in its place'))
        builder = DATA_FILES.get(Path(train).suffix.lower()) if train is not None else None
        if builder is not None:
            lines = [f'dataset = load_dataset("{builder}", data_files={_source(train)}, split="train")']
        else:
            lines = [f'dataset = load_dataset({_source(train or "your/dataset")}, split="train")']
        self.drop("data.eval", "the script does not evaluate")
        if self.get("data.chat_template") is not None:
            lines.append(f"tokenizer.chat_template = {_source(self.get('data.chat_template'))}")
        return "\n".join(lines if self.trl else [*lines, "", "", *self._tokenize()])

    def _tokenize(self) -> list[str]:
        """A function of its own, since transformers' Trainer takes token ids."""
        kind, field = self.get("data.format"), self.get("data.text_field") or "text"
        text = {
            "messages": 'tokenizer.apply_chat_template(row["messages"], tokenize=False)',
            "prompt-completion": 'row["prompt"] + row["completion"] + tokenizer.eos_token',
        }.get(str(kind), f"row[{_source(field)}]")
        length = self.get("training.max_length")
        cut = f", truncation=True, max_length={length}" if length is not None else ""
        return [
            "def tokenize(row):",
            f"    return tokenizer({text}{cut})",
            "",
            "",
            "dataset = dataset.map(tokenize, remove_columns=dataset.column_names)",
        ]

    # -- the training

    def _training(self) -> str:
        arguments: dict[str, str] = {}
        for field in Training.model_fields:
            path = f"training.{field}"
            value = self.said(path)
            if field in _NOT_ARGUMENTS or value is None:
                continue
            if field in _SFT_ONLY and not self.trl:
                if field != "max_length" and value not in (False, None):
                    self.drop(path, "it is TRL's, and the script trains with transformers' Trainer")
                continue
            if field == "resume_from_checkpoint" and value:
                continue  # said where the training starts
            if field in _COMPARES:
                self.drop(path, "it is of preference training, and the script trains with supervision (SFT)")
                continue
            if field in _EVALUATES and value not in ("no", False):
                self.drop(path, "the script does not evaluate")
                continue
            if field == "warmup_ratio":
                field = "warmup_steps"  # transformers 5 takes the share of all steps there
            if field == "group_by_length":
                if value:
                    arguments["train_sampling_strategy"] = _source("group_by_length")
                continue
            arguments[field] = _source(value)
        for key, value in self.extras.training.items():
            if key in TRAINING:
                arguments[key] = _source(value)
        arguments.setdefault("output_dir", _source("output"))
        if self.get("training.method") not in (None, "sft"):
            self.drop("training.method", "the script trains with supervision (SFT)")
        text_field = self.get("data.text_field")
        if self.trl and text_field is not None:
            arguments["dataset_text_field"] = _source(text_field)
        resumed = self.get("training.resume_from_checkpoint")
        config, trainer = ("SFTConfig", "SFTTrainer") if self.trl else ("TrainingArguments", "Trainer")
        options = ["model=model", "args=args", "train_dataset=dataset", "processing_class=tokenizer"]
        if not self.trl:
            options.append("data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False)")
        return "\n".join(
            [
                _call(f"args = {config}(", _pairs(arguments)),
                _call(f"trainer = {trainer}(", options),
                f"trainer.train({'' if not resumed else f'resume_from_checkpoint={_source(resumed)}'})",
                "trainer.save_model()",
            ]
        )


def _pairs(arguments: dict[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in arguments.items()]


def _call(head: str, arguments: list[str]) -> str:
    """A call on one line where it fits, else an argument a line."""
    line = f"{head}{', '.join(arguments)})"
    return line if len(line) <= _WIDTH else "\n".join([head, *(f"    {argument}," for argument in arguments), ")"])


def _torch(dtype: str) -> str:
    return f"torch.{dtype}" if dtype in _DTYPES else _source(dtype)


def _source(value: Any) -> str:
    """A value as people write it: texts in double quotes, a whole number without its ``.0``."""
    if isinstance(value, str):
        return json.dumps(value) if value.isascii() and value.isprintable() else repr(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, list):
        return f"[{', '.join(_source(each) for each in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_source(key)}: {_source(each)}" for key, each in value.items()) + "}"
    return repr(value)


def _safe(name: str) -> str:
    return name.replace("\\", "/").replace('"', "'")
