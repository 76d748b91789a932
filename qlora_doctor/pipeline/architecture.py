"""Which architecture a setup means: a folder, the hub's cache, or the bundled table → a transformers config."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..core.errors import StageError
from ..setup.paths import resolve
from ..setup.setup import Setup
from ..tables.architectures import closest_architectures, find_architecture
from .failures import first_sentence, kind_of


@dataclass(frozen=True)
class Architecture:
    """What the model is, before anything is built.

    Attributes:
        config: a transformers ``PretrainedConfig``; it belongs to this object, copy before changing it.
        source: ``folder``; ``cache`` (the hub's cache on this machine); ``hub`` (downloaded now); ``table`` (bundled).
        name: what from_pretrained is given: the folder's path or the hub id.
        folder: where config.json (and perhaps the weights) lie; None for the table.
        published_parameters: logical parameters as published; known for the table alone.
        raw: the content of config.json.
    """

    config: Any
    source: Literal["folder", "cache", "hub", "table"]
    name: str
    folder: Path | None
    published_parameters: int | None
    raw: dict[str, Any]


def context_length(config: Any) -> int | None:
    """Positions that the model has, None where its config sets no limit."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    named = ("max_position_embeddings", "n_positions", "max_seq_len")
    values = [next((value for name in named if (value := getattr(text, name, None))), None)]
    values.append(getattr(text, "max_target_positions", None))  # of a decoder of speech, beside the sound's
    return min((value for value in values if isinstance(value, int) and value > 0), default=None)


def load_config(setup: Setup, *, offline: bool = True, with_files: bool = False) -> Architecture:
    """The architecture that ``model`` names.

    A folder wins, then the hub's cache, then the bundled table; only with ``offline=False`` the hub is asked. Code in
    the model's folder runs only where ``model.trust_remote_code`` is true.

    Args:
        offline: download nothing.
        with_files: weights or a tokenizer will be wanted as well, which the table does not have: the hub is asked
            first, as it is for a revision of its own.

    Raises:
        StageError: kind ``missing-config``, ``no-such-model``, ``unknown-architecture``, ``remote-code``,
            ``invalid-config`` or ``other``.
    """
    name = setup.model.name_or_path
    if not name:
        raise StageError(
            "The config names no model.",
            kind="missing-config",
            remedy="Set model to a hub id or a folder.",
            place=setup.place("model"),
        )
    folder = find_folder(name, setup)
    if folder is not None:
        return _from_folder(folder, setup, "folder", str(folder))
    if _looks_like_path(name):
        raise StageError(
            f"There is no folder {name!r}.",
            kind="missing-config",
            remedy="Correct the path; it is read relative to the config file.",
            place=setup.place("model.name_or_path"),
        )
    cached = _cached_config(name, setup.model.revision)
    if cached is not None:
        return _from_folder(cached.parent, setup, "cache", name)
    known = find_architecture(name)
    # Without a network the hub's client tries for half a minute before it gives up.
    enough = known is not None and not with_files and setup.model.revision is None
    try:
        downloaded = None if offline or enough else _config_from_hub(name, setup)
    except StageError:
        if known is None:
            raise
        downloaded = None
    if downloaded is not None:
        return _from_folder(downloaded.parent, setup, "hub", name)
    if known is not None:
        return _from_table(known, setup)
    raise _not_at_hand(name, setup, offline)


def find_folder(name: str, setup: Setup) -> Path | None:
    """The folder that a path in the config means: relative to the config file first, then to the working directory."""
    found = resolve(setup, name)
    return found.resolve() if found is not None and found.is_dir() else None


def _from_folder(folder: Path, setup: Setup, source: Literal["folder", "cache", "hub"], name: str) -> Architecture:
    raw = _read_json(folder, setup)
    model_type = raw.get("model_type")
    trusted = bool(setup.model.trust_remote_code)
    auto_map = raw.get("auto_map")
    own_code = auto_map if isinstance(auto_map, dict) else {}
    if not trusted and "AutoConfig" in own_code and not _is_known(model_type):
        raise StageError(
            f"The architecture {model_type!r} is not part of transformers: the model brings its own Python code.",
            kind="remote-code",
            remedy="Read the code in the model's folder, then pass --trust-remote-code to run it.",
            place=setup.place("model"),
        )
    if not own_code and not _is_known(model_type):
        raise _unknown(model_type, setup)
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=trusted, local_files_only=True)
    except Exception as error:
        raise _invalid(error, setup) from error
    return Architecture(config, source, name, folder, None, raw)


def _from_table(known: Any, setup: Setup) -> Architecture:
    from transformers import AutoConfig

    raw = dict(known.config)
    arguments = dict(raw)
    model_type = arguments.pop("model_type")
    if not _is_known(model_type):
        raise _unknown(model_type, setup)
    try:
        config = AutoConfig.for_model(model_type, **arguments)
    except Exception as error:
        raise _invalid(error, setup) from error
    return Architecture(config, "table", known.id, None, known.published_parameters, raw)


def _read_json(folder: Path, setup: Setup) -> dict[str, Any]:
    path = folder / "config.json"
    place = setup.place("model.name_or_path")
    if not path.is_file():
        if (folder / "adapter_config.json").is_file():
            raise StageError(
                f"{folder} holds an adapter, not a model.",
                kind="missing-config",
                remedy="Name the base as model, and this folder as its adapter.",
                place=place,
            )
        raise StageError(
            f"{folder} has no config.json.",
            kind="missing-config",
            remedy="Name the folder that holds the model's config.json.",
            place=place,
        )
    try:
        raw = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        message = f"{path} cannot be read: {first_sentence(error)}"
        raise StageError(message, kind="invalid-config", remedy="Repair the file.", place=place) from error
    if not isinstance(raw, dict):
        raise StageError(f"{path} is no JSON object.", kind="invalid-config", remedy="Repair the file.", place=place)
    return raw


def _cached_config(name: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(name, "config.json", revision=revision)
    except ValueError:  # no valid hub id
        return None
    return Path(found) if isinstance(found, str) else None


def _config_from_hub(name: str, setup: Setup) -> Path | None:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, "config.json", revision=setup.model.revision))
    except Exception as error:  # offline, gated, …: the caller has an answer without the hub
        if _is_no_such_model(error):
            raise StageError(
                f"The hub has no model {name!r} that this machine may see.",
                kind="no-such-model",
                remedy="Correct the id, or log in with `hf auth login`.",
                place=setup.place("model.name_or_path"),
            ) from error
        return None


def _is_no_such_model(error: Exception) -> bool:
    """True where the hub itself answered so; a gated model is there."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    return isinstance(error, RepositoryNotFoundError) and not isinstance(error, GatedRepoError)


def _is_known(model_type: Any) -> bool:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return isinstance(model_type, str) and model_type in CONFIG_MAPPING


def _unknown(model_type: Any, setup: Setup) -> StageError:
    import transformers

    version = transformers.__version__
    return StageError(
        "config.json names no model_type, so its architecture is unknown."
        if model_type is None
        else f"config.json says model_type {model_type!r}, which transformers {version} does not know.",
        kind="unknown-architecture",
        remedy="Install a newer transformers, or correct model_type.",
        place=setup.place("model"),
    )


def _invalid(error: Exception, setup: Setup) -> StageError:
    kind = "remote-code" if kind_of(error) == "remote-code" else "invalid-config"
    return StageError(
        f"The model's config.json is not valid: {first_sentence(error)}",
        kind=kind,
        remedy="Compare it with the one of the original model.",
        place=setup.place("model"),
    )


def _not_at_hand(name: str, setup: Setup, offline: bool) -> StageError:
    close = closest_architectures(name)
    hint = f" Names like it: {', '.join(close)}." if close else ""
    where = "in the hub's cache on this machine" if offline else "on the hub (as far as this machine can reach it)"
    remedy = "Name a folder that holds the model's config.json, or download the model first."
    stored = re.search(r"(?<![a-z])(gptq|awq|gguf|exl2|aqlm)(?![a-z])", name, re.IGNORECASE)
    if stored is not None:
        remedy = f"{stored[0].upper()} is quantized already: name the 16-bit checkpoint that it was made from."
    return StageError(
        f"The model {name!r} is neither a folder, nor {where}, nor in the bundled table of architectures.{hint}",
        kind="missing-config",
        remedy=remedy,
        place=setup.place("model.name_or_path"),
    )


def _looks_like_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name
