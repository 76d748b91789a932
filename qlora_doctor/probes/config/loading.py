"""What from_pretrained and PEFT make of a config's model, switches and stored keys, by the versions installed."""

from __future__ import annotations

import re
from typing import Any

from ...facts.config import UnknownKey
from ...setup.defaults import Libraries
from ...setup.setup import Setup
from ...tables.known_arguments import PEFT_FIRST, PEFT_SINCE
from .checkpoint import SWITCHES

_SCRIPTED = "quantization-switch-of-from-pretrained"
_REFUSES_BOTH = (4, 38)
"""Before, a switch is left aside where a quantization_config is given (modeling_utils.py of 4.37.2 and 4.38.0)."""
_ADAPTER_WORDS = {"adapter", "adapters", "lora", "qlora", "peft"}


def loading_facts(setup: Setup, libraries: Libraries) -> dict[str, Any]:
    """Facts of how the base and a stored adapter are loaded."""
    scripted = [str(remark.key) for remark in setup.remarks if remark.kind == _SCRIPTED]
    # A script's switches are read as options of quantization, and the remark says that there is no config of these.
    written = not scripted and any(
        path.startswith("quantization.") and origin.source == "explicit" for path, origin in setup.origins.items()
    )
    beside = [name for name in SWITCHES if setup.model.extra.get(name)]
    if written and libraries.transformers is not None and libraries.transformers < _REFUSES_BOTH:
        beside = []
    return {
        "model_named_adapter": named_as_adapter(setup),
        "load_switches": scripted or beside,
        "load_switches_taken": None if libraries.transformers is None else libraries.transformers < (5,),
        "quantization_written": written,
        **_stored_keys(setup, libraries),
    }


def named_as_adapter(setup: Setup) -> bool | None:
    """True where a hub id's last word is one for an adapter; merged models say so before it ends."""
    written = setup.model.name_or_path
    if written is None or setup.is_unknown("model.name_or_path"):
        return None
    words = re.split(r"[-_. ]", written.rstrip("/").rpartition("/")[2].lower())
    return len(words) > 1 and words[-1] in _ADAPTER_WORDS and not {"merged", "merge", "fused"} & set(words)


def _stored_keys(setup: Setup, libraries: Libraries) -> dict[str, Any]:
    """Keys of an adapter_config.json against the installed PEFT: peft/config.py drops strangers from 0.14 on."""
    if not setup.stored_keys:
        return {"keys_newer_than_peft": [], "peft_refuses_keys": False}
    if libraries.peft is None:
        return {}
    refuses = libraries.peft < (0, 14)
    newer = [_verdict(key, libraries.peft) for key, is_set in setup.stored_keys.items() if is_set or refuses]
    return {"keys_newer_than_peft": [key for key in newer if key is not None], "peft_refuses_keys": refuses}


_WITHOUT_EFFECT = {"peft_version", "qalora_group_size"}
"""Keys that say nothing by themselves."""


def _verdict(key: str, installed: tuple[int, ...]) -> UnknownKey | None:
    since = PEFT_SINCE.get(key)
    if key in PEFT_FIRST or (since is not None and installed >= since):
        return None
    if installed >= (0, 14) and key in _WITHOUT_EFFECT:
        return None
    note = f"since PEFT {since[0]}.{since[1]}" if since is not None else "not known to PEFT up to 0.21"
    return UnknownKey(key=key, note=note)
