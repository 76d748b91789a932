"""Write which keyword arguments the libraries' classes take, and since or until when, from their released sources.

Only names and versions are taken: fields and signatures, read with ``ast`` (nothing of it is run). A release comes from
a clone's tag or from a wheel, whichever lies in the folder:

    python benchmarks/field/list_signatures.py FOLDER [LIBRARY…]

``FOLDER`` holds clones named ``owner+name`` and wheels as ``pip download --no-deps LIBRARY==VERSION`` leaves them. A
library whose clone is too large is walked by wheels alone; releases that are missing between two that take the same
names tell nothing new. What became of a name stands in ``FATES``, each looked up in the library's source.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

TARGET = Path(__file__).parents[2] / "qlora_doctor" / "tables" / "signatures"
Version = tuple[int, ...]


@dataclass(frozen=True)
class Library:
    """Whose signatures are read, and where they stand.

    Attributes:
        clone: name of the folder that holds the clone.
        prefix: path of the package inside the repository, before the package's own folder.
        files: the modules to look into, inside the package.
        makers: classes, and functions written ``name()``.
        first: the oldest release that is looked at.
        ignores: makers that pass unknown names by, where all others raise a TypeError.
        extends: makers whose fields come on top of those of this class of transformers.
        written: the library as sentences call it.
    """

    clone: str
    prefix: str
    files: str
    makers: tuple[str, ...]
    first: Version
    ignores: tuple[str, ...] = ()
    extends: dict[str, str] = field(default_factory=dict)
    written: str = ""


_CONFIGS = ("SFTConfig", "DPOConfig", "KTOConfig", "RewardConfig", "GRPOConfig", "RLOOConfig")
LIBRARIES = {
    "transformers": Library(
        "huggingface+transformers",
        "src/",
        r"transformers/(training_args|training_args_seq2seq|trainer|trainer_seq2seq|utils/quantization_config)\.py",
        ("TrainingArguments", "Seq2SeqTrainingArguments", "Trainer", "Seq2SeqTrainer", "BitsAndBytesConfig"),
        (4, 38),
        ignores=("BitsAndBytesConfig",),
        extends={"Seq2SeqTrainingArguments": "TrainingArguments"},
        written="transformers",
    ),
    "trl": Library(
        "huggingface+trl",
        "",
        r"trl/trainer/\w+\.py",
        (*_CONFIGS, *(name.replace("Config", "Trainer") for name in _CONFIGS)),
        (0, 7),
        extends=dict.fromkeys(_CONFIGS, "TrainingArguments"),
        written="TRL",
    ),
    "peft": Library(
        "huggingface+peft",
        "src/",
        r"peft/(config|mapping|mapping_func|utils/\w+|tuners/lora/config)\.py",
        ("LoraConfig", "get_peft_model()", "prepare_model_for_kbit_training()"),
        (0, 8),
        written="PEFT",
    ),
}
_BESIDE = {"TrainingArguments", "PushToHubMixin"}
"""Bases whose fields are no concern: listed under ``extends``, or without any."""

_LENGTH = ("SFTConfig.max_length", "SFTConfig.max_seq_length")
_LIGER = {"use_liger_loss": ("use_liger_kernel",)}
_PROCESSING = {"tokenizer": ("processing_class",)}
FATES: dict[str, dict[str, tuple[str, ...]]] = {
    "TrainingArguments": {
        "evaluation_strategy": ("eval_strategy",),
        "warmup_ratio": ("warmup_steps",),
        "group_by_length": ("train_sampling_strategy",),
        "no_cuda": ("use_cpu",),
        "adafactor": ("optim",),
        "torchdynamo": ("torch_compile_backend",),
        "tpu_metrics_debug": ("debug",),
        "include_inputs_for_metrics": ("include_for_metrics",),
        "per_gpu_train_batch_size": ("per_device_train_batch_size",),
        "per_gpu_eval_batch_size": ("per_device_eval_batch_size",),
        "push_to_hub_token": ("hub_token",),
        "push_to_hub_model_id": ("hub_model_id",),
        "push_to_hub_organization": ("hub_model_id",),
        "fsdp_min_num_params": ("fsdp_config",),
        "fsdp_transformer_layer_cls_to_wrap": ("fsdp_config",),
        "dispatch_batches": ("accelerator_config",),
        "split_batches": ("accelerator_config",),
    },
    "Trainer": _PROCESSING,
    "Seq2SeqTrainer": _PROCESSING,
    "SFTConfig": {"max_seq_length": ("max_length",), "use_liger": ("use_liger_kernel",)},
    "SFTTrainer": _PROCESSING | {"max_seq_length": _LENGTH, "neftune_noise_alpha": ("SFTConfig.neftune_noise_alpha",)},
    "DPOConfig": _LIGER | {"padding_value": ("pad_token",)},
    "DPOTrainer": _PROCESSING,
    "KTOConfig": _LIGER,
    "KTOTrainer": _PROCESSING,
    "RewardTrainer": _PROCESSING,
    "GRPOConfig": _LIGER
    | {
        "vllm_guided_decoding_regex": ("vllm_structured_outputs_regex",),
        "wandb_log_unique_prompts": ("log_unique_prompts",),
    },
    "RLOOConfig": {
        "vllm_guided_decoding_regex": ("vllm_structured_outputs_regex",),
        "wandb_log_unique_prompts": ("log_unique_prompts",),
        "rloo_k": ("num_generations",),
        "cliprange": ("epsilon",),
        "kl_coef": ("beta",),
        "exp_name": ("run_name",),
        "normalize_reward": ("normalize_advantages",),
        "num_ppo_epochs": ("num_iterations",),
        "num_mini_batches": ("steps_per_generation",),
        "total_episodes": ("max_steps",),
        "response_length": ("max_completion_length",),
        "num_sample_generations": ("logging_steps",),
    },
    "RLOOTrainer": _PROCESSING,
}
"""Maker → name that is gone → its new names, the newest first; each counts in the releases that have it.

They are the ones that the libraries' own warnings named before the removal. What a trainer took and its config takes
under the same name is found without an entry.
"""
NOTES: dict[str, dict[str, str]] = {
    "TrainingArguments": {
        "warmup_ratio": "warmup_steps takes a share below 1.",
        "group_by_length": 'Write train_sampling_strategy="group_by_length".',
        "adafactor": 'Write optim="adafactor".',
        "logging_dir": "The environment variable TENSORBOARD_LOGGING_DIR is read in its place.",
        "use_mps_device": "The device is found without it.",
        "overwrite_output_dir": "There is nothing in its place.",
    },
}


# -- releases


@dataclass(frozen=True)
class Release:
    """A release's sources: the paths inside the package, and how to read one."""

    version: Version
    paths: tuple[str, ...]
    read: Callable[[str], str]


def releases(name: str, folder: Path) -> list[Release]:
    """Every release of a library that lies in the folder, the oldest first."""
    library = LIBRARIES[name]
    found = {release.version: release for release in _tagged(library, folder)}
    found |= {release.version: release for release in _wheels(name, folder)}
    return [found[version] for version in sorted(found) if version >= library.first]


def _tagged(library: Library, folder: Path) -> Iterator[Release]:
    repository = folder / library.clone
    repository = repository / "repo" if (repository / "repo").is_dir() else repository
    if not repository.exists():
        return

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(repository), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    for tag in git("tag").split():
        if re.fullmatch(r"v\d+(\.\d+)+", tag) and parsed(tag[1:]) >= library.first:
            paths = git("ls-tree", "-r", "--name-only", tag, library.prefix or "trl").splitlines()
            inside = tuple(path.removeprefix(library.prefix) for path in paths)
            yield Release(parsed(tag[1:]), inside, lambda path, tag=tag: git("show", f"{tag}:{library.prefix}{path}"))  # type: ignore[misc]


def _wheels(name: str, folder: Path) -> Iterator[Release]:
    for path in folder.glob(f"{name}-*.whl"):
        archive = zipfile.ZipFile(path)
        version = parsed(path.name.split("-")[1])
        yield Release(version, tuple(archive.namelist()), lambda inner, a=archive: a.read(inner).decode("utf-8"))  # type: ignore[misc]


def parsed(text: str) -> Version:
    """``0.20.0`` → (0, 20): zeros at the end tell nothing."""
    parts = [int(part) for part in text.split(".")]
    while len(parts) > 2 and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def shown(version: Version) -> str:
    return ".".join(map(str, version))


# -- signatures


@dataclass
class Signature:
    """What one class or function takes by name.

    Attributes:
        bases: names of the classes above it.
        fields: annotated fields of a dataclass.
        arguments: those of its ``__init__``, or of the function; None where it has none of its own.
        open: it has a ``**kwargs``.
    """

    bases: list[str] = field(default_factory=list)
    fields: set[str] = field(default_factory=set)
    unset: set[str] = field(default_factory=set)
    arguments: set[str] | None = None
    open: bool = False


@cache
def signatures(text: str) -> dict[str, Signature]:
    """The classes and functions of one module."""
    found: dict[str, Signature] = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.ClassDef):
            signature = Signature([ast.unparse(base).split("[")[0].split(".")[-1] for base in node.bases])
            for statement in node.body:
                if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                    kept = not _is_no_argument(statement)
                    (signature.fields if kept else signature.unset).add(statement.target.id)
                elif isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
                    _take_arguments(signature, statement)
            found[node.name] = signature
        elif isinstance(node, ast.FunctionDef):
            signature = Signature()
            _take_arguments(signature, node)
            found[f"{node.name}()"] = signature
    return found


def _is_no_argument(statement: ast.AnnAssign) -> bool:
    if "ClassVar" in ast.unparse(statement.annotation):
        return True
    keywords = statement.value.keywords if isinstance(statement.value, ast.Call) else []
    return any(k.arg == "init" and isinstance(k.value, ast.Constant) and k.value.value is False for k in keywords)


def _take_arguments(signature: Signature, function: ast.FunctionDef) -> None:
    arguments = function.args
    named = {argument.arg for argument in (*arguments.args, *arguments.kwonlyargs)} - {"self"}
    for decorator in function.decorator_list:
        if isinstance(decorator, ast.Call) and "deprecate_kwarg" in ast.unparse(decorator.func):
            named |= _texts(decorator.args[:1]) | _texts([k.value for k in decorator.keywords if k.arg == "old_name"])
    signature.arguments, signature.open = named, arguments.kwarg is not None


def _texts(nodes: list[ast.expr]) -> set[str]:
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def takes(maker: str, found: dict[str, Signature], library: Library) -> set[str] | None:
    """The names that a maker takes by itself; None where there is no such maker, or any name may be taken."""
    signature = found.get(maker)
    if signature is None:
        return None
    if signature.arguments is not None:
        return None if signature.open and maker not in library.ignores else signature.arguments
    names: set[str] = set()
    for base in signature.bases:
        if base in _BESIDE:
            continue
        above = takes(base, found, library)
        if above is None:
            return None
        names |= above
    return (names | signature.fields) - signature.unset


# -- tables

Walk = list[tuple[Version, "set[str] | None"]]
"""What one maker takes, by release; None where a release lacks the maker, or it may take any name."""


def history(name: str, folder: Path) -> dict[str, Walk]:
    """The walk of every maker of a library."""
    library = LIBRARIES[name]
    walked: dict[str, Walk] = {maker: [] for maker in library.makers}
    for release in releases(name, folder):
        found: dict[str, Signature] = {}
        for path in release.paths:
            if re.fullmatch(library.files, path):
                found |= signatures(release.read(path))
        for maker in library.makers:
            names = takes(maker, found, library)
            kept = None if names is None else {each for each in names if not each.startswith("_")}
            walked[maker].append((release.version, kept))
    return walked


def table(maker: str, walks: dict[str, Walk], library: Library) -> dict[str, object]:
    """What one maker takes today, since when where not always, and what it once took.

    A name that came, went and came again counts as taken by all releases.
    """
    walked = walks[maker]
    start = max((index + 1 for index, (_, names) in enumerate(walked) if names is None), default=0)
    known = [(version, names) for version, names in walked if names is not None]
    since: dict[str, object] = {}
    gone: dict[str, object] = {}
    for name in sorted(set().union(*(names for _, names in known))):
        has = [name in names for _, names in known]
        turns = [index for index in range(1, len(has)) if has[index] != has[index - 1]]
        if has[-1] and len(turns) == 1 and known[turns[0] - 1][0] >= walked[start][0]:
            since[name] = {"since": shown(known[turns[0]][0]), "without": shown(known[turns[0] - 1][0])}
        elif not has[-1]:
            first = max(known[turns[-1]][0], walked[start][0])
            gone[name] = {"since": shown(first)} | _fate(maker, name, first, walks)
    return {
        "from": shown(walked[start][0]),
        "refuses": maker not in library.ignores,
        **({"extends": library.extends[maker]} if maker in library.extends else {}),
        "takes": sorted(known[-1][1]),
        "since": since,
        "gone": gone,
    }


def _fate(maker: str, name: str, first: Version, walks: dict[str, Walk]) -> dict[str, object]:
    """What is called otherwise today: one name, or by the release from which it is so."""
    config = maker.replace("Trainer", "Config")
    found = FATES.get(maker, {}).get(name, (f"{config}.{name}",) if config != maker else ())
    candidates = [each if "." in each else f"{maker}.{each}" for each in found]
    by_release: dict[str, str | None] = {}
    for version, _ in walks[maker]:
        if version >= first:
            now = next((each for each in candidates if _has(each, version, walks)), None)
            if not by_release or now != list(by_release.values())[-1]:
                by_release[shown(version)] = now
    fate: dict[str, object] = {"now": by_release} if any(by_release.values()) else {}
    note = NOTES.get(maker, {}).get(name)
    return fate | ({"note": note} if note else {})


def _has(candidate: str, version: Version, walks: dict[str, Walk]) -> bool:
    maker, _, name = candidate.partition(".")
    if maker not in walks:
        return False
    return name in FROM_ABOVE or name in (dict(walks[maker]).get(version) or ())


FROM_ABOVE = {"neftune_noise_alpha", "use_liger_kernel", "run_name", "max_steps", "logging_steps"}
"""New names that TrainingArguments has in every version at hand, so that its heirs need not repeat them."""


def write(name: str, folder: Path) -> None:
    """Write one library's table."""
    library = LIBRARIES[name]
    walks = history(name, folder)
    walked = [version for version, _ in walks[library.makers[0]]]
    content = {
        "library": name,
        "written": library.written,
        "version": shown(walked[-1]),
        "source": f"{len(walked)} releases of {name}, {shown(walked[0])} to {shown(walked[-1])}",
        "makers": {maker.removesuffix("()"): table(maker, walks, library) for maker in library.makers},
    }
    TARGET.mkdir(parents=True, exist_ok=True)
    (TARGET / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    print(content["source"])


if __name__ == "__main__":
    for chosen in sys.argv[2:] or LIBRARIES:
        write(chosen, Path(sys.argv[1]))
