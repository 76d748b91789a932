"""Samples as trainers that are not installed here form them: rows of the named files, rendered, masked and cut.

``follow`` is the one way in. Where the trainer is TRL or transformers its own code makes the batch (``batches``); here
are those whose forms are followed by what their documentation and source say, and a script's own functions.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.errors import StageError
from ...core.labels import IGNORED
from ...setup.paths import resolve
from ...setup.setup import NamedData, Setup
from . import autotrain, axolotl, llamafactory, oumi, swift, torchtune
from .files import Read, files_below, not_at_hand, of_table, read_files
from .kinds import CannotForm, Followed, FormedRow, FormedSet, NotFollowedForm

if TYPE_CHECKING:
    from ..own_code.asking import Asked
    from ..own_code.finding import TrainerPython
    from ..own_code.taking import Made

__all__ = ["Followed", "FormedRow", "FormedSet", "NotFollowedForm", "dropped_by_reason", "follow", "is_followed"]

_Form = Callable[[NamedData, list[tuple[int | None, dict[str, Any]]], FormedSet, Any], list[FormedRow]]
_HOW_MANY = re.compile(r"#\d+\Z")
"""ms-swift: how many of a data set's rows, behind its name."""
MASKED, LONG, SHORT = "nothing of it is trained", "longer than the limit", "too short"


def _leaves_tokenizer(tokenizer: Any, settings: dict[str, Any]) -> None:
    """Nothing is changed of the tokenizer."""


def _cuts_nothing(settings: dict[str, Any]) -> tuple[int | None, str]:
    """No row is too long, or none of its tokens are known here."""
    return None, "cut"


@dataclass(frozen=True)
class _Trainer:
    """A trainer whose forms are followed: its rows, its tokenizer, what it says of lengths."""

    name: str
    form: _Form
    settings: Callable[[NamedData], dict[str, Any]]
    packing: str
    prepare: Callable[[Any, dict[str, Any]], None] = _leaves_tokenizer
    limits: Callable[[dict[str, Any]], tuple[int | None, str]] = _cuts_nothing
    drops_masked: bool = False


_TRAINERS = {
    "axolotl": _Trainer(
        "axolotl", axolotl.form, axolotl.settings_of, "sample_packing", axolotl.prepare_tokenizer, axolotl.limits,
        drops_masked=True,
    ),
    "llamafactory": _Trainer(
        "LLaMA-Factory", llamafactory.form, llamafactory.settings_of, "packing", llamafactory.prepare_tokenizer,
        lambda settings: (int(settings["cutoff_len"]), "cut"),
    ),
    "ms-swift": _Trainer("ms-swift", swift.form, swift.settings_of, "packing", swift.prepare_tokenizer, swift.limits),
    # AutoTrain's text_column has a value always, and its texts are always joined
    "autotrain": _Trainer("AutoTrain", autotrain.form, autotrain.settings_of, "text_column"),
    "oumi": _Trainer("oumi", oumi.form, oumi.settings_of, "pack", limits=oumi.limits),
    "torchtune": _Trainer("torchtune", torchtune.form, torchtune.settings_of, "packed"),
}  # fmt: skip


def is_followed(setup: Setup) -> bool:
    """True where the samples of this dialect's trainer are formed here, so far as they are at hand."""
    return _trainer(setup) is not None and any(each.role == "train" for each in setup.named_data)


def follow(
    setup: Setup, tokenizer: Any, rows: int, *, offline: bool = True, own: TrainerPython | None = None
) -> Followed | None:
    """The samples that the config names, as its trainer would form them; None where that is no business of this room.

    Args:
        tokenizer: the model's own, as it is loaded; None where there is none on this machine: tokens are left out then.
        rows: as many are looked at, shared out among the data sets.
        own: a Python that has the trainer, which is asked for the tokens and labels of the rows.

    Raises:
        NotFollowedForm: none of the data sets is at hand, or of a form that is followed.
        StageError: a file cannot be read, or the trainer would stop at a row.
    """
    trainer = _trainer(setup)
    named = [each for each in setup.named_data if each.role == "train"]
    if trainer is None or not named:
        return None
    settings = trainer.settings(named[0])
    if tokenizer is not None:
        trainer.prepare(tokenizer, settings)
    limit, long_rows = trainer.limits(settings)
    followed = Followed([], [], f"qlora-doctor after {trainer.name}", limit=limit)
    followed.tokenizer, followed.packing = tokenizer, bool(settings.get(trainer.packing))
    share = max(32, rows // len(named))
    reads: list[Read] = []
    at_hand: list[tuple[NamedData, FormedSet, int]] = []
    for index, each in enumerate(named):
        told = FormedSet(each.name or "?", each.key)
        followed.sets.append(told)
        try:
            reads.append(_read(setup, each, told, share, offline))
            at_hand.append((each, told, index))
        except NotFollowedForm as why:
            told.not_followed = str(why)
    asked = _ask(own, trainer.name, tokenizer, [each for each, _, _ in at_hand], reads) if reads else None
    made = asked.sets if asked is not None and asked.failure is None else [None] * len(reads)
    for (each, told, index), read, theirs in zip(at_hand, reads, made, strict=True):
        try:
            formed = _formed(each, read, told, trainer, tokenizer, theirs)
        except NotFollowedForm as why:
            told.not_followed = str(why)
            continue
        for row in formed:
            row.set_number = index
            _finish(row, limit, long_rows, trainer, settings)
        followed.rows += formed
    if not followed.rows:
        whys = [told.not_followed for told in followed.sets if told.not_followed]
        raise NotFollowedForm(whys[0] if whys else "The data holds no rows.")
    _sign(followed, trainer.name, asked)
    return followed


def _sign(followed: Followed, trainer: str, asked: Asked | None) -> None:
    """Say by what code the rows were formed."""
    forms = dict.fromkeys(each.form for each in followed.sets if each.form and each.not_followed is None)
    followed.by = f"qlora-doctor after {trainer}'s {' and '.join(forms)}" if forms else followed.by
    if asked is not None:
        followed.own = asked.failure is None
        followed.by = f"{asked.by}'s own code" if followed.own else f"{followed.by} ({asked.failure})"


def _ask(
    own: TrainerPython | None, name: str, tokenizer: Any, named: Sequence[NamedData], reads: Sequence[Read]
) -> Asked | None:
    """What the trainer's own code makes of the rows; None where it is nowhere, or where there is no tokenizer."""
    if own is None or tokenizer is None or any(str(each.key).startswith("pretraining_dataset") for each in named):
        return None
    from ..own_code.asking import ask
    from ..own_code.taking import adopt

    place = Path(str(tokenizer.name_or_path))
    model = str(place.absolute()) if place.exists() else str(tokenizer.name_or_path)
    sets = [(each.settings, [row for _, row in read.rows]) for each, read in zip(named, reads, strict=True)]
    asked = ask(own, name, model, named[0].settings, sets)
    adopt(tokenizer, asked.tokens)
    return asked


def _trainer(setup: Setup) -> _Trainer | None:
    return _TRAINERS.get(setup.traits.forms or "")


def _read(setup: Setup, named: NamedData, told: FormedSet, rows: int, offline: bool) -> Read:
    read = read_named(setup, named, rows, offline=offline)
    told.total, told.columns, told.seen = read.total, read.columns, len(read.rows)
    told.empty = {name for name in read.columns if not any(row.get(name) for _, row in read.rows)}
    most = named.settings.get("max_samples")
    if isinstance(most, int) and told.total is not None:
        told.total = min(told.total, most)
    return read


def _formed(
    named: NamedData, read: Read, told: FormedSet, trainer: _Trainer, tokenizer: Any, theirs: Made | None
) -> list[FormedRow]:
    """The rows of one data set.

    Args:
        theirs: what the trainer's own code made of them; None where it was not asked.
    """
    try:
        if theirs is None:
            return trainer.form(named, read.rows, told, tokenizer)
        from ..own_code.taking import take

        try:
            ours = trainer.form(named, [(place, row) for place, (_, row) in enumerate(read.rows)], told, tokenizer)
        except (CannotForm, NotFollowedForm):
            ours, told.told_by_trainer, told.form = [], True, told.form or named.format
        return take(theirs, ours, read.rows, tokenizer)
    except CannotForm as error:
        raise StageError(f"{told.name}: {error}", place=named.place) from error


def read_named(setup: Setup, named: NamedData, rows: int, *, offline: bool = True) -> Read:
    """Rows of a data set that a config names: of its files, or of the hub's cache.

    Raises:
        NotFollowedForm: it is not at hand.
        StageError: it is, and cannot be read.
    """
    written = named.files or ([_HOW_MANY.sub("", named.name)] if named.name else [])
    paths = [path for each in written if (path := resolve(setup, each)) is not None]
    if paths and len(paths) == len(written):
        as_folder = named.kind != "registry" and not named.files
        by_split = (named.split or ("train" if named.role == "train" else None)) if as_folder else None
        files = [file for path in paths for file in files_below(Path(path), by_split)]
        if not files:
            raise NotFollowedForm(f"{paths[0]} holds no file of a kind that is read.")
        return read_files(files, rows, named.split)
    if named.kind == "hub" and named.name and not named.files:
        return _from_hub(named, rows, offline)
    if named.kind == "registry" and named.not_followed:
        raise NotFollowedForm(named.not_followed)
    missing = next((each for each in written if resolve(setup, each) is None), named.name)
    if missing is None:
        raise NotFollowedForm(
            f"{named.format or named.key or 'A class'} brings rows of its own, which are not followed."
        )
    raise NotFollowedForm(f"{missing} is not on this machine.")


def _from_hub(named: NamedData, rows: int, offline: bool) -> Read:
    """From the cache alone where offline; otherwise streamed, a few hundred rows."""
    import itertools

    name = _HOW_MANY.sub("", str(named.name))
    try:
        import datasets

        split = named.split or "train"
        data = datasets.load_dataset(name, named.subset, split=split, streaming=not offline)
        if isinstance(data, datasets.Dataset):
            return Read(list(of_table(data, rows)), len(data), list(data.column_names))
        found = list(itertools.islice(iter(data), rows))
    except Exception as error:
        raise NotFollowedForm(not_at_hand(name, error)) from error
    if not found:
        raise StageError(f"The data {named.name!r} is empty.", place=named.place)
    return Read(list(enumerate(found)), None, list(found[0]))


def _finish(row: FormedRow, limit: int | None, long_rows: str, trainer: _Trainer, settings: dict[str, Any]) -> None:
    """Cut or leave out a row that is too long, and leave out what the trainer leaves out."""
    row.length = row.length or len(row.ids)
    if row.dropped is not None:
        return
    if limit is not None and len(row.ids) > limit:
        if long_rows == "drop":
            row.dropped = LONG
            return
        row.cut, row.loses = row.ids[limit:], any(label != IGNORED for label in row.labels[limit:])
        row.ids, row.labels = row.ids[:limit], row.labels[:limit]
    if row.ids and len(row.ids) < int(settings.get("min_sample_len") or 0):
        row.dropped = SHORT
    masked = row.labels.count(IGNORED) == len(row.labels) if row.ids else row.teaches is False
    if masked and trainer.drops_masked and row.dropped is None:
        row.dropped = MASKED


def dropped_by_reason(followed: Followed) -> dict[str, int]:
    """How many of the rows that were looked at the trainer leaves out, by reason."""
    return dict(Counter(row.dropped for row in followed.rows if row.dropped is not None))
