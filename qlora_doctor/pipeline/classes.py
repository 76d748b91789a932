"""Which class of transformers loads the model: the one that is named, else the task's, else the checkpoint's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.errors import StageError
from ..setup.resolved import Taken
from ..setup.setup import Setup
from ..tables.known_arguments import TASK_OF_PEFT
from .architecture import Architecture

AUTO_CLASSES: dict[str, tuple[str, ...]] = {
    "image-text-to-text": ("AutoModelForImageTextToText", "AutoModelForVision2Seq"),
    "seq2seq-lm": ("AutoModelForSeq2SeqLM",),
    "causal-lm": ("AutoModelForCausalLM",),
    "speech-seq2seq": ("AutoModelForSpeechSeq2Seq",),
    "multimodal-lm": ("AutoModelForMultimodalLM",),
    "sequence-classification": ("AutoModelForSequenceClassification",),
    "token-classification": ("AutoModelForTokenClassification",),
    "multiple-choice": ("AutoModelForMultipleChoice",),
    "question-answering": ("AutoModelForQuestionAnswering",),
}
"""Task → the Auto classes that load it, the newest name first. Where nothing else tells, the first task of text that
transformers registers an architecture for is taken, as LLaMA-Factory's and axolotl's loaders take the first three; a
head for labels is new, and nobody's until it is named."""
_LABELLED = {
    "ForSequenceClassification": "sequence-classification",
    "ForTokenClassification": "token-classification",
    "ForMultipleChoice": "multiple-choice",
    "ForQuestionAnswering": "question-answering",
}
"""Ends of class names that tell what the labels are."""


@dataclass(frozen=True)
class Loader:
    """What loads the model.

    Attributes:
        model_class: an Auto class, or a model class of transformers.
        task: a key of :data:`AUTO_CLASSES`.
        named: the config names this very class.
    """

    model_class: Any
    task: str
    named: bool = False

    @property
    def is_auto(self) -> bool:
        """Whether the class of the model is looked up by its config."""
        return hasattr(self.model_class, "_model_mapping")

    def from_config(self, config: Any, **arguments: Any) -> Any:
        """The model with new weights, on torch's default device."""
        if self.is_auto:
            return self.model_class.from_config(config, **arguments)
        arguments.pop("trust_remote_code", None)
        return self.model_class._from_config(config, **arguments)


def loader_of(setup: Setup, architecture: Architecture) -> Loader:
    """What the setup's trainer or script loads the model with.

    In this order: the class that the config or the script names; the task that it names; for trl the checkpoint's
    ``architectures`` whatever they are (``create_model_from_path`` of trl 1.16, ``trainer/utils.py``); the
    checkpoint's ``architectures`` where they name a model of a known task; the task of ``lora.task_type``; the
    first task of text that transformers has a class for.

    Raises:
        StageError: kind ``unknown-architecture``: the named class is none of transformers; ``unsupported``: the model
            is of a kind that no stage builds.
    """
    import transformers

    named = _named(setup, architecture)
    if named is not None and hasattr(transformers, named):
        if (why := _why_not_built(named)) is not None:
            raise _not_built(setup, f"{named} {why}")
        return _of_class(getattr(transformers, named), named=True)
    if named is not None and named not in _remote_names(architecture):
        raise StageError(
            f"transformers {transformers.__version__} has no class {named!r}, which the config loads the model with.",
            kind="unknown-architecture",
            remedy="Correct the name, or install a transformers that has it.",
            place=setup.place("model.model_class") or setup.place("model"),
        )
    if setup.model.task is not None:
        return Loader(_auto(setup.model.task, architecture), setup.model.task)
    if setup.training.method == "reward" and Taken(setup).trainer == "trl":
        return Loader(_auto("sequence-classification", architecture), "sequence-classification")
    if setup.lora.task_type == "FEATURE_EXTRACTION":
        raise _not_built(setup, f"lora.task_type FEATURE_EXTRACTION is for a bare model, which {_BARE}")
    remote = _remote_names(architecture)
    own = next(iter(architecture.raw.get("architectures") or []), None)
    own_class = getattr(transformers, own, None) if isinstance(own, str) else None
    # An Auto class goes by the config's model_type, so a checkpoint whose architectures are of another type has none.
    fits = isinstance(architecture.config, getattr(own_class, "config_class", None) or object)
    why = _why_not_built(str(own))
    if setup.lora.task_type is None and why is not None and not _is_bare(str(own)):
        raise _not_built(setup, f"{own} {why}")
    if own_class is not None and not remote and ((_trains(own) and fits) or Taken(setup).trainer == "trl"):
        return _of_class(own_class)
    wanted = TASK_OF_PEFT.get(str(setup.lora.task_type))
    tasks = [wanted] if wanted is not None else []
    tasks += [task for task in AUTO_CLASSES if task != wanted and task not in _LABELLED.values()]
    for task in tasks:
        auto = _auto_or_none(task)
        if auto is not None and (auto.__name__ in remote or type(architecture.config) in auto._model_mapping):
            return Loader(auto, task)
    if remote:
        return Loader(transformers.AutoModelForCausalLM, "causal-lm")
    raise _unsupported(setup, architecture, own)


def task_of_class(name: str) -> str | None:
    """The task of a model class of transformers, by its name and the Auto classes' tables; None for any other."""
    labelled = next((task for end, task in _LABELLED.items() if name.endswith(end)), None)
    if labelled is not None:
        return labelled
    return next((task for task in AUTO_CLASSES if name in _registered(task)), None)


def _named(setup: Setup, architecture: Architecture) -> str | None:
    """The class that the config names, where its trainer heeds it."""
    if architecture.config.model_type in setup.traits.loads_by_type:
        return None
    return setup.model.model_class


def _of_class(found: Any, named: bool = False) -> Loader:
    if hasattr(found, "_model_mapping"):
        task = next((task for task, names in AUTO_CLASSES.items() if found.__name__ in names), "causal-lm")
    else:
        task = task_of_class(found.__name__) or "causal-lm"
    return Loader(found, task, named)


_BARE = "has no loss of its own: the trainer of embeddings that computes it is not built here"
_OTHER_KINDS = {
    "ForCTC": "reads sound and writes by CTC, which is not built here",
    "ForImageClassification": "tells images apart, which is not built here",
    "ForPreTraining": "has a loss of its pretraining, which is not built here",
    "TextToWaveform": "writes sound, which is not built here",
}


def _is_bare(name: str) -> bool:
    return name.endswith("Model") and not name.endswith(("HeadModel", "HeadsModel")) and task_of_class(name) is None


def _why_not_built(name: str) -> str | None:
    """Why a class is of no kind that is built, as the end of a sentence; None where it is, or where nobody knows."""
    if _is_bare(name):
        return f"is a bare model, which {_BARE}"
    return next((why for end, why in _OTHER_KINDS.items() if name.endswith(end)), None)


def _not_built(setup: Setup, message: str) -> StageError:
    return StageError(
        f"{message}.",
        kind="unsupported",
        remedy="Name the task as model.task, or the class as model.model_class.",
        place=setup.place("model.model_class") or setup.place("model"),
    )


def _trains(name: Any) -> bool:
    return isinstance(name, str) and task_of_class(name) is not None


def _registered(task: str) -> set[str]:
    """Names of the classes that transformers registers for a task."""
    auto = _auto_or_none(task)
    names: set[str] = set()
    for value in auto._model_mapping._model_mapping.values() if auto is not None else ():
        names.update([value] if isinstance(value, str) else value)
    return names


def _auto_or_none(task: str) -> Any | None:
    import transformers

    return next((found for name in AUTO_CLASSES[task] if (found := getattr(transformers, name, None))), None)


def _auto(task: str, architecture: Architecture) -> Any:
    auto = _auto_or_none(task)
    if auto is None:
        import transformers

        raise StageError(
            f"transformers {transformers.__version__} has no Auto class for {task}.",
            kind="unsupported",
            remedy="Install a newer transformers.",
        )
    if type(architecture.config) in auto._model_mapping or auto.__name__ in _remote_names(architecture):
        return auto
    raise StageError(
        f"transformers has no {task} model for {architecture.config.model_type}{_registered_for(architecture.config)}.",
        kind="unknown-architecture",
        remedy="Name a model of that task, or set model.task to what this one is for.",
    )


def _remote_names(architecture: Architecture) -> set[str]:
    """Auto classes for which the model brings code of its own, and the names of its classes."""
    own = architecture.raw.get("auto_map")
    if not isinstance(own, dict) or not getattr(architecture.config, "auto_map", None):
        return set()
    classes = {str(value).rpartition(".")[2] for value in own.values() if isinstance(value, str)}
    return {str(name) for name in own} | classes


def _registered_for(config: Any) -> str:
    """``; it has one for causal-lm``, the tasks that the architecture has a class for."""
    tasks = [task for task in AUTO_CLASSES if (auto := _auto_or_none(task)) and type(config) in auto._model_mapping]
    return f"; it has one for {', '.join(tasks)}" if tasks else ""


def _unsupported(setup: Setup, architecture: Architecture, own: Any) -> StageError:
    name = own if isinstance(own, str) else f"The architecture {architecture.config.model_type!r}"
    if heads := _registered_for(architecture.config):
        return StageError(
            f"{name} writes no text, and nothing says what is trained on it{heads}.",
            kind="unsupported",
            remedy="Name the task as model.task or lora.task_type, or the class as model.model_class.",
            place=setup.place("model"),
        )
    return StageError(
        f"{name} is no model of text or labels: transformers registers {architecture.config.model_type} for none of "
        f"{', '.join(AUTO_CLASSES)}.",
        kind="unsupported",
        remedy="Name the class that loads it as model.model_class.",
        place=setup.place("model"),
    )
