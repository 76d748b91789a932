"""Write the lists of keys that trainers read, from the trainers' own git history.

Only names and versions are taken: the fields of the classes that a trainer's parser is built from, read with ``ast`` at
every tagged release (nothing of it is run). A key that a release no longer has is listed as removed, with the first
release without it. New names and special remarks stand in ``FATES`` below, each looked up in the trainer's source.

    python benchmarks/field/list_keys.py CLONES [NAME…]

``CLONES`` holds one clone (bare or not) per trainer, named ``owner+name``.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path

TARGET = Path(__file__).parents[2] / "qlora_doctor" / "tables" / "keys"


@dataclass(frozen=True)
class Trainer:
    """Where a trainer's keys stand.

    Attributes:
        files: patterns of the files to look into.
        classes: the classes whose fields are keys, with those that they inherit from; ``def NAME`` is a function.
        refuses: the parser stops at an unknown key.
        transformers: the keys of TrainingArguments are read as well, of all versions since 4.51.
        follows_transformers: of these, only those of the installed version.
        every_class_in: files of which every class counts (plugins are found by name).
        also: names that the classes do not show.
        first: the first release to look at.
    """

    repository: str
    reader: str
    files: tuple[str, ...]
    classes: tuple[str, ...]
    refuses: bool
    transformers: bool = False
    every_class_in: str | None = None
    also: tuple[str, ...] = ()
    first: str | None = None
    seq2seq: bool = False
    follows_transformers: bool = False


TRAINERS: dict[str, Trainer] = {
    "axolotl": Trainer(
        "axolotl-ai-cloud+axolotl",
        "axolotl",
        (r"src/axolotl/utils/(config|schemas)/.*\.py", r"src/axolotl/integrations/.*\.py"),
        ("AxolotlInputConfig", "AxolotlConfigWCapabilities"),
        refuses=False,
        every_class_in=r"src/axolotl/integrations/.*args\.py",
        also=("model_config", "model_kwargs", "model_type", "model_revision"),
        first="v0.5.0",
    ),
    "llamafactory": Trainer(
        "hiyouga+LLaMA-Factory",
        "LLaMA-Factory",
        (r"src/(llmtuner|llamafactory)/hparams/.*\.py",),
        (
            "ModelArguments",
            "DataArguments",
            "TrainingArguments",
            "FinetuningArguments",
            "GeneratingArguments",
            "EvaluationArguments",
            "MegatronBridgeArguments",
            "_KTransformersRuntimeArguments",
            "RayArguments",
        ),
        refuses=True,
        transformers=True,
        seq2seq=True,
        first="v0.5.0",
    ),
    "llamafactory-v1": Trainer(
        "hiyouga+LLaMA-Factory",
        "LLaMA-Factory v1",
        (r"src/llamafactory/v1/config/.*\.py",),
        ("ModelArguments", "DataArguments", "TrainingArguments", "SampleArguments"),
        refuses=True,
        first="v0.9.4",
    ),
    "trl": Trainer(
        "huggingface+trl",
        "TRL",
        (
            r"trl/(trainer/.*config.*|scripts/.*|commands/.*|core|experimental/.*config.*|experimental/.*)\.py",
            r"examples/scripts/.*\.py",
        ),
        (),
        refuses=True,
        transformers=True,
        follows_transformers=True,
        every_class_in=r"trl/(trainer/.*config.*|scripts/.*|commands/.*|experimental/.*config.*)\.py",
        first="v0.8.0",
    ),
    "alignment-handbook": Trainer(
        "huggingface+alignment-handbook",
        "alignment-handbook",
        (r"src/alignment/configs\.py",),
        (),
        refuses=True,
        every_class_in=r"src/alignment/configs\.py",
    ),
    "autotrain": Trainer(
        "huggingface+autotrain-advanced",
        "AutoTrain",
        (r"src/autotrain/trainers/.*params\.py",),
        ("LLMTrainingParams", "AutoTrainParams"),
        refuses=False,
    ),
    "swift": Trainer(
        "modelscope+ms-swift",
        "ms-swift",
        (
            r"swift/.*arg.*\.py",
            r"swift/llm/utils/.*\.py",
            r"swift/.*/(arguments|argument|config|mixin)[^/]*\.py",
            r"swift/trainers/.*\.py",
            r"swift/rlhf_trainers/.*\.py",
        ),
        ("SftArguments", "RLHFArguments", "PretrainArguments", "PtArguments", "TrainArguments"),
        refuses=True,
        transformers=True,
        seq2seq=True,
        first="v2.0.0",
    ),
    "litgpt": Trainer(
        "Lightning-AI+litgpt",
        "LitGPT",
        (r"litgpt/finetune/lora\.py",),
        ("def setup",),
        refuses=True,
        first="v0.4.0",
    ),
    "unsloth-studio": Trainer(
        "unslothai+unsloth",
        "Unsloth",
        (r"unsloth_cli/config\.py",),
        ("Config", "TrainingConfig", "LoraConfig", "DataConfig", "LoggingConfig"),
        refuses=False,
    ),
}

FATES: dict[str, dict[str, dict[str, str]]] = {
    "axolotl": {
        "max_packed_sequence_len": {"now": "sample_packing", "note": "axolotl stops at it: it is no longer supported."},
        "rope_scaling": {
            "now": "overrides_of_model_config",
            "note": "axolotl stops at it: it belongs under overrides_of_model_config.",
        },
        "s2_attention": {"note": "axolotl stops at it: shifted sparse attention is no longer supported."},
        "flash_attn_rms_norm": {"note": "axolotl stops at it: it is no longer supported."},
    },
    "llamafactory": {
        "evaluation_strategy": {"now": "eval_strategy", "note": "transformers 4.51 removed evaluation_strategy."},
    },
    "trl": {
        "max_seq_length": {"now": "max_length", "note": "TRL renamed max_seq_length in 0.16 and removed it in 0.20."},
        "torch_dtype": {"now": "dtype", "note": "TRL renamed torch_dtype in 0.23 and removed it in 0.27."},
        "evaluation_strategy": {"now": "eval_strategy", "note": "transformers 4.51 removed evaluation_strategy."},
        "warmup_ratio": {
            "now": "warmup_steps",
            "note": "transformers 5.23 has no warmup_ratio; warmup_steps takes a share below 1.",
        },
        "overwrite_output_dir": {"note": "transformers 5 has no overwrite_output_dir."},
        "group_by_length": {
            "now": "train_sampling_strategy",
            "note": "transformers 5.23 has train_sampling_strategy: group_by_length in its place.",
        },
        "logging_dir": {
            "note": "transformers 5.15 removed logging_dir; the environment variable TENSORBOARD_LOGGING_DIR is read."
        },
    },
}
"""What became of a key, where more is known than that it is gone."""


def git(repository: Path, *arguments: str) -> str:
    """The output of a git command."""
    return subprocess.run(["git", "-C", str(repository), *arguments], capture_output=True, text=True, check=True).stdout


@dataclass
class Classes:
    """The classes and functions of a source tree: name → (bases, fields)."""

    found: dict[str, tuple[list[str], set[str]]] = field(default_factory=dict)

    def fields(self, name: str, seen: set[str] | None = None) -> set[str]:
        """The fields of a class and of those that it inherits from."""
        seen = set() if seen is None else seen
        if name in seen or name not in self.found:
            return set()
        seen.add(name)
        bases, names = self.found[name]
        return names.union(*(self.fields(base, seen) for base in bases))


@cache
def classes_of(text: str) -> dict[str, tuple[list[str], set[str]]]:
    """The classes with annotated fields, and the functions, of one module."""
    found: dict[str, tuple[list[str], set[str]]] = {}
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return found
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            bases = [ast.unparse(base).split("[")[0].split(".")[-1] for base in node.bases]
            names: set[str] = set()
            for statement in node.body:
                if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                    names.add(statement.target.id)
                    names |= _aliases(statement.value)
            known = found.get(node.name, ([], set()))
            found[node.name] = (known[0] + bases, known[1] | names)
        elif isinstance(node, ast.FunctionDef):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            found["def " + node.name] = ([], {argument.arg for argument in arguments})
    return found


def _aliases(value: ast.expr | None) -> set[str]:
    if not isinstance(value, ast.Call):
        return set()
    found: set[str] = set()
    for keyword in value.keywords:
        if keyword.arg in ("alias", "validation_alias"):
            found |= {
                n.value for n in ast.walk(keyword.value) if isinstance(n, ast.Constant) and isinstance(n.value, str)
            }
    return found


def keys_at(repository: Path, revision: str, trainer: Trainer) -> set[str]:
    """The keys that a trainer reads at a revision."""
    classes, extra = Classes(), set()
    for path in git(repository, "ls-tree", "-r", "--name-only", revision).splitlines():
        if not any(re.fullmatch(pattern, path) for pattern in trainer.files):
            continue
        found = classes_of(git(repository, "show", f"{revision}:{path}"))
        for name, (bases, names) in found.items():
            known = classes.found.get(name, ([], set()))
            classes.found[name] = (known[0] + bases, known[1] | names)
        if trainer.every_class_in and re.fullmatch(trainer.every_class_in, path):
            extra |= {key for name, (_, names) in found.items() if not name.startswith("def ") for key in names}
    keys = extra.union(*(classes.fields(name) for name in trainer.classes))
    return {key for key in keys if not key.startswith("_")}


def training_arguments() -> tuple[set[str], set[str]]:
    """(the fields of the installed transformers' TrainingArguments, names that it once had and no longer has)."""
    import dataclasses

    from transformers import TrainingArguments

    sys.path.insert(0, str(TARGET.parents[3]))
    from qlora_doctor.setup.setup import Training
    from qlora_doctor.tables import known_arguments

    now = {field.name for field in dataclasses.fields(TrainingArguments)}
    once = set(known_arguments.TRAINING) | set(Training.model_fields) - {"extra", "method", "trainer"}
    return now, once - now - {"prepare_for_kbit_training"}


def write(name: str, clones: Path) -> None:
    """Write one trainer's list."""
    trainer = TRAINERS[name]
    repository = clones / trainer.repository
    repository = repository / "repo" if (repository / "repo").is_dir() else repository
    tags = [t for t in git(repository, "tag", "--sort=creatordate").split() if re.fullmatch(r"v?\d+(\.\d+)+", t)]
    if trainer.first in tags:
        tags = tags[tags.index(trainer.first) :]
    history = [(tag, keys_at(repository, tag, trainer)) for tag in tags]
    history = [(tag, keys) for tag, keys in history if keys]
    now = keys_at(repository, "HEAD", trainer)
    keys = now | set(trainer.also) | (history[-1][1] if history else set())
    gone: set[str] = set()
    if trainer.transformers:
        arguments, gone = training_arguments()
        keys |= arguments if trainer.follows_transformers else arguments | gone
    if trainer.seq2seq:
        keys |= {
            "sortish_sampler",
            "predict_with_generate",
            "generation_max_length",
            "generation_num_beams",
            "generation_config",
        }
    removed: dict[str, dict[str, str]] = {}
    for (_, before), (tag, after) in pairwise(history):
        for key in before - after - keys:
            removed[key] = {"since": tag.removeprefix("v")}
    if trainer.follows_transformers:
        for key in gone - keys:
            removed[key] = {"note": f"TrainingArguments of transformers 5.23 have no {key} any more."}
    for key, fate in FATES.get(name, {}).items():
        removed[key] = removed.get(key, {}) | fate
    commit = git(repository, "log", "-1", "--format=%h %cs", "HEAD").split()
    version = (tags[-1].removeprefix("v") + ", " if tags else "") + f"commit {commit[0]} of {commit[1]}"
    content = {
        "reader": trainer.reader,
        "source": f"github.com/{trainer.repository.replace('+', '/')} at {commit[0]}",
        "version": tags[-1].removeprefix("v") if tags else version,
        "refuses": trainer.refuses,
        "keys": sorted(keys - removed.keys()),
        "removed": {key: removed[key] for key in sorted(removed)},
    }
    TARGET.mkdir(parents=True, exist_ok=True)
    (TARGET / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    print(f"{name}: {len(content['keys'])} keys, {len(removed)} removed, at {version}")


if __name__ == "__main__":
    for chosen in sys.argv[2:] or TRAINERS:
        write(chosen, Path(sys.argv[1]))
