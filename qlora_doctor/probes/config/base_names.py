"""Whether two names of a base mean different models; None wherever that cannot be known from names and folders.

One model has many names: the hub's id in any letter case, a mirror's id, a local folder, the place in a cache, a
quantized copy. A difference is reported only where something decides it: other dimensions, two known models, another
number of parameters, another family, the instruct version of the same name, or other weights in two folders here.
"""

from __future__ import annotations

import json
import posixpath
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ...setup.paths import looks_like_path, resolve
from ...setup.setup import Setup
from ...tables.architectures import all_ids, find_architecture

_TECHNICAL = re.compile(
    r"hf|bnb|unsloth|meta|gptq|awq|gguf|ggml|exl2|hqq|aqlm|eetq|autoround|sharded|safetensors|mlx|mirror|dynamic|converted"
    r"|quantized(\.w\d+a\d+)?|w\d+a\d+|(int|bf|fp|nf|mxfp|nvfp)\d+|\d+bit"
)
"""Words that say how a copy is stored, or who made it (``Meta-Llama`` is ``Llama``), not which model it is."""
_SIZE = re.compile(r"(\d+x)?\d+(\.\d+)?[bm]|a\d+(\.\d+)?b")
_TUNED = {"instruct", "chat", "it", "thinking", "reasoning"}
"""Words that only another checkpoint of the same name has."""
_NAMES_OF_FAMILIES = """
    llama codellama tinyllama mistral mixtral ministral codestral qwen qwq gemma codegemma phi falcon yi olmo olmoe gpt
    pythia opt bloom bloomz deepseek granite smollm stablelm starcoder solar mamba internlm glm chatglm baichuan aya
"""
_FAMILIES = frozenset(_NAMES_OF_FAMILIES.split())
_NAMES_OF_PLACES = """
    model models checkpoint checkpoints ckpt ckpts output outputs out run runs result results save saves weight weights
    base bases adapter adapters data hf hub huggingface pretrained local tmp home root mnt work workspace content llm
    llms merged train training
"""
_PLACES = frozenset(_NAMES_OF_PLACES.split())
"""First parts of ``a/b`` that are a folder rather than somebody on the hub."""
_SHORT_NAMES = {
    "unsloth/mistral-7b": "mistralai/Mistral-7B-v0.1",
    "unsloth/zephyr-sft": "HuggingFaceH4/mistral-7b-sft-beta",
    "unsloth/tinyllama": "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T",
    "unsloth/tinyllama-chat": "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
    "unsloth/solar-10.7b": "upstage/SOLAR-10.7B-v1.0",
}
"""Copies whose names leave out which version they are of. Source: unsloth/models/mapper.py."""
_SHAPE: dict[str, tuple[str, ...]] = {
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
    "layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "inner": ("intermediate_size", "n_inner", "ffn_dim"),
    "heads": ("num_attention_heads", "n_head"),
    "key_value_heads": ("num_key_value_heads",),
    "experts": ("num_local_experts", "num_experts", "n_routed_experts"),
}
"""Dimensions, under the names that config.json has for them; the vocabulary is left out, for people resize it."""
_CACHED = re.compile(r"(?:^|/)models--([^/]+)(?:/|$)")
_SAMPLES, _SAMPLE_BYTES = 8, 4096


@dataclass(frozen=True)
class _Base:
    """What is known of a base by its name and, where it is a folder here, by its content.

    Attributes:
        text: the name as written, but for what makes no difference to a path.
        owner, name: the two parts of a hub id, lower case; of a path that is not in a hub's cache, owner is None.
        key: the words of the name that say which model it is, joined.
        known: the bundled table has a model of this name.
        folder: where it is a folder on this machine.
        shape: its type and dimensions.
    """

    text: str
    owner: str | None
    name: str
    known: bool
    folder: Path | None
    shape: dict[str, Any]

    @property
    def words(self) -> list[str]:
        return _words(self.name)

    @property
    def key(self) -> str:
        return "".join(self.words)

    @property
    def on_hub(self) -> bool:
        return self.owner is not None


def bases_differ(trained_on: str | None, setup: Setup) -> bool | None:
    """Whether an adapter that was trained on ``trained_on`` is loaded into another model by this config.

    True only where it is decided; False where both are names of one model; None where it cannot be known: no name, a
    path of another machine, a name that nobody knows.
    """
    loads = setup.model.name_or_path
    if not trained_on or not loads or setup.is_unknown("model.name_or_path"):
        return None
    one, other = _base(trained_on, setup), _base(loads, setup)
    if one.text == other.text or (one.folder is not None and one.folder == other.folder):
        return False
    if any(one.shape[name] != other.shape[name] for name in one.shape.keys() & other.shape.keys()):
        return True
    if one.key == other.key and (one.on_hub or other.on_hub or one.known):
        return False
    if one.known and other.known:
        return True
    if one.on_hub and other.on_hub:
        return _names_differ(one, other)
    if one.folder is not None and other.folder is not None:
        return _weights_differ(one.folder, other.folder)
    return None


def revisions_differ(trained_on: str | None, setup: Setup) -> bool:
    """Whether both revisions of one model are written, and cannot be the same.

    A branch or tag may stand for any commit, so that only two commits or two names are compared. Silence is no
    difference: PEFT records a revision only where ``get_peft_model`` was given one.
    """
    loads = setup.model.revision
    if not trained_on or not loads or setup.is_unknown("model.revision"):
        return False
    commits = [re.fullmatch(r"[0-9a-f]{7,40}", each.strip().lower()) is not None for each in (trained_on, loads)]
    one, other = trained_on.strip(), loads.strip()
    if all(commits):
        return not one.lower().startswith(other.lower()) and not other.lower().startswith(one.lower())
    return one != other and not any(commits)


def _names_differ(one: _Base, other: _Base) -> bool | None:
    """Whether two hub ids of different names are decidedly different models."""
    first, second = set(one.words), set(other.words)
    if first == second:
        return False
    if one.owner == other.owner or first ^ second <= _TUNED:
        return True
    sizes = [{word for word in words if _SIZE.fullmatch(word)} for words in (first, second)]
    families = [_families(words) for words in (first, second)]
    apart = (all(found) and not found[0] & found[1] for found in (sizes, families))
    return True if any(apart) else None


def _families(words: set[str]) -> set[str]:
    letters = (re.match(r"[a-z]+", word) for word in words)
    return {match[0] for match in letters if match is not None} & _FAMILIES


# -- one name


def _base(written: str, setup: Setup) -> _Base:
    folder = resolve(setup, written)
    folder = folder.resolve() if folder is not None and folder.is_dir() else None
    owner, name = _parts(written, is_folder=folder is not None)
    spelt = f"{owner}/{name}" if owner else name
    full = _SHORT_NAMES.get(_plain_id(spelt), spelt)
    name = full.rpartition("/")[2].lower()
    known = find_architecture(full) is not None or "".join(_words(name)) in _known_keys()
    return _Base(posixpath.normpath(written.strip()), owner, name, known, folder, _shape(folder, full))


def _parts(written: str, *, is_folder: bool) -> tuple[str | None, str]:
    """Owner and name; ``""`` is the owner of the hub's oldest models (``gpt2``), None that of a path."""
    text = re.sub(r"^https?://(www\.)?(huggingface\.co|hf\.co|modelscope\.cn/models)/", "", written.strip())
    text = text.replace("\\", "/").rstrip("/")
    cached = _CACHED.search(text)
    if cached is not None:  # huggingface_hub: models--OWNER--NAME/snapshots/COMMIT
        owner, _, name = cached[1].rpartition("--")
        return owner.lower(), name
    owner, _, name = text.rpartition("/")
    bare = not owner and find_architecture(name) is None
    if is_folder or looks_like_path(text) or owner.lower() in _PLACES or bare:
        return None, name.replace("___", ".")  # modelscope writes Qwen2___5 for Qwen2.5 in its cache
    return owner.lower(), name


def _plain_id(spelt: str) -> str:
    owner, slash, name = spelt.lower().rpartition("/")
    return f"{owner}{slash}{re.sub(r'(-unsloth)?-bnb-4bit$', '', name)}"


@cache
def _words(name: str) -> list[str]:
    """The words of a name, lower case, without those that say how a copy is stored."""
    text = re.sub(r"(\d)[-_ ]?bits?\b", r"\1bit", name.lower())
    text = re.sub(r"[-_ ](qat[-_ ])?q\d_(\d|k(_[sml])?)([-_ ]unquantized)?", "", text)
    words = [word for word in re.split(r"[-_ ]+", text) if word]
    return [word for word in words if not _TECHNICAL.fullmatch(word)] or words


@cache
def _known_keys() -> frozenset[str]:
    """The models of the bundled table by their names alone; not those that leave out of which version they are."""
    names = (spelling.lower() for spelling in all_ids())
    return frozenset("".join(_words(each.rpartition("/")[2])) for each in names if _plain_id(each) not in _SHORT_NAMES)


# -- what it is made of


def _shape(folder: Path | None, name: str) -> dict[str, Any]:
    """Dimensions by the folder's config.json, else by the bundled table."""
    if folder is not None:
        config = _config(folder)
    else:
        found = find_architecture(name)
        config = found.config if found is not None else {}
    shape: dict[str, Any] = {}
    text = config.get("text_config")
    if isinstance(text, dict):  # a model with images, whose text alone may go by another type
        config = text
    elif isinstance(config.get("model_type"), str):
        shape["model_type"] = config["model_type"]
    for dimension, names in _SHAPE.items():
        value = next((config[key] for key in names if isinstance(config.get(key), int)), None)
        if value is not None:
            shape[dimension] = value
    return shape


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


def _weights_differ(one: Path, other: Path) -> bool | None:
    """Whether two folders hold other values in tensors of the same names and shapes; a few bytes of each are read.

    None where their files are laid out differently: one may be a quantized copy of the other, or split otherwise.
    """
    try:
        files, others = (sorted(each.glob("*.safetensors")) for each in (one, other))
        if not files or [file.name for file in files] != [file.name for file in others]:
            return None
        for file, twin in zip(files, others, strict=True):
            size = file.stat().st_size
            if size != twin.stat().st_size:
                return None
            with file.open("rb") as stream, twin.open("rb") as twins:
                header = int.from_bytes(stream.read(8), "little") + 8
                stream.seek(0)
                if header > min(size, _HEADER) or stream.read(header) != twins.read(header):
                    return None
                for place in range(header, size, max(1, (size - header) // _SAMPLES)):
                    stream.seek(place)
                    twins.seek(place)
                    if stream.read(_SAMPLE_BYTES) != twins.read(_SAMPLE_BYTES):
                        return True
    except OSError:
        return None
    return False


_HEADER = 16 << 20
"""Bytes of a header that are compared at most."""
