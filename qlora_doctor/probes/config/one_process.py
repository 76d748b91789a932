"""Several cards and one process: what a trainer makes of cards that no launcher gives a process of their own.

``TrainingArguments.n_gpu`` counts the cards that a process sees without a launcher; ``train_batch_size`` is so many
times the batch of a device, and ``Trainer._wrap_model`` leaves a 4-bit or 8-bit model out of ``nn.DataParallel``: the
first card takes the whole batch, and the loss, made for averaged replicas, is so many times too large
(``Trainer._get_num_items_in_batch`` and ``compute_loss`` of transformers 5.23). A model on another device than the
first, or on several, counts as one card.
"""

from __future__ import annotations

import re
from typing import Any

from ...facts.config import ConfigFacts, Remark
from ...facts.environment import EnvironmentFacts
from ...setup.defaults import Libraries
from ...setup.setup import Setup
from .text import text_of

_SAID = re.compile(r"CUDA_VISIBLE_DEVICES\\?[\"']?\]?\s*[=,]\s*\\?[\"']?(\d+(?:\s*,\s*\d+)*)(?![\w,-])")
_LAUNCHED = re.compile(
    r"(?i)local_rank|world_size|accelerate[ -]launch|Accelerator|PartialState|_launcher|torchrun|torch\.distributed"
    r"|deepspeed|fsdp"
)
"""Words of a script that knows of several processes; ``pip install accelerate`` is none."""
_FIRST = ("", "cuda", "cuda:0", "0")
_REFUSED_FROM = (1, 16)
"""trl 1.16 stops where a process sees several cards, 1.9 does not yet; in between it is not known."""


def launch_facts(setup: Setup, known: ConfigFacts, environment: EnvironmentFacts | None) -> dict[str, Any]:
    """``launch`` and ``visible_cards`` of :class:`ConfigFacts`.

    Args:
        known: the facts of the config that are known already.
    """
    launch = _launch(setup, known)
    if launch not in ("alone", "unsaid"):
        return {"launch": launch, "visible_cards": None}
    text = text_of(setup) or ""
    said = {len(found.split(",")) for found in _SAID.findall(text)}
    if said or "CUDA_VISIBLE_DEVICES" in text:
        cards = said.pop() if len(said) == 1 else None
    else:
        gpus = environment.gpus if environment is not None else None
        named = setup.hardware.gpu is not None or setup.hardware.memory is not None
        cards = None if not gpus or named else len(gpus)
    return {"launch": launch, "visible_cards": cards if _on_the_first_card(setup) else None}


def _launch(setup: Setup, known: ConfigFacts) -> str | None:
    """``alone``, ``several``, or ``unsaid`` for a script that may be given to a launcher; None of other files."""
    if known.distributed not in ("none", None) or known.several_processes:
        return "several"
    if setup.traits.own_loop is not None or setup.traits.own_options:
        return None
    if setup.dialect == "native":
        return "unsaid" if setup.hardware.count is None else None
    origin = setup.origins.get("hardware.count")
    if setup.dialect.startswith("shell-"):
        by_python = origin is not None and origin.source == "dialect_default"
        return "alone" if by_python and not setup.traits.starts_processes else None
    text = text_of(setup)
    if setup.dialect != "python" or setup.hardware.count is not None or text is None or _LAUNCHED.search(text):
        return None
    return "alone" if str(setup.file).endswith(".ipynb") else "unsaid"


def _on_the_first_card(setup: Setup) -> bool:
    """Whether all of the model goes to the first card, so that ``Trainer.is_model_parallel`` stays False.

    TRL spreads a model that it loads by name, where nothing else is said (``create_model_from_path`` of trl 1.16).
    """
    if setup.is_unknown("model.device_map"):
        return False
    by_script = setup.model.model_class is not None
    if setup.model.device_map is None and setup.training.trainer == "trl" and not by_script:
        return False
    device_map = setup.model.device_map
    places = device_map.values() if isinstance(device_map, dict) else [device_map or ""]
    return all(str(place) in _FIRST for place in places)


def refused_of_one_process(known: ConfigFacts, libraries: Libraries) -> list[Remark]:
    """TRL's trainers stop where one process sees several cards."""
    cards, trl = known.visible_cards, libraries.trl
    alone = known.launch == "alone" and cards is not None and cards > 1
    if not alone or known.trainer != "trl" or trl is None or trl < _REFUSED_FROM:
        return []
    note = (
        f"TRL stops: one process sees {cards} cards, and its trainers do not take that; start the run by accelerate "
        "launch or torchrun, or show one card (CUDA_VISIBLE_DEVICES=0)."
    )
    return [Remark(kind="one-process-of-several-cards", about="distribution", key="training.trainer", note=note)]
