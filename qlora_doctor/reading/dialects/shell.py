"""Command lines in a shell script: which trainer they start, and its arguments read as that trainer's config.

``llamafactory-cli train --quantization_bit 4 …`` means what a YAML file with ``quantization_bit: 4`` means, so each
launcher's arguments go to the reader of its dialect. Scripts of the projects that users start from have readers in
``shell_scripts``; any other is read as a home-made config is, by its arguments' names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, NamedTuple, NoReturn

from ...core.errors import ConfigError
from ...core.place import Place
from ...core.pointers import split_pointer
from ...setup.setup import Setup
from ..document import Document
from ..python.neighbours import Neighbours
from ..shell import MOST_SCRIPT, Command, Script, Word, read_script
from . import autotrain, homemade, litgpt, llamafactory, shell_scripts, swift, trl
from .shell_launch import FLAG, Run, launched, started_by_llamafactory, with_value

name = "shell"
RECORD = "it is a command line"
"""Why a fix is shown and not written."""

_BEFORE = {
    *("nohup", "time", "exec", "sudo", "command", "env", "stdbuf", "nice", "setsid", "unbuffer", "eval"),
    *("srun", "mpirun", "uv", "poetry", "pipenv", "conda", "mamba", "micromamba", "run", "singularity", "apptainer"),
}
"""Programs that start another one; their own options stand before it."""
_FURTHEST = 24
_MOST_RUNS = 64
_PYTHON = re.compile(r"(?:python|pypy)[\d.]*\Z")
_LAUNCHERS = {"accelerate", "accelerate-launch", "torchrun", "deepspeed"}
_LAUNCHING_MODULES = {
    "torch.distributed.run": "torchrun",
    "torch.distributed.launch": "torchrun",
    "accelerate.commands.launch": "accelerate-launch",
    "deepspeed.launcher.runner": "deepspeed",
}
_CLI_MODULES = {
    "llamafactory.cli": "llamafactory-cli",
    "swift.cli.main": "swift",
    "trl.cli": "trl",
    "autotrain.cli.autotrain": "autotrain",
    "litgpt": "litgpt",
    "axolotl.cli.train": "axolotl",
    "axolotl.cli.main": "axolotl",
}
_CLIS = {"llamafactory-cli", "lmf", "swift", "trl", "autotrain", "litgpt", "axolotl", "tune", "oumi", "xtuner"}
_TRL_METHODS = ("sft", "dpo", "kto", "grpo", "rloo", "reward")
_TRAINS: dict[str, tuple[str, ...]] = {
    "llamafactory-cli": ("train",),
    "lmf": ("train",),
    "swift": ("sft", "pt", "rlhf"),
    "trl": _TRL_METHODS,
    "autotrain": ("llm",),
    "litgpt": ("finetune_lora", "finetune"),
    "axolotl": ("train",),
    "tune": ("run",),
    "oumi": ("train",),
    "xtuner": ("train",),
}
_PAIR = re.compile(r"([A-Za-z_][\w.]*)=(.*)\Z", re.DOTALL)
_CONFIG_SUFFIXES = (".yaml", ".yml", ".json", ".toml")


@dataclass
class Arguments(Document):
    """The arguments of one command as a Document: each option is a key, and its place is in the script."""

    script: Script | None = None
    written: dict[str, tuple[Word, ...]] | None = None

    def place(self, pointer: str) -> Place:
        """Where the option stands; the value with it where both are on one line."""
        steps, written = split_pointer(pointer), self.written or {}
        words = written.get(".".join(steps)) or written.get(next(iter(steps), ""))
        file = str(self.path) if self.path is not None else None
        if not words or self.script is None:
            return Place(file=file, pointer=pointer)
        line, column = self.script.place(words[0].start)
        ends = [self.script.place(word.end) for word in words]
        end_line, end_column = max(end for end in ends if end[0] == line) if ends[0][0] == line else ends[0]
        return Place(
            file=file,
            pointer=pointer,
            line=line,
            column=column,
            end_line=end_line,
            end_column=end_column,
            excerpt=self.script.line(line),
        )


class _Meaning(NamedTuple):
    """Whose arguments these are."""

    dialect: str
    sure: float
    read: Callable[[Arguments], Setup]
    method: str | None = None
    checks_keys: bool = True


def recognise(document: Document) -> float:
    """As sure as the surest of the script's commands makes it; 0 for what is no shell script."""
    return max((meaning.sure for _, _, meaning in _meant(document)), default=0.0)


def read(document: Document) -> Setup:
    """The first command that trains in 4-bit, else the first that trains.

    Raises:
        ConfigError: the script starts no training, or its config is in another file.
    """
    found = _meant(document)
    if not found:
        refuse(document)
    fallback: Setup | None = None
    for run, arguments, meaning in found:
        setup = _read_run(run, arguments, meaning, len(found))
        if setup.quantization.load_in_4bit:
            return setup
        fallback = fallback or setup
    assert fallback is not None
    return fallback


def refuse(document: Document) -> NoReturn:
    """Say why a shell script cannot be checked.

    Raises:
        ConfigError: always.
    """
    if len(document.text) > MOST_SCRIPT:
        raise ConfigError(f"{document.path} is longer than {MOST_SCRIPT >> 10} KiB, which no launch script is.")
    configs = [config for run in _runs(document) if (config := _config_of(run)) is not None]
    if configs:
        raise ConfigError(
            f"{document.path or 'The script'} starts a training whose config is in another file, {configs[0]}.",
            remedy="Check that file itself." if " " in configs[0] else f"Check {configs[0]} itself.",
        )
    started = _programs(document)
    if started:
        raise ConfigError(
            f"{document.path} starts {started[0]}, whose own text says what its arguments mean.",
            remedy=f"Check {started[0]} itself: it is read with the arguments that the scripts beside it pass.",
        )
    raise ConfigError(
        f"{document.path or 'The script'} starts no training that is known here.",
        remedy="Known are the command lines of the usual trainers, and scripts with QLoRA's usual arguments.",
    )


def _programs(document: Document) -> list[str]:
    """The Python files that a script starts and that lie in its project."""
    if document.path is None:
        return []
    from ..python.neighbours import Neighbours

    folders = Neighbours(document.path).folders
    named = [run.action for run in _runs(document) if run.program == "python" and run.action.endswith(".py")]
    return [name for name in named if any((folder / name).is_file() for folder in folders)]


def _meant(document: Document) -> list[tuple[Run, Arguments, _Meaning]]:
    found = []
    for run in _runs(document):
        if _config_of(run) is not None:
            continue
        arguments = _arguments(document, run)
        meaning = _meaning(run, arguments)
        if meaning is not None:
            found.append((run, arguments, meaning))
    return found


def _runs(document: Document) -> list[Run]:
    """The commands that start a trainer or a Python program."""
    return runs_in(document.text) if document.format == "text" and is_shell(document) else []


def runs_in(text: str) -> list[Run]:
    """The commands of a shell script that start a trainer or a Python program."""
    if len(text) > MOST_SCRIPT:
        return []
    script = read_script(text)
    runs = _first_runs(script.commands)
    return runs or _first_runs(command for text in script.texts[:_MOST_RUNS] for command in _commands_in(text))


def _first_runs(commands: Iterable[Command]) -> list[Run]:
    return list(islice((run for command in commands if (run := _run_of(command)) is not None), _MOST_RUNS))


def _commands_in(text: Word) -> Iterator[Command]:
    """The commands of a text that some other program starts: ``bash -c "python train.py …"``."""
    for command in read_script(text.text).commands:
        yield Command(tuple(Word(w.text, w.known, text.start, text.end) for w in command.words), {})


def is_shell(document: Document) -> bool:
    """True for a shell script, by its name or its first line."""
    suffix = document.path.suffix.lower() if document.path is not None else ""
    first = document.text.partition("\n")[0]
    return suffix in (".sh", ".bash") or (suffix != ".py" and re.match(r"#!.*\b(?:ba|da|z)?sh\b", first) is not None)


def _run_of(command: Command) -> Run | None:
    words = command.words
    if words[0].known and words[0].text == "eval":  # its arguments are put together and split again
        words = tuple(
            Word(piece, word.known, word.start, word.end)
            for word in words[1:]
            for piece in (word.text.split() if word.known else [word.text])
        )
    for at, word in enumerate(words[:_FURTHEST]):
        program = PurePosixPath(word.text).name if word.known else ""
        if program in _CLIS or program in _LAUNCHERS or _PYTHON.match(program):
            return _started(program, words[at + 1 :], command, word.start)
        if at == 0 and program not in _BEFORE:
            return None
    return None


def _started(program: str, rest: Sequence[Word], command: Command, at: int) -> Run | None:
    """What a launcher or an interpreter starts."""
    launcher: str | None = None
    options: tuple[Word, ...] = ()
    if program == "accelerate":
        if not rest or rest[0].text != "launch":
            return None
        program, rest = "accelerate-launch", rest[1:]
    for _ in range(3):  # python -m torch.distributed.run train.py
        if program in _CLIS:
            action = rest[0].text if rest and rest[0].known else ""
            return Run(program, action, tuple(rest[1:]), launcher, options, command.environment, at)
        target = _target(program, rest)
        if target is None:
            return None
        place, is_module = target
        if program in _LAUNCHERS:
            launcher, options = program.removesuffix("-launch"), tuple(rest[:place])
        name, after = rest[place].text, rest[place + 1 :]
        if is_module and name in _LAUNCHING_MODULES:
            program, rest = _LAUNCHING_MODULES[name], after
        elif is_module and name in _CLI_MODULES:
            program, rest = _CLI_MODULES[name], after
            if name == "axolotl.cli.train":
                return Run("axolotl", "train", tuple(after), launcher, options, command.environment, at)
        else:
            return Run("python", name, tuple(after), launcher, options, command.environment, at)
    return None


def _target(program: str, words: Sequence[Word]) -> tuple[int, bool] | None:
    """(index, is a module) of the program that is started."""
    for at, word in enumerate(words):
        if word.text in ("-m", "--module") and at + 1 < len(words):
            return at + 1, True
        if program in _LAUNCHERS and word.text.endswith(".py"):
            return at, False
        if program not in _LAUNCHERS and not word.text.startswith("-"):
            if at and words[at - 1].text in ("-W", "-X"):
                continue
            return at, False
        if word.text == "-c":
            return None
    return None


def _config_of(run: Run) -> str | None:
    """The config file that a command names, where it takes one."""
    words = run.arguments
    if words and words[0].known and words[0].text.lower().endswith(_CONFIG_SUFFIXES):
        return re.sub(r"\A--[\w-]+=", "", words[0].text)
    if run.program in ("axolotl", "tune", "oumi", "xtuner"):
        named = [word.text for word in words if word.text.lower().endswith((*_CONFIG_SUFFIXES, ".py"))]
        open_word = next((word.text for word in words if not word.known and not word.text.startswith("-")), None)
        asked = "one that its recipe brings" if open_word is None else f"one that {open_word} names when it starts"
        return named[0] if named else asked
    for at, word in enumerate(words):
        flag = word.text.partition("=")
        if flag[0] in ("--config", "-c", "--config_file", "--yaml"):
            value = flag[2] or (words[at + 1].text if at + 1 < len(words) else "")
            if value.lower().endswith(_CONFIG_SUFFIXES):
                return value
    return None


# -- arguments → keys


def _arguments(document: Document, run: Run) -> Arguments:
    """``--key value``, ``--key=value``, ``key=value`` and ``--switch`` → a mapping; dashes in names are underscores."""
    data: dict[str, Any] = {}
    written: dict[str, tuple[Word, ...]] = {}
    values: dict[str, list[Any]] = {}
    open_key: str | None = None
    for word in run.arguments:
        flag = FLAG.match(word.text) if not _is_number(word.text) else None
        pair = _PAIR.match(word.text) if flag is None and open_key is None else None
        if flag is not None and (flag[2] is not None or word.known):
            key = flag[1].replace("-", "_")
            given = flag[2] is not None
        elif pair is not None:
            key, given, flag = pair[1], True, pair
        elif open_key is not None:
            values[open_key].append(_value(word.text, word.known))
            written[open_key] = (*written[open_key], word)
            continue
        else:
            continue
        values[key] = [_value(flag[2].strip("\"'") if not word.known else flag[2], word.known)] if given else []
        written[key] = (word,)
        open_key = None if given else key
    for key, found in values.items():
        if not found and key.startswith("no_"):
            data[key[3:]], written[key[3:]] = False, written.pop(key)  # as HfArgumentParser and click have it
        else:
            data[key] = True if not found else found[0] if len(found) == 1 else found
    script = read_script(document.text)
    return Arguments(document.path, document.text, "text", data, script=script, written=written)


def _is_number(text: str) -> bool:
    return re.match(r"-[\d.]", text) is not None


def _value(text: str, known: bool) -> Any:
    """An argument as an argument parser reads it; a part that is not known makes it a placeholder."""
    if not known:
        return "${" + text.strip("\"'").replace("{", "").replace("}", "").lstrip("$") + "}"
    if re.fullmatch(r"[-+]?\d{1,18}", text):
        return int(text)
    if re.fullmatch(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,3})?", text):
        return float(text)
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if text[:1] in ("{", "["):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text
    return text


# -- whose arguments they are


def _meaning(run: Run, arguments: Arguments) -> _Meaning | None:
    keys = arguments.data.keys()
    if run.program != "python":
        return _of_cli(run) if run.action in _TRAINS[run.program] and keys else None
    path = run.action.replace(".", "/") if not run.action.endswith(".py") else run.action
    base = PurePosixPath(path).name.removesuffix(".py")
    if "finetuning_type" in keys and {"do_train", "dataset", "learning_rate", "stage"} & keys:
        is_new = re.search(r"(?:^|/)(?:llamafactory/cli|src/train)(?:\.py)?$", path) is not None
        return _Meaning("llamafactory", 0.95, llamafactory.read, None, is_new)
    if re.search(r"(?:^|/)swift/cli/(?:sft|pt|rlhf)(?:\.py)?$", path) or (base == "llm_sft" and "sft_type" in keys):
        return _Meaning("ms-swift", 0.95, swift.read)
    if re.search(r"(?:^|/)(?:trl|examples)/scripts/\w+(?:\.py)?$", path) and base in _TRL_METHODS:
        return _Meaning("trl", 0.95, trl.read, base)
    own = shell_scripts.recognise(base, keys)
    if own is not None:
        return _Meaning(*own)
    sure = homemade.recognise(arguments)
    return _Meaning("generic", sure, homemade.read) if sure >= 0.4 else None


def _of_cli(run: Run) -> _Meaning | None:
    if run.program in ("llamafactory-cli", "lmf"):
        return _Meaning("llamafactory", 0.98, llamafactory.read)
    if run.program == "swift" and run.action == "pt":
        return _Meaning("ms-swift", 0.98, _read_swift_pt, "pretrain")
    if run.program == "swift":
        return _Meaning("ms-swift", 0.98, swift.read)
    if run.program == "trl":
        return _Meaning("trl", 0.98, trl.read, run.action)
    if run.program == "autotrain":
        return _Meaning("autotrain", 0.98, autotrain.read)
    return _Meaning("litgpt", 0.98, _read_litgpt(run)) if run.program == "litgpt" else None


def _read_swift_pt(arguments: Arguments) -> Setup:
    """``swift pt`` is ``swift sft`` with two other defaults (swift/arguments/pretrain_args.py)."""
    arguments.data.setdefault("use_chat_template", False)
    arguments.data.setdefault("loss_scale", "all")
    return swift.read(arguments)


def _read_litgpt(run: Run) -> Callable[[Arguments], Setup]:
    """The checkpoint is the first argument where no option names it, and a dot in a name leads into a section."""

    def read(arguments: Arguments) -> Setup:
        first = run.arguments[0]
        for key in [key for key in arguments.data if "." in key]:
            section, _, field = key.partition(".")
            value = arguments.data.pop(key)
            inside = arguments.data.setdefault(section, {})
            if isinstance(inside, dict):
                inside[field] = value
        if "checkpoint_dir" not in arguments.data and not first.text.startswith("-") and arguments.written is not None:
            arguments.data["checkpoint_dir"] = _value(first.text, first.known)
            arguments.written["checkpoint_dir"] = (first,)
        return litgpt.read(arguments)

    return read


def _read_run(run: Run, arguments: Arguments, meaning: _Meaning, runs: int) -> Setup:
    setup = meaning.read(arguments)
    version = setup.dialect_version or ""
    if runs > 1 and arguments.script is not None:
        version += f", line {arguments.script.place(run.at)[0]}, one of {runs} trainings"
    changed: dict[str, Any] = {"dialect": f"{name}-{meaning.dialect}", "dialect_version": version}
    if not meaning.checks_keys:
        changed |= {"unknown_keys": [], "removed_keys": [], "deprecated_keys": []}
    setup = setup.model_copy(update=changed)
    if meaning.method is not None:
        setup = with_value(setup, "training.method", meaning.method, "explicit", f"`{run.action}`")
    setup = launched(run, setup, Neighbours(arguments.path).folders)
    return started_by_llamafactory(run, setup) if meaning.dialect == "llamafactory" and meaning.checks_keys else setup
