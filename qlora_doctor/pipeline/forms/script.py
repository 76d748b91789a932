"""Samples as a script forms them: its own plain functions on the rows of a local file, and its collator.

Nothing of the script is executed: ``plain`` works its functions out. What is not plain is reported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from ...core.errors import StageError
from ...setup.script_way import ScriptWay, Step
from ...setup.setup import NamedData, Setup
from ..failures import first_sentence
from .kinds import NotFollowedForm, places
from .plain import NotPlain, Plain, Raises

_IDS = ("input_ids", "attention_mask", "labels", "token_type_ids", "position_ids")
_KEPT = (*_IDS, "label", "label_ids")
"""Columns that transformers' Trainer leaves to the collator, which calls each of the last two ``labels``."""


@dataclass
class Scripted:
    """What a script makes of its rows.

    Attributes:
        rows: as its trainer is given them; tokenized where they hold ``input_ids``.
        collator: makes a batch; None where the trainer chooses it by itself.
        trainer: the class that trains; None for an own loop.
        limits: lengths at which its own tokenizing cuts.
        in_order: row for row those that were given, unless some were left out.
    """

    rows: list[dict[str, Any]]
    collator: Any
    trainer: str | None
    limits: set[int]
    in_order: bool

    @property
    def tokenized(self) -> bool:
        """Whether the rows hold token ids."""
        return bool(self.rows) and "input_ids" in self.rows[0]


def way_of(setup: Setup) -> NamedData | None:
    """The data of a script whose way from the file to the trainer was read; None where there is none."""
    if setup.dialect != "python":
        return None
    named = next((each for each in setup.named_data if each.role == "train" and "steps" in each.settings), None)
    # What is trained on as it is read goes the usual way, but for a mask that is made behind the trainer.
    return None if named is None or (setup.data.train and not named.settings.get("responses")) else named


def hands_over_rows(setup: Setup) -> bool:
    """Whether the TRL that runs the script is the installed one, and hands a formatting function one row at a time.

    Older versions handed it a batch, or asked its first answer which of the two it takes (sft_trainer.py).
    """
    pinned = [use.version for use in setup.uses if use.package == "trl"]
    try:
        import inspect
        from importlib.metadata import version

        from trl import SFTTrainer

        prepares = inspect.getsource(SFTTrainer._prepare_dataset)
        return bool(pinned) and set(pinned) <= {None, version("trl")} and "isinstance(formatting_func(" not in prepares
    except (ImportError, OSError, AttributeError):
        return False


def scripted(
    named: NamedData, rows: list[dict[str, Any]], tokenizer: Any, *, newest_trl: bool = False, total: int | None = None
) -> Scripted:
    """Take rows along the way that the script sends them.

    Args:
        total: rows that there are, of which these may be a sample; None where they were not counted.
        newest_trl: TRL is of a version that hands a formatting function one row and takes a text.

    Raises:
        NotFollowedForm: a function of it is not plain, or none of its rows is left.
        StageError: a function of it fails for a row, as it does in the script.
    """
    way = cast(ScriptWay, named.settings)
    plain = Plain(way["functions"], way["constants"], way["tokenizers"], tokenizer, way.get("expressions"))
    doing, whole, read = "", total == len(rows), rows
    try:
        for step in way["steps"]:
            doing = f"The script's {step.get('function') or 'function'} ({step['do']})"
            rows = _step(plain, step, rows, total)
            if step["do"] == "filter" or step.get("batched"):
                total = len(rows) if whole else None
        former = way.get("formatting_func")
        if former:
            doing = f"The script's {former}, to which TRL hands one row,"
            rows = _formatted(plain, former, rows, newest_trl)
    except Raises as why:
        if why.missing is not None and any(why.missing in row for row in rows):
            raise NotFollowedForm(f"The script forms the samples by code that is not followed: {why}") from why
        columns = ", ".join(dict.fromkeys(name for row in rows[:1] for name in row))
        raise StageError(
            f"{doing} fails: {why}. The rows have the columns {columns}.",
            remedy="Correct the function, or the names of the columns that it reads.",
        ) from why
    except NotPlain as why:
        raise NotFollowedForm(f"The script forms the samples by code that is not followed: {why}") from why
    _one_row_each(read, rows, way["steps"])
    if not rows and whole:
        raise StageError("The script's filters keep none of the rows of its data.", remedy="Look at their conditions.")
    if not rows:
        raise NotFollowedForm("The script keeps none of the rows that were looked at.")
    in_order = not any(step["do"] == "filter" for step in way["steps"])
    return Scripted(rows, _collator(way, tokenizer, rows), way.get("trainer"), plain.limits, in_order)


def _step(plain: Plain, step: Step, rows: list[dict[str, Any]], total: int | None) -> list[dict[str, Any]]:
    kind = step["do"]
    if kind == "count":
        least = step["least"]
        if total is not None and least is not None and least > total:
            raise StageError(
                f"The script's {step['call']} fails: it needs {least} rows, and there are {total}.",
                remedy="Take min(n, len(dataset)) rows, or a share.",
            )
        return rows
    if kind in ("remove", "keep", "rename"):
        asked = [step["old"]] if kind == "rename" else _listed(step["columns"])
        _has(asked, step["call"], rows, total)
    if kind == "remove":
        gone = _listed(step["columns"])
        return [{name: value for name, value in row.items() if name not in gone} for row in rows]
    if kind == "keep":
        kept = _listed(step["columns"])
        return [{name: value for name, value in row.items() if name in kept} for row in rows]
    if kind == "rename":
        return [{(step["new"] if name == step["old"] else name): value for name, value in row.items()} for row in rows]
    if kind == "filter":
        return [row for row in rows if _call(plain, step, dict(row))]
    return _mapped(plain, step, rows, total)


def _has(columns: list[str], call: str, rows: list[dict[str, Any]], total: int | None) -> None:
    """The datasets library refuses a name that is no column; what the rows have that were not read is not known."""
    if total != len(rows):
        return
    there = list(dict.fromkeys(name for row in rows for name in row))
    missing = [name for name in columns if name not in there]
    if missing:
        raise StageError(
            f"The script's {call} fails: there is no column {', '.join(missing)}. The rows have the columns "
            f"{', '.join(there)}.",
            remedy="Correct the names of the columns.",
        )


def _mapped(plain: Plain, step: Step, rows: list[dict[str, Any]], total: int | None) -> list[dict[str, Any]]:
    gone = step["remove"]
    if gone and gone != "all":
        _has(_listed(gone), f"map(…, remove_columns={gone!r})", rows, total)
    kept = [
        {} if gone == "all" else {name: value for name, value in row.items() if name not in _listed(gone)}
        for row in rows
    ]
    if not step["batched"]:
        return [{**rest, **_dict(_call(plain, step, dict(row)))} for rest, row in zip(kept, rows, strict=True)]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    found = _dict(_call(plain, step, {name: [row.get(name) for row in rows] for name in columns}))
    sizes = {len(value) for value in found.values() if isinstance(value, list)}
    if len(sizes) != 1:
        raise NotPlain("The function gives columns of different lengths.")
    size = sizes.pop()
    made = [{name: value[index] for name, value in found.items()} for index in range(size)]
    return [{**rest, **new} for rest, new in zip(kept, made, strict=True)] if size == len(rows) else made


def _call(plain: Plain, step: Step, argument: dict[str, Any]) -> Any:
    if step.get("function"):
        return plain.call(step["function"], argument)
    return plain.evaluate(step["lambda"], argument)


def _dict(value: Any) -> dict[str, Any]:
    """What a function of map gave; the datasets library takes a dict, or None for no change."""
    if isinstance(value, str | int | float | list):
        raise StageError(
            f"A function that the script gives to map returns a {type(value).__name__}, and map takes a dict "
            "of columns.",
            remedy='Return a dict: {"text": …}.',
        )
    if not isinstance(value, dict):
        raise NotPlain("A function of map gives no dict.")
    return value


def _one_row_each(read: list[dict[str, Any]], rows: list[dict[str, Any]], steps: list[Step]) -> None:
    """Token ids that are no list of numbers, as where a function takes a batch for a row, or a row for a batch.

    Args:
        read: the rows as they were read.

    Raises:
        NotFollowedForm: a row holds several texts by itself, as the choices of a question are.
        StageError: the tokens of one row are spread over many, or one row holds the tokens of many texts.
    """
    ids = next((row["input_ids"] for row in rows if "input_ids" in row), None)
    batched = any(step.get("batched") for step in steps)
    if isinstance(ids, int) and batched:
        raise StageError(
            "map is given batched=True, so that its function gets lists of values, and the function returns the tokens "
            "of one text: each token becomes a row.",
            remedy="Leave batched=True out, or let the function go over the lists.",
        )
    if isinstance(ids, list) and len(ids) > 1 and isinstance(ids[0], list) and not batched:
        if not any(isinstance(value, str) and len(value) == len(ids) for value in read[0].values()):
            raise NotFollowedForm("The script makes several rows of tokens of one row.")
        raise StageError(
            f"map hands its function one row, and the function returns the tokens of {len(ids)} texts for it: it goes "
            "over the characters of a text as if they were rows.",
            remedy="Pass batched=True to map, or tokenize the row's one text.",
        )


def _formatted(plain: Plain, former: str, rows: list[dict[str, Any]], newest_trl: bool) -> list[dict[str, Any]]:
    """TRL asks a formatting function for the text of one row (of a batch in old versions)."""
    try:
        texts = [plain.call(former, dict(row)) for row in rows]
    except Raises as why:
        if not newest_trl:
            raise NotPlain(str(why)) from why
        raise
    if newest_trl and any(isinstance(text, list) for text in texts):
        raise StageError(
            f"The script's {former} gives a list for a row, and the installed TRL takes a text: it hands over "
            "one row, where older versions handed over a batch.",
            remedy="Let the formatting function return the text of one row.",
        )
    if not all(isinstance(text, str) for text in texts):
        raise NotPlain("The formatting function gives no text for a row.")
    return [{"text": text} for text in texts]


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


def _collator(way: ScriptWay, tokenizer: Any, rows: list[dict[str, Any]]) -> Any:
    """The script's collator, or transformers' own choice for tokenized rows; None leaves it to TRL.

    Raises:
        NotFollowedForm: it cannot be made here.
    """
    if way.get("labels_are_ids"):
        return _ids_as_labels
    said = way.get("collator")
    if said is None:
        if way.get("trainer") == "SFTTrainer" or "input_ids" not in rows[0]:
            return None
        own = "DataCollatorWithPadding" if way.get("has_tokenizer") else "default_data_collator"
        said = {"name": own, "arguments": {}}
    import transformers

    made = getattr(transformers, said["name"])
    whole = bool(way.get("keeps_columns"))
    if said["name"] == "default_data_collator":
        return _with_others(made) if whole else _without_others(made, said["name"])
    arguments = said.get("arguments") or {}
    try:
        collator = made(**arguments) if said["name"] == "DefaultDataCollator" else made(tokenizer, **arguments)
    except Exception as error:
        raise StageError(
            f"The script's collator cannot be made: {first_sentence(error)}",
            remedy="Give the collator what its message asks for.",
        ) from error
    return _with_others(collator) if whole else _without_others(collator, said["name"])


def _with_others(collator: Any) -> Any:
    """With ``remove_unused_columns=False`` the collator is given every column, of which it may make no tensor."""

    def collate(rows: list[dict[str, Any]]) -> Any:
        others = ", ".join(name for name in rows[0] if name not in _KEPT)
        try:
            return collator(rows)
        except Exception as error:
            if not others:
                raise
            raise StageError(
                f"remove_unused_columns=False leaves the columns {others} to the collator, which stops at them: "
                f"{first_sentence(error, 120)}",
                remedy="Remove the columns with map(…, remove_columns=…), or leave remove_unused_columns out.",
            ) from error

    return collate


def _without_others(collator: Any, name: str) -> Any:
    """transformers' Trainer takes columns off that the model has no argument for."""

    def collate(rows: list[dict[str, Any]]) -> Any:
        kept = [{name: row[name] for name in _KEPT if name in row} for row in rows]
        try:
            return collator(kept)
        except Exception as error:
            why = _unpadded(name, kept)
            if why is None:
                raise
            raise StageError(
                f"The collator stops at rows of unequal length: {why}.",
                remedy="Use DataCollatorForSeq2Seq(tokenizer), which pads the labels too, or pad to one length before.",
            ) from error

    return collate


def nothing_left(columns: list[str]) -> None:
    """Refuse rows of which transformers' Trainer takes every column off, for the model has no argument of the name.

    Raises:
        StageError: all columns are of that kind.
    """
    if not {*_KEPT, "inputs_embeds", "pixel_values", "input_features", "input_values"} & set(columns):
        raise StageError(
            f"The rows reach the trainer with the columns {', '.join(columns)}, none of which the model "
            "takes: Trainer takes "
            "them all off, and nothing is left to train on.",
            remedy="Tokenize the rows before: dataset.map(tokenize, remove_columns=dataset.column_names).",
        )


def _unpadded(name: str, rows: list[dict[str, Any]]) -> str | None:
    """What a collator of transformers leaves at its length; None where the rows are of one length.

    Source: data/data_collator.py; ``tokenizer.pad`` pads what the tokenizer made, and labels are the caller's own.
    """
    lengths = {len(row["labels"]) for row in rows if isinstance(row.get("labels"), list)}
    if name in ("DataCollatorWithPadding", "DataCollatorForLanguageModeling") and len(lengths) > 1:
        return f"{name} pads the ids and leaves the column labels as it is ({min(lengths)} to {max(lengths)} tokens)"
    lengths = {len(row["input_ids"]) for row in rows if isinstance(row.get("input_ids"), list)}
    if name in ("default_data_collator", "DefaultDataCollator") and len(lengths) > 1:
        return f"{name} pads nothing ({min(lengths)} to {max(lengths)} tokens)"
    return None


def _ids_as_labels(rows: list[dict[str, Any]]) -> Any:
    """torch's own collator of a loop that hands the model its ids as labels."""
    import torch

    batch = {name: torch.tensor([row[name] for row in rows]) for name in _IDS[:2] if name in rows[0]}
    return {**batch, "labels": batch["input_ids"]}


def responses_only(parts: dict[str, str], tokenizer: Any) -> Any:
    """What Unsloth's train_on_responses_only does behind a collator: labels only between ``response_part`` and the next
    ``instruction_part``.

    Returns a function that wraps a collator; a batch in which the text has the marker and the tokens have it in another
    cut raises ``NotFollowedForm``.
    """
    asks, answers = (
        list(tokenizer(parts[name], add_special_tokens=False)["input_ids"])
        for name in ("instruction_part", "response_part")
    )

    def wrap(collator: Any) -> Any:
        def collate(rows: list[Any]) -> Any:
            batch = collator(rows)
            labels = batch["labels"].clone()
            for row, label in zip(batch["input_ids"].tolist(), labels, strict=True):
                starts = places(row, answers)
                if not starts and parts["response_part"] in tokenizer.decode(row):
                    raise NotFollowedForm("The response marker is cut into other tokens inside the rows.")
                kept = [False] * len(row)
                for start in starts:
                    first = start + len(answers)
                    stop = next((place for place in places(row, asks) if place >= first), len(row))
                    kept[first:stop] = [True] * (stop - first)
                for place, yes in enumerate(kept):
                    if not yes:
                        label[place] = -100
            return {**batch, "labels": labels}

        return collate

    return wrap


def byte_tokenizer() -> Any:
    """A tokenizer of bytes, with the special tokens that scripts ask for: it stands in for one that is not here."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*special.values(), "<pad>", *alphabet]
    tokens = Tokenizer(models.BPE({name: number for number, name in enumerate(names)}, [], unk_token="<unk>"))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokens, **special, pad_token="<pad>")
