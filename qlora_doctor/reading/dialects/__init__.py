"""Dialects: who wrote this config, and for which trainer.

A dialect is a module with ``name``, ``recognise(document) -> float`` (how sure, 0…1; it may look at the path, the text
and the data, and never raises), ``read(document) -> Setup`` and ``TRAITS``, what its trainer does otherwise than a
plain run of transformers. A new one is written beside this file and named in
``DIALECTS``; the order decides between equally sure ones.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from ...core.errors import ConfigError, UsageError
from ...core.text import cleaned
from ...setup.resolved import with_asked_versions
from ...setup.setup import Setup
from ...setup.traits import Traits
from ..document import STDIN, Document, read_document

_HERE = "qlora_doctor.reading.dialects"
DIALECTS: dict[str, str] = {
    "native": "qlora_doctor.reading.native",
    "torchtune": f"{_HERE}.torchtune",
    "nemo-automodel": f"{_HERE}.nemo_automodel",
    "peft-adapter": f"{_HERE}.peft_adapter",
    "hf-model-config": f"{_HERE}.transformers_config",
    "accelerate-config": f"{_HERE}.accelerate_config",
    "ludwig": f"{_HERE}.ludwig",
    "autotrain": f"{_HERE}.autotrain",
    "h2o-llmstudio": f"{_HERE}.h2o_llmstudio",
    "litgpt": f"{_HERE}.litgpt",
    "oumi": f"{_HERE}.oumi",
    "llamafactory-v1": f"{_HERE}.llamafactory_v1",
    "unsloth-studio": f"{_HERE}.unsloth_studio",
    "llamafactory": f"{_HERE}.llamafactory",
    "ms-swift": f"{_HERE}.swift",
    "axolotl": f"{_HERE}.axolotl",
    "mftcoder": f"{_HERE}.mftcoder",
    "firefly": f"{_HERE}.firefly",
    "llm-finetuning-toolkit": f"{_HERE}.finetuning_toolkit",
    "qlora-pipe": f"{_HERE}.qlora_pipe",
    "trl": f"{_HERE}.trl",
    "xtuner": f"{_HERE}.xtuner",
    "python": f"{_HERE}.python_script",
    "foreign": f"{_HERE}.foreign",
    "shell": f"{_HERE}.shell",
    "custom": f"{_HERE}.homemade",
}
"""Name → module; modules are imported when a file has to be recognised."""

ALSO_CALLED = {"alignment-handbook": "trl", "bnb-config": "hf-model-config"}
"""Further names that a Setup may carry; what a shell script starts is ``shell-`` and the trainer's name."""

LEAST_SURE = 0.3
"""Below it a file is not taken for a dialect's config."""


class Dialect(Protocol):
    """What a dialect's module offers."""

    name: str
    TRAITS: Traits

    def recognise(self, document: Document) -> float: ...
    def read(self, document: Document) -> Setup: ...


def dialect_named(name: str) -> Dialect:
    """The dialect of this name.

    Raises:
        UsageError: there is none.
    """
    name = ALSO_CALLED.get(name, name.partition("-")[0] if name.startswith("shell-") else name)
    if name not in DIALECTS:
        raise UsageError(f"There is no dialect {name!r}; known are {', '.join(DIALECTS)}.")
    return cast(Dialect, import_module(DIALECTS[name]))


def recognise(document: Document) -> tuple[Dialect, float]:
    """The dialect that is surest of a document.

    Raises:
        ConfigError: none is sure enough.
    """
    if document.recognised is None:
        document.recognised = _surest(document)
    name, sure = document.recognised
    if sure < LEAST_SURE:
        from . import shell

        if shell.is_shell(document):
            shell.refuse(document)
        if document.path is not None and document.path.suffix.lower() in (".py", ".ipynb"):
            raise ConfigError(
                f"{document.path} builds no LoRA adapter and starts no training that is known here, neither by itself "
                "nor in the modules beside it.",
                remedy="Check the script that loads the model and trains it.",
            )
        raise ConfigError(
            f"{document.path} is not a config that is known here: it has {_glance(document)}.",
            remedy="A native config has `model` and any of quantization, lora, training, data; "
            "`qlora-doctor init` writes one, --dialect says which one this is.",
        )
    return dialect_named(name), sure


def _surest(document: Document) -> tuple[str, float]:
    best = ("", 0.0)
    for name in DIALECTS:
        sure = dialect_named(name).recognise(document)
        if sure > best[1]:
            best = (name, sure)
        if sure >= 1.0:  # nobody can be surer: the others need not even be imported
            break
    return best


def read_setup(path: Path, *, dialect: str | None = None) -> Setup:
    """A config file in any dialect → Setup.

    Args:
        path: the file, or the folder of a saved adapter or model.
        dialect: the dialect's name; None recognises it from the content.

    Raises:
        ConfigError: the file cannot be read, is not recognised or is invalid.
        UsageError: there is no dialect of this name.
    """
    document = read_document(file_of(Path(path)))
    if dialect is not None:
        chosen = dialect_named(dialect)
        sure = chosen.recognise(document)
    else:
        chosen, sure = recognise(document)
    setup = with_asked_versions(_with_versions(_launched(chosen.read(document), document), document))
    told = {"dialect_confidence": sure, "dialect_named": dialect is not None}
    return cleaned(setup).model_copy(update=told | {"file": setup.file})  # the name by which it is opened stays


def _launched(setup: Setup, document: Document) -> Setup:
    """The setup as its project starts it; a shell script says by itself how."""
    if not setup.traits.heeds_launcher or document.path is None or document.path == STDIN:
        return setup
    from ..launching import started_by_accelerate

    return started_by_accelerate(setup, document.path)


def _with_versions(setup: Setup, document: Document) -> Setup:
    """The setup with the versions that the project of its file asks for."""
    if not setup.traits.of_a_project or document.path is None or document.path == STDIN:
        return setup
    from ..pins import PACKAGES, asked_of, pins_in
    from ..python.neighbours import Neighbours

    versions = asked_of(pins_in(Neighbours(document.path).folders, PACKAGES))
    return setup.model_copy(update={"versions": {**setup.versions, **versions}}) if versions else setup


def file_of(path: Path) -> Path:
    """The file that describes a saved adapter or model, where its folder is named."""
    names = ("adapter_config.json", "config.json")
    return next((path / name for name in names if (path / name).is_file()), path)


def _glance(document: Document) -> str:
    """What a file has at its top, in a few words."""
    if isinstance(document.data, dict):
        keys = [str(key)[:40] for key in list(document.data)[:5]]
        more = ", …" if len(document.data) > 5 else ""
        return f"the key{'s' * (len(keys) > 1)} {', '.join(keys)}{more}" if keys else "an empty mapping"
    if document.format == "text":
        return "program text"
    if document.data is None:
        return "nothing in it but null" if document.format == "json" else "nothing but comments"
    return ("a list" if isinstance(document.data, list) else "a single value") + " at its top"
