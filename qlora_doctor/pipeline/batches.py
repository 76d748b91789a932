"""What the model is shown: the config's own samples, tokenised as its trainer would, or synthetic tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from ..core.errors import StageError
from ..setup.resolved import Taken
from ..setup.setup import Setup
from .architecture import Architecture, context_length
from .changes import change_tokenizer
from .failures import as_stage_error
from .forms import NotFollowedForm, follow, is_followed, read_named
from .forms.script import hands_over_rows, nothing_left, responses_only, scripted, way_of
from .inputs import Inputs, inputs_for, needed_media, synthetic_labels, token_rows
from .samples import DataFormat, Samples, read_samples, sample_rows

SYNTHETIC_LENGTH = 512
"""Tokens of a synthetic sample where the setup names no ``max_length`` and its trainer has no default."""
_PROMPT, _COMPLETION = "prompt", "completion"
_RENDERED_TOO = ("tools", "chat_template_kwargs")
"""Columns that SFTTrainer hands to the chat template beside the messages (trl, sft_trainer.py)."""
_OF_TOKENS = ("attention_mask", "labels", "completion_mask", "assistant_masks")
"""Columns that go beside the tokens of rows that are tokenized already."""


TOKENS_BEFORE = "qlora_doctor_tokens_before"
"""Attribute of a tokenizer: how many tokens it had before a script or a trainer added some."""


@dataclass
class Batches:
    """Samples ready for the trainer.

    Attributes:
        dataset: for transformers.Trainer a list of ``{input_ids, attention_mask, labels}`` (lists of ints, or tensors
            where synthetic); for trl a ``datasets.Dataset`` that SFTTrainer tokenises itself.
        collator: the data collator; None leaves it to the trainer.
        source: ``file`` for the config's own data, ``synthetic`` for random tokens.
        tokenizer: None where synthetic tokens need none.
        sequence: the longest sample in tokens; for trl, the length it truncates at.
        samples: the rows as read; None where synthetic.
        notes: what was done otherwise than a reader might expect; one sentence each.
        method: of trl, whose rows these are; None where they are for supervised fine-tuning.
        behind: wraps the trainer's collator; None leaves it.
        raw: of a script's tokenized rows those that they were made of, empty where that is not known; None otherwise.
        limits: lengths at which a script's own tokenizing cuts.
        pads: whether the tokenizer has a token to pad the user's batches with; None where that is the trainer's matter.
    """

    dataset: Any
    collator: Callable[[list[Any]], Any] | None
    source: Literal["file", "synthetic"]
    tokenizer: Any
    sequence: int
    samples: Samples | None = None
    notes: list[str] = field(default_factory=list)
    method: str | None = None
    behind: Callable[[Any], Any] | None = None
    raw: list[dict[str, Any]] | None = None
    limits: set[int] = field(default_factory=set)
    pads: bool | None = None


def make_batches(
    setup: Setup,
    model: Any,
    tokenizer: Any = None,
    *,
    steps: int = 2,
    rows: int | None = None,
    synthetic: bool = False,
    samples: Samples | None = None,
) -> Batches:
    """Samples for some steps: from ``data.train`` where the setup has it, else of random tokens.

    Args:
        model: the (PEFT) model, for its vocabulary and context length.
        tokenizer: needed for data of a file; see ``load_tokenizer``.
        rows: how many rows to read at least; None reads what the steps need.
        synthetic: use random tokens although the setup names data.
        samples: the rows of ``data.train``, where they were read already.

    Raises:
        StageError: the data cannot be read, or there is no tokenizer to read it with.
        NotFollowedForm: the setup names samples that are not formed here.
    """
    needed = max(rows or 0, rows_of_a_step(setup) * steps)
    if not synthetic and tokenizer is not None:
        formed = _scripted(setup, model, tokenizer, needed) or _formed(setup, tokenizer, needed)
        if formed is not None:
            return formed
    if synthetic or not setup.data.train or is_followed(setup):
        return _synthetic(setup, model, tokenizer, needed)
    if tokenizer is None:
        raise no_tokenizer(setup)
    # Packing puts several rows into one sample.
    wanted = max(needed * (16 if setup.training.packing else 1), 64 if rows is None else rows)
    if samples is None:
        samples = read_samples(setup, wanted) if rows is None else sample_rows(setup, wanted)
    samples = samples.supervised()  # the step is one of supervised fine-tuning, whatever the method
    make = _for_trl if Taken(setup).trainer == "trl" else _tokenised
    return make(setup, model, tokenizer, samples)


def _scripted(setup: Setup, model: Any, tokenizer: Any, rows: int) -> Batches | None:
    """The samples of a script whose way from the file to its trainer was read; None of any other.

    Raises:
        NotFollowedForm: its functions are not plain, or the file is not here.
        StageError: the file cannot be read.
    """
    named = way_of(setup)
    if named is None:
        return None
    read = read_named(setup, named, max(rows, 64))
    rows_read = [row for _, row in read.rows]
    made = scripted(named, rows_read, tokenizer, newest_trl=hands_over_rows(setup), total=read.total)
    raw = (rows_read if made.in_order and len(rows_read) == len(made.rows) else []) if made.tokenized else None
    notes = ["The script's own functions on its rows were worked out without executing the script."]
    columns = list(made.rows[0])
    if Taken(setup).trainer == "trl" and (not made.tokenized or made.collator is None):
        from datasets import Dataset

        text = Taken(setup)["training.dataset_text_field"]
        kind: DataFormat = "messages" if "messages" in columns else "text"
        if {"prompt", "completion"} <= set(columns):
            kind = "prompt-completion"
        samples = Samples(made.rows, columns, kind, text, named.name or "")
        wanted = [*samples.trained_columns, "input_ids", "labels"] if made.tokenized else samples.trained_columns
        kept = [name for name in wanted if name in columns]
        if not kept:
            raise NotFollowedForm(f"The script's rows have no column that TRL takes; they have {', '.join(columns)}.")
        dataset = Dataset.from_list([{name: row[name] for name in kept} for row in made.rows])
        length = sequence_length(setup, model.config)
        parts = named.settings.get("responses")
        behind = responses_only(parts, tokenizer) if parts else None
        return Batches(
            dataset, made.collator, "file", tokenizer, length, samples, notes, behind=behind, raw=raw,
            limits=made.limits,
        )  # fmt: skip
    if not made.tokenized or made.collator is None:
        if made.trainer in ("Trainer", "Seq2SeqTrainer") and not named.settings.get("keeps_columns"):
            nothing_left(columns)
        raise NotFollowedForm("The script's rows are no tokens when they reach its trainer.")
    longest = max(len(row["input_ids"]) for row in made.rows)
    samples = Samples(made.rows, read.columns, "text", "text", named.name or "")
    return Batches(made.rows, made.collator, "file", tokenizer, longest, samples, notes, raw=raw, limits=made.limits)


def _formed(setup: Setup, tokenizer: Any, rows: int) -> Batches | None:
    """The samples of a trainer that is not here, formed by its rules; None of any other."""
    followed = follow(setup, tokenizer, rows)
    if followed is None:
        return None
    if not followed.trained:
        raise NotFollowedForm("None of the rows that were looked at reaches the model.")
    from transformers import DataCollatorForSeq2Seq

    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    dataset = [
        {"input_ids": row.ids, "attention_mask": [1] * len(row.ids), "labels": row.labels} for row in followed.trained
    ]
    collator = DataCollatorForSeq2Seq(tokenizer, padding=True, label_pad_token_id=-100)
    longest = max(len(row.ids) for row in followed.trained)
    return Batches(dataset, collator, "file", tokenizer, longest, None, [f"The samples are formed by {followed.by}."])


def rows_of_a_batch(setup: Setup) -> int:
    """Samples of one batch on one device."""
    rows: int = Taken(setup)["training.per_device_train_batch_size"]
    return rows


def rows_of_a_step(setup: Setup) -> int:
    """Samples that one optimizer step takes on one device."""
    accumulated: int = Taken(setup)["training.gradient_accumulation_steps"]
    return rows_of_a_batch(setup) * accumulated


def sequence_length(setup: Setup, config: Any = None) -> int:
    """Tokens of a full sample: ``max_length``, else SFTConfig's default with trl, else 512; the context at most.

    An explicit null says that trl cuts nothing; a full sample is then of 512 tokens.

    Args:
        config: the model's transformers config, for its context length; None leaves that out.
    """
    length = Taken(setup)["training.max_length"] or SYNTHETIC_LENGTH
    context = context_length(config) if config is not None else None
    return min(length, context) if context else length


def no_tokenizer(setup: Setup) -> StageError:
    """What is said of rows that have nothing to be tokenised with."""
    return StageError(
        "The model has no tokenizer on this machine, so its data cannot be turned into tokens.",
        kind="missing-file",
        remedy="Put the tokenizer's files into the model's folder.",
        place=setup.place("model.name_or_path"),
    )


def load_tokenizer(setup: Setup, architecture: Architecture, *, offline: bool = True) -> Any | None:
    """The model's tokenizer with the setup's chat template and what a script does with it; None where there is none.

    Raises:
        StageError: there are tokenizer files, but they cannot be read.
    """
    if architecture.source == "table":
        return None
    if architecture.folder is not None and architecture.source == "folder" and not _has_tokenizer(architecture.folder):
        return None
    from transformers import AutoTokenizer

    place = str(architecture.folder) if architecture.source == "folder" else architecture.name
    options: dict[str, Any] = {"trust_remote_code": bool(setup.model.trust_remote_code), "local_files_only": offline}
    if architecture.source != "folder" and setup.model.revision is not None:
        options["revision"] = setup.model.revision
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, **options)
    except Exception as error:
        told = as_stage_error(error, f"loading the tokenizer of {place}")
        told.remedy = told.remedy or "Download or copy the tokenizer's files again."
        raise told from error
    template = setup.data.chat_template
    if template is not None:
        beside = Path(setup.file).resolve().parent / template if setup.file and len(template) < 200 else None
        is_file = beside is not None and "\n" not in template and "{" not in template and beside.is_file()
        tokenizer.chat_template = beside.read_text(encoding="utf-8") if is_file and beside else template
    setattr(tokenizer, TOKENS_BEFORE, len(tokenizer))
    return change_tokenizer(tokenizer, setup)


def _has_tokenizer(folder: Path) -> bool:
    names = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "spiece.model", "vocab.txt")
    return any((folder / name).is_file() for name in names)


def _synthetic(setup: Setup, model: Any, tokenizer: Any, rows: int) -> Batches:
    """Random tokens, and made-up images, sounds and labels where the model takes them; the same on every call."""
    length = sequence_length(setup, model.config)
    ids = token_rows(model, rows, length)
    inputs = inputs_for(model, length)
    if inputs.left_out and (wanted := needed_media(model)):
        raise StageError(
            f"The model's forward wants {wanted[0]}, and no {inputs.left_out[0]} can be made up for it here.",
            kind="unsupported",
            remedy="Name data that has it.",
            place=setup.place("data"),
        )
    notes = [f"No {name} could be made for this model: what reads it sees none." for name in inputs.left_out]
    collator = None if inputs.is_plain else _collator(inputs)
    if Taken(setup).trainer == "trl":
        from datasets import Dataset

        dataset = Dataset.from_dict({"input_ids": ids.tolist()})
        return Batches(dataset, collator, "synthetic", tokenizer or _placeholder_tokenizer(), length, notes=notes)
    dataset = [{"input_ids": row, "attention_mask": torch.ones_like(row), "labels": row} for row in ids]
    return Batches(dataset, collator, "synthetic", tokenizer, length, notes=notes)


def _collator(inputs: Inputs) -> Callable[[list[Any]], Any]:
    def collate(rows: list[Any]) -> Any:
        # A trainer takes away the columns that the forward does not name (Whisper's has no input_ids), labels never.
        ids = [torch.as_tensor(row["input_ids"] if "input_ids" in row else row["labels"]) for row in rows]
        return inputs.batch(torch.stack(ids))

    return collate


def _placeholder_tokenizer() -> Any:
    """A tokenizer that is never asked for a token: SFTTrainer wants one even for rows of token ids."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = models.WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3}, unk_token="<unk>")
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(words), pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def _for_trl(setup: Setup, model: Any, tokenizer: Any, samples: Samples) -> Batches:
    from datasets import Dataset

    beside = _OF_TOKENS if samples.format == "tokens" else _RENDERED_TOO
    columns = [*samples.trained_columns, *(name for name in beside if name in samples.columns)]
    dataset = Dataset.from_list([{name: row.get(name) for name in columns} for row in samples.rows])
    return Batches(dataset, None, "file", tokenizer, sequence_length(setup, model.config), samples)


def _tokenised(setup: Setup, model: Any, tokenizer: Any, samples: Samples) -> Batches:
    from transformers import DataCollatorForSeq2Seq

    notes = []
    # Each collator of transformers stops without one; with one row and no collator of its own, Trainer asks for none.
    pads = tokenizer.pad_token is not None if setup.dialect == "native" and rows_of_a_batch(setup) > 1 else None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
        notes.append(f"The tokenizer has no padding token; {tokenizer.eos_token!r} pads, without a loss on it.")
    limit = setup.training.max_length or context_length(model.config)
    tokens = _tokens
    if samples.format == "prompt-completion" and getattr(model.config, "is_encoder_decoder", False):
        tokens = _source_and_target
    try:
        dataset = [tokens(setup, tokenizer, samples, row, limit) for row in samples.rows]
    except Exception as error:
        raise as_stage_error(error, "turning the data into tokens") from error
    # Pads labels with -100 by the length of the labels, so that a padding token that is also the end of the text
    # keeps its loss where it is text.
    collator = DataCollatorForSeq2Seq(tokenizer, padding=True, label_pad_token_id=-100)
    if setup.model.task == "sequence-classification":
        from transformers import DataCollatorWithPadding

        _refuse_what_is_no_class(setup, model.config, samples)
        collator = DataCollatorWithPadding(tokenizer)
    longest = max((len(row["input_ids"]) for row in dataset), default=0)
    return Batches(dataset, collator, "file", tokenizer, longest, samples, notes, pads=pads)


def _refuse_what_is_no_class(setup: Setup, config: Any, samples: Samples) -> None:
    """A classifier learns a number below ``num_labels`` from each row; one of regression any number.

    Raises:
        StageError: rows have no label, or one that the head cannot score.
    """
    place = setup.place("data")
    for row in samples.rows:
        label = row.get("label", row.get("labels"))
        if label is None:
            raise StageError(
                f"A classifier learns a class of each row, and the data has {', '.join(samples.columns)} and no label.",
                remedy="Name the column of the classes label.",
                place=place,
            )
        if isinstance(label, str):
            raise StageError(
                f"The labels of the data are text, such as {label!r}, and the model learns numbers from 0.",
                remedy="Number the classes (Dataset.class_encode_column).",
                place=place,
            )
        classes = None if setup.is_unknown("model.num_labels") else getattr(config, "num_labels", None)
        regression = getattr(config, "problem_type", None) == "regression" or classes == 1
        if isinstance(label, int) and isinstance(classes, int) and not regression and not 0 <= label < classes:
            raise StageError(
                f"The data has the label {label}, and the model scores {classes} classes, 0 to {classes - 1}.",
                remedy="Set num_labels to the number of classes, and number them from 0.",
                place=setup.place("model.num_labels") or place,
            )


def _tokens(setup: Setup, tokenizer: Any, samples: Samples, row: dict[str, Any], limit: int | None) -> dict[str, Any]:
    """One row as input_ids, attention_mask and labels, truncated on the right."""
    masked = 0
    if samples.format == "messages":
        ids = render(tokenizer, row["messages"])
    elif samples.format == "prompt-completion":
        prompt, whole = _prompt_and_whole(tokenizer, row)
        ids = whole
        masked = len(prompt) if setup.training.completion_only_loss is not False else 0
    elif samples.format == "tokens":
        ids = list(row["input_ids"])
    else:
        ids = tokenizer(row[samples.text_field])["input_ids"]
    ids = ids[:limit]
    labels: Any = [-100] * min(masked, len(ids)) + ids[masked:]
    if samples.format == "tokens" and isinstance(row.get("labels"), list):
        labels = row["labels"][:limit]
    if setup.model.task == "sequence-classification":
        labels = row.get("label", row.get("labels"))
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels}


def _source_and_target(
    setup: Setup, tokenizer: Any, samples: Samples, row: dict[str, Any], limit: int | None
) -> dict[str, Any]:
    """One row for an encoder, which reads the prompt, and a decoder, which learns the completion."""
    prompt, completion = row[_PROMPT], row[_COMPLETION]
    if not isinstance(prompt, str) or not isinstance(completion, str):
        return _tokens(setup, tokenizer, samples, row, limit)
    ids = tokenizer(prompt)["input_ids"][:limit]
    return {
        "input_ids": ids,
        "attention_mask": [1] * len(ids),
        "labels": tokenizer(text_target=completion)["input_ids"][:limit],
    }


def _prompt_and_whole(tokenizer: Any, row: dict[str, Any]) -> tuple[list[int], list[int]]:
    prompt, completion = row[_PROMPT], row[_COMPLETION]
    if isinstance(prompt, str) and isinstance(completion, str):
        return tokenizer(prompt)["input_ids"], tokenizer(prompt + completion)["input_ids"]
    return render(tokenizer, prompt, add_generation_prompt=True), render(tokenizer, [*prompt, *completion])


def render(tokenizer: Any, messages: list[dict[str, Any]], **options: Any) -> list[int]:
    """Messages through the chat template, as token ids.

    Raises:
        StageError: the tokenizer has no chat template.
    """
    if tokenizer.chat_template is None:
        raise StageError(
            "The data holds messages, but the tokenizer has no chat template.",
            kind="other",
            remedy="Set data.chat_template, or use a model whose tokenizer has one.",
        )
    text = tokenizer.apply_chat_template(messages, tokenize=False, **options)
    # The template writes its own special tokens.
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


__all__ = [
    "Batches",
    "DataFormat",
    "load_tokenizer",
    "make_batches",
    "rows_of_a_step",
    "synthetic_labels",
]
