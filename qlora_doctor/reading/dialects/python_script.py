"""Training scripts and notebooks in Python, read without being run: transformers, PEFT, TRL, Unsloth.

A script is followed as if it ran without arguments on a card with bf16 (``config/python``). What it says stands with
its place; what argparse or a dataclass has as default is called so; what a file, a command line or code that was not
read decides is unknown. What is absent is absent only where all was seen from the load to the training.
"""

from __future__ import annotations

from typing import Any

from ...core.errors import ConfigError
from ...setup.setup import Setup
from ..document import Document

name = "python"

_LOADS = ("from_pretrained", "BitsAndBytesConfig", "model_init_kwargs")
_ADAPTS = ("LoraConfig", "get_peft_model", "PeftModel")
_TRAINS = (
    *("TrainingArguments", "SFTConfig", "SFTTrainer", "DPOTrainer", "ORPOTrainer", "GRPOTrainer", "KTOTrainer"),
    *("UnslothTrainer", " Trainer(", "=Trainer(", "transformers.Trainer"),
)
_TOO_DEEP = "It is nested too deeply to be followed."


def recognise(document: Document) -> float:
    """A script or a notebook that loads, adapts or trains a model."""
    if document.format == "text":
        if document.path is not None and document.path.suffix.lower() not in (".py", ""):
            return 0.0
    elif not is_notebook(document.data):
        return 0.0
    text = document.text
    loads, adapts, trains = (any(word in text for word in words) for words in (_LOADS, _ADAPTS, _TRAINS))
    if not (adapts or trains):
        return 0.0  # a model that is only used
    return (0.5, 0.9, 0.97)[loads + adapts + trains - 1]


def is_notebook(data: Any) -> bool:
    """True for a Jupyter notebook of any version."""
    return isinstance(data, dict) and ("nbformat" in data or "worksheets" in data) and bool(data)


def read(document: Document) -> Setup:
    """A script or a notebook → Setup.

    Raises:
        ConfigError: it is no Python, or no notebook, or nested too deeply.
    """
    from ..python.keywords import check_keywords
    from ..python.parts import read_adapter, read_data, read_load, read_quantization
    from ..python.sheet import Sheet
    from ..python.source import read_source
    from ..python.story import tell
    from ..python.training import by_card, order_of, read_training

    if document.format != "text" and not is_notebook(document.data):
        raise ConfigError(f"{document.path or 'The config'} is neither a Python script nor a notebook.")
    try:
        source = read_source(document)
        story = tell(source)
        sheet = Sheet(source, name)
        read_load(story, sheet)
        read_quantization(story, sheet)
        read_adapter(story, sheet)
        read_training(story, sheet)
        read_data(story, sheet)
        order_of(story, sheet)
        by_card(sheet)
        check_keywords(story, sheet)
    except RecursionError:
        raise ConfigError(f"{document.path or 'The script'} cannot be followed.", remedy=_TOO_DEEP) from None
    sheet.leave("hardware.count", why="How the script is launched decides.")
    if story.runs > 1:
        sheet.remark("several-runs", None, "The script trains more than once; the first training was read.")
    return sheet.setup()
