"""Training scripts and notebooks in Python, read without being run: transformers, PEFT, TRL, Unsloth.

A script is followed as if it ran without arguments on a card with bf16 (``config/python``). What it says stands with
its place; what argparse or a dataclass has as default is called so; what a file, a command line or code that was not
read decides is unknown. What is absent is absent only where all was seen from the load to the training.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from ...core.errors import ConfigError
from ...setup.setup import Setup
from ...setup.traits import Traits
from ..document import Document

if TYPE_CHECKING:
    from ..python.training_script import TrainingScript

name = "python"
TRAITS = Traits(
    as_written=True,
    hf_names=True,
    switches_of_transformers=True,
    hands_base_to_trl=True,
    heeds_launcher=True,
    hub_ids=True,
    counts_rows=True,
    templates="unsloth",
    of_a_project=False,
)

_LOADS = ("from_pretrained", "BitsAndBytesConfig", "model_init_kwargs")
_ADAPTS = ("LoraConfig", "get_peft_model", "PeftModel")
_TRAINS = re.compile(
    r"TrainingArguments|\b(?:SFT|DPO|ORPO|CPO|KTO|BCO|GRPO|RLOO|PPO|Reward|PRM|GKD|GOLD|OnlineDPO|XPO|NashMD)"
    r"(?:Config|Trainer)\b|UnslothTrainer|[ =]Trainer\(|transformers\.Trainer|from trl\.experimental"
)
"""A trainer of transformers, TRL or Unsloth, or the class of its arguments."""
_TEACHES = re.compile(r"\.backward\(|\boptim|\bfit\(|\.train\(\s*(?!False)|LoraConfig\(|get_peft_model\(|is_trainable")
"""What a script has that trains an adapter in a way of its own, or means to."""
_RUNS = re.compile(r"__main__|\.train\(|\btrain\w*\(")
_IMPORTS = re.compile(r"^[ \t]*(?:from[ \t]+([.\w]+)[ \t]+import|import[ \t]+([\w.]+))", re.MULTILINE)
_MOST_LOOKED_INTO = 12
_TOO_DEEP = "It is nested too deeply to be followed."


def recognise(document: Document) -> float:
    """A script or a notebook that loads, adapts or trains a model."""
    if document.format == "text":
        if document.path is not None and document.path.suffix.lower() not in (".py", ""):
            return 0.0
    elif not is_notebook(document.data):
        return 0.0
    text = document.text
    loads, adapts = (any(word in text for word in words) for words in (_LOADS, _ADAPTS))
    trains = _TRAINS.search(text) is not None
    if not (adapts or trains):
        return 0.5 if _starts_training(document) else 0.0  # 0: a model that is only used
    return (0.5, 0.9, 0.97)[loads + adapts + trains - 1]


def _refuse_inference(script: TrainingScript, document: Document) -> None:
    """An adapter that is loaded where nothing trains is used, and frozen as it should be.

    Raises:
        ConfigError: the script is of this kind.
    """
    code = script.code
    if script.continued is None or script.trainer is not None or _TRAINS.search(code) or _TEACHES.search(code):
        return
    raise ConfigError(
        f"{document.path or 'The script'} loads an adapter and starts no training that is known here.",
        remedy="qlora-doctor adapter FOLDER says whether a stored adapter is whole; check the script that trains.",
    )


def _starts_training(document: Document) -> bool:
    """True for a script that runs a training which modules beside it define."""
    if document.path is None or document.format != "text" or not _RUNS.search(document.text):
        return False
    from ..python.neighbours import Neighbours

    neighbours = Neighbours(document.path)
    found = {match[1] or match[2] for match in islice(_IMPORTS.finditer(document.text), 64)}
    paths = [path for name in sorted(found) if (path := neighbours.module(name, neighbours.script)) is not None]
    modules = [neighbours.document(path) for path in paths[:_MOST_LOOKED_INTO] if path.is_file()]
    texts = [module.text for module in modules if module is not None]
    return any("from_pretrained" in each for each in texts) and any(_TRAINS.search(each) for each in texts)


def is_notebook(data: Any) -> bool:
    """True for a Jupyter notebook of any version."""
    return isinstance(data, dict) and ("nbformat" in data or "worksheets" in data) and bool(data)


_CARD_NAMES = re.compile(r"(?<![\w-])\d*x?(T4|P100|V100|L4|L40S?|A10G?|A100|A6000|H100|H200|RTX)(?![\w])")
_KAGGLE = {"nvidiaTeslaT4": "T4", "nvidiaTeslaP100": "P100", "nvidiaL4": "L4", "nvidiaA100": "A100"}
"""Kaggle's names of its accelerators."""


def _asked_card(data: Any) -> str | None:
    """The card that a notebook was saved with: ``metadata.colab.gpuType``, or Kaggle's accelerator; None: neither is
    given, it is no card that is known here, or the notebook's own text and output speak of other cards alone."""
    metadata = data.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}

    def told(service: str, key: str) -> Any:
        own = metadata.get(service)
        return own.get(key) if isinstance(own, dict) else None

    asked = told("colab", "gpuType") or _KAGGLE.get(str(told("kaggle", "accelerator")))
    if not isinstance(asked, str) or metadata.get("accelerator") not in ("GPU", None):
        return None
    from ...tables.cards import UnknownCard, find_card

    try:
        found = find_card(asked).name
    except UnknownCard:
        return None
    spoken = set(_CARD_NAMES.findall("\n".join(_written(data))))
    return found if not spoken or any(name in found for name in spoken) else None


def _written(data: dict[str, Any]) -> Iterator[str]:
    """What stands in a notebook's cells, and what they printed."""
    for cell in data.get("cells") or ():
        outputs = cell.get("outputs") if isinstance(cell, dict) else None
        for holder, key in ((cell, "source"), *((output, "text") for output in outputs or ())):
            text = holder.get(key) if isinstance(holder, dict) else None
            yield text if isinstance(text, str) else "".join(map(str, text)) if isinstance(text, list) else ""


def read(document: Document) -> Setup:
    """A script or a notebook → Setup.

    Raises:
        ConfigError: it is no Python, or no notebook, or nested too deeply.
    """
    from ..pins import asked_of
    from ..python.keywords import asked_versions
    from ..python.script_setup import follow_to_setup

    if document.format != "text" and not is_notebook(document.data):
        raise ConfigError(f"{document.path or 'The config'} is neither a Python script nor a notebook.")
    try:
        script, builder = follow_to_setup(document, name, TRAITS)
        _refuse_inference(script, document)
    except RecursionError:
        raise ConfigError(f"{document.path or 'The script'} cannot be followed.", remedy=_TOO_DEEP) from None
    builder.leave("hardware.count", why="How the script is launched decides.")
    card = _asked_card(document.data) if is_notebook(document.data) else None
    if card is not None:
        builder.put_default("hardware.gpu", card, "The card that the notebook's metadata ask for.")
    if script.runs > 1:
        builder.remark("several-runs", None, "The script trains more than once; the first training was read.")
    return builder.setup().model_copy(update={"versions": asked_of(asked_versions(script))})
