"""What a folder holds: an adapter, a whole model, or nothing; and everything that its files say."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

from ...core.errors import StageError
from ...facts.stored import StoredFacts
from ..config.stored_adapter import CONFIG, PICKLED, WEIGHTS
from ..load.checkpoint import Checkpoint, StoredTensor, read_checkpoint, read_header
from .adapter import adapter_facts, wrong_kind
from .against_base import held_against_base
from .bases import base_folder, commit_of, revision_difference
from .servers import servers
from .texts import read_json
from .tokens import token_facts
from .trained import Trained, base_differences
from .whole import whole_facts

_SERVABLE = ("whole", "pickled")
_SMALL = 64 << 10
"""Bytes from which a file of weights surely holds some."""
_SHOWN = (".json", ".safetensors", ".bin", ".model", ".jinja", ".pt", ".md")


def stored_facts(folder: Path, base: Path | None = None, trained: Trained | None = None) -> StoredFacts:
    """What the files of a folder say; the weights are read, and nothing is run or unpickled.

    Args:
        folder: of an adapter, of a checkpoint that has one, or of a merged model.
        base: a folder with the base's config.json, and perhaps its weights and tokenizer; None takes the one that the
            adapter names, where that is here.
        trained: what else is known of the training.
    """
    folder = _inner(folder)
    files = sorted(path for path in folder.iterdir() if path.is_file())
    found: dict[str, Any] = {
        "folder": str(folder),
        "files": [path.name for path in files if path.suffix in _SHOWN],
        "bytes": sum(path.stat().st_size for path in files),
    }
    if (folder / CONFIG).exists() or (folder / WEIGHTS).exists() or (folder / PICKLED).exists():
        found |= _adapter(folder, base)
    elif (folder / "config.json").is_file() or any(path.suffix == ".safetensors" for path in files):
        found |= {"kind": "merged", **whole_facts(folder)}
    else:
        found |= {"kind": "none", "weights": "missing", "inner": [path.parent.name for path in _below(folder)]}
    if found.get("weights") == "missing":
        found["sharded"] = _sharded(folder)
    config = read_json(folder / CONFIG)[0] if found["kind"] == "adapter" else None
    place = base_folder(base, config)
    found |= token_facts(folder, place, found, trained)
    if found["kind"] == "adapter":
        found |= _which_base(place, found, trained)
    return StoredFacts(**found)


def _which_base(place: Path | None, found: dict[str, Any], trained: Trained | None) -> dict[str, Any]:
    """Whether the base at hand, and the one of the config, are that of the adapter."""
    recorded, here = found.get("base_revision"), commit_of(place)
    revision = revision_difference(recorded, place)
    differ = base_differences(trained, found.get("base"), recorded, here)
    if revision is not None:
        differ = [*(differ or []), *([] if revision == "none" else [revision])]
    return {"base_commit": here, "base_differences": differ}


def _inner(folder: Path) -> Path:
    """The folder itself, or the one below it that PEFT made for an adapter with a name of its own."""
    if (folder / CONFIG).exists() or (folder / WEIGHTS).exists() or (folder / "config.json").exists():
        return folder
    below = _below(folder)
    return below[0].parent if len(below) == 1 else folder


def _below(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*/{CONFIG}"))


def _sharded(folder: Path) -> str:
    """The folder with the parts of FSDP (torch's distributed checkpoint) or of DeepSpeed's ZeRO."""
    for pattern in ("*.distcp", "*/*.distcp", "*zero_pp_rank_*", "*/*zero_pp_rank_*"):
        found = next(iter(sorted(folder.glob(pattern))), None)
        if found is not None:
            return "." if found.parent == folder else found.parent.name
    return "none"


def _adapter(folder: Path, base: Path | None) -> dict[str, Any]:
    config, why = read_json(folder / CONFIG)
    found: dict[str, Any] = {"kind": "adapter", "config_failure": why}
    tensors: dict[str, StoredTensor] | None = None
    file = folder / WEIGHTS
    if file.is_file():
        try:
            tensors = read_header(file)
            found["weights"] = "whole" if tensors else "empty"
        except StageError as error:
            found |= {"weights": error.kind, "weights_failure": error.message}
    elif _is_empty_archive(folder / PICKLED):
        found["weights"] = "empty"
    elif (folder / PICKLED).is_file():
        found |= {"weights": "pickled", "weights_failure": f"{PICKLED} is a pickle, and pickles are not opened here."}
    else:
        found |= {"weights": "missing", "weights_failure": f"There is no {WEIGHTS} in {folder}."}
    if config is not None and tensors is not None and (wrong := wrong_kind(config, tensors)) is not None:
        found["config_failure"] = wrong
    place = base_folder(base, config)
    named = (config or {}).get("base_model_name_or_path")
    found |= adapter_facts(config or {}, tensors, file, _base_config(place, named))
    replicated = (config or {}).get("layer_replication")  # layers that the base's checkpoint does not have
    if tensors and found["weights"] == "whole" and not replicated:
        found |= held_against_base(found, tensors, _base_checkpoint(place), weigh=base is not None)
    found["servers"] = servers(config, found) if config is not None and found["weights"] in _SERVABLE else None
    return found


def _is_empty_archive(file: Path) -> bool:
    """True of a file of torch.save without a tensor, by its list of entries: nothing is unpickled."""
    try:
        names = zipfile.ZipFile(file).namelist() if file.is_file() and file.stat().st_size < _SMALL else None
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return False
    return bool(names) and not any(re.search(r"/data/\d+$", name) for name in names or ())


def _base_checkpoint(base: Path | None) -> Checkpoint | None:
    """The headers of the base's weights, where these are here."""
    try:
        return read_checkpoint(base) if base is not None else None
    except StageError:
        return None


def _base_config(base: Path | None, named: Any) -> dict[str, Any] | None:
    """config.json of the base: of its folder, else of the table by its name."""
    if base is not None and (base / "config.json").is_file():
        return read_json(base / "config.json")[0]
    if base is None and isinstance(named, str):
        from ...tables.architectures import find_architecture

        known = find_architecture(named)
        return known.config if known is not None else None
    return None
