"""A merged checkpoint, checked by replaying the merge: base plus adapter, tensor by tensor, on rows of each.

A merge writes ``round(W + ΔW)`` in the dtype of the file. Where |ΔW| is larger than the spacing of the stored numbers
each element tells by itself which multiple of ΔW is in it; where it is smaller the merge lost it, and nobody can tell.
Weights that no hypothesis explains are held against the base as 4-bit weights give it back, for a merge of a QLoRA run
may start from those (peft 0.21, tuners/lora/bnb.py: merge dequantizes, adds and, in 4-bit, quantizes again).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ...core.errors import StageError
from ...facts.stored import MergedTensor
from ..config.stored_adapter import CONFIG, PICKLED, WEIGHTS
from ..load.checkpoint import Checkpoint, StoredTensor, read_checkpoint, read_header
from .adapter import changes_base, scaling_of
from .arrays import Arrays, Passing
from .changes import AGREE, Change, OtherScales, judged, judged_packed
from .experts import Experts, change_of, experts_of
from .names import parse
from .quantized import PACKED
from .texts import read_json

ROWS = 96
"""Rows of each tensor that are looked at, evenly spread."""
_BITS = {"BF16": 8, "F16": 11, "F32": 24, "F64": 53}
"""Significant bits of a dtype; the spacing at x is 2^(floor(log2 x) + 1 - bits)."""
_UNTOUCHED = 24
_APPLIED = ("applied", "applied-to-dequantized", "applied-and-quantized")


def replayed(folder: Path, base: Path | None, adapter: Path) -> dict[str, Any]:
    """Facts of a merge: how each adapted tensor came about, and what they say together.

    Args:
        folder: the merged model.
        base: the folder of the base; without one nothing can be replayed.
        adapter: the folder of the adapter.
    """
    if base is None:
        return _undecided("the base is not here: give its folder with --base")
    config, why = read_json(adapter / CONFIG)
    if config is None:
        return _undecided(why)
    if (adapter / PICKLED).is_file() and not (adapter / WEIGHTS).exists():
        return _undecided(f"the adapter's {PICKLED} is a pickle, and pickles are not opened here")
    try:
        merged, original = read_checkpoint(folder), read_checkpoint(base)
        factors = read_header(adapter / WEIGHTS)
    except StageError as error:
        return _undecided(error.message)
    replay = _Replay(merged, original, factors, adapter / WEIGHTS, config)
    broken = replay.not_finite()
    if broken:
        return {
            "merge": "not-finite",
            "merge_tensors": [MergedTensor(tensor=name, verdict="not-finite") for name in broken],
            "merge_note": f"{len(broken)} of {len(merged.tensors)} tensors hold numbers that are not finite: "
            + ", ".join(broken[:3]),
        }
    differ = replay.untouched_that_differ()
    tensors = replay.tensors()
    if differ and sum(each.verdict == "applied" for each in tensors) < len(tensors):
        return {
            "merge": "other-base",
            "merge_tensors": tensors,
            "merge_note": f"tensors that no adapter touches differ as well: {', '.join(differ[:3])}",
        }
    found = _together(tensors)
    init = changes_base(config)
    if init != "none" and found["merge"].startswith("applied"):
        # Right only where --base is the changed one, and no file says whether it is.
        note = f"init_lora_weights: {init} takes a part out of the base, and the adapter was added to --base as it is"
        return found | {"merge": "undecided", "merge_note": note}
    return found


def _undecided(note: str) -> dict[str, Any]:
    return {"merge": "undecided", "merge_note": note.rstrip("."), "merge_tensors": []}


def _together(tensors: list[MergedTensor]) -> dict[str, Any]:
    """One word for all tensors."""
    counts = Counter(each.verdict for each in tensors)
    scales = sorted(each.scale for each in tensors if each.scale is not None)
    found: dict[str, Any] = {"merge_tensors": tensors, "merge_scale": scales[len(scales) // 2] if scales else None}
    if not tensors:
        return _undecided("no tensor of the adapter has its like in the merged model")
    if len(counts) == 1:
        return {**found, "merge": next(iter(counts))} | ({"merge_note": _why(tensors)} if counts["undecided"] else {})
    known = {verdict: count for verdict, count in counts.items() if verdict != "undecided"}
    told = ", ".join(f"{count} of {len(tensors)} {verdict}" for verdict, count in counts.most_common())
    if all(verdict.startswith("applied") for verdict in known):
        # bitsandbytes packs linear layers alone: heads, embeddings and experts stand in 16-bit beside them.
        known = {max(known, key=_APPLIED.index): sum(known.values())}
        if "undecided" not in counts:
            return {**found, "merge": next(iter(known)), "merge_note": told}
    if len(known) == 1:
        verdict = next(iter(known))
        # What is wrong in the tensors that can be told is wrong; what is right there is no proof for the others.
        right = verdict.startswith("applied")
        return {**found, "merge": "undecided" if right else verdict, "merge_note": told}
    return {**found, "merge": "partly", "merge_note": told}


def _why(tensors: list[MergedTensor]) -> str:
    """Why nothing could be decided: too little to see, or more than the adapter explains."""
    if any(each.residual is not None for each in tensors):
        return (
            "the weights differ from the base by something else than this adapter: another adapter or checkpoint of "
            "it, or weights that were quantized in another way"
        )
    return "the change is smaller than the spacing of the stored numbers, or it cannot be made from these files"


class _Replay:
    """Opens each file once."""

    def __init__(
        self,
        merged: Checkpoint,
        base: Checkpoint,
        factors: Mapping[str, StoredTensor],
        file: Path,
        config: Mapping[str, Any],
    ) -> None:
        self._merged, self._base, self._factors, self._config = merged, base, factors, config
        self._arrays: dict[Path, Arrays] = {}
        self._file = file
        self._scales = OtherScales()
        self._pairs: dict[str, dict[str, StoredTensor]] = {}
        self._saved: dict[str, StoredTensor] = {}
        self._tokens: dict[str, StoredTensor] = {}
        for name, tensor in factors.items():
            parts = parse(name)
            if parts is None:
                continue
            if parts.part in ("lora_A", "lora_B", "magnitude"):
                self._pairs.setdefault(parts.module, {})[parts.part] = tensor
            elif parts.part == "token":
                self._tokens[parts.module] = tensor
            elif parts.part == "saved":
                self._saved[f"{parts.module}.weight"] = tensor
        # Of an adapted embedding PEFT stores the base's weight as well.
        self._saved = {n: t for n, t in self._saved.items() if n.removesuffix(".weight") not in self._pairs}

    def tensors(self) -> list[MergedTensor]:
        """The verdict on each adapted tensor, and on each that was trained whole."""
        found = [
            self._adapted(module, parts)
            for module, parts in self._pairs.items()
            if {"lora_A", "lora_B"} <= parts.keys()
        ]
        found += [self._whole(name, tensor) for name, tensor in self._saved.items()]
        return found + [self._token_rows(module, tensor) for module, tensor in self._tokens.items()]

    def not_finite(self) -> list[str]:
        """Tensors of the merged model with a number that is not; each file is read through."""
        found = []
        for file in sorted({tensor.file for tensor in self._merged.tensors.values()}):
            with Passing(file) as passing:
                own = [(name, tensor) for name, tensor in self._merged.tensors.items() if tensor.file == file]
                found += [name for name, tensor in own if passing.is_finite(tensor) is False]
        return found

    def untouched_that_differ(self) -> list[str]:
        """Norms and embeddings that no adapter touches and that are not the base's."""
        import numpy as np

        touched = {f"{module}.weight" for module in (*self._pairs, *self._tokens)} | self._saved.keys()
        names = [
            name
            for name, tensor in self._merged.tensors.items()
            if name in self._base.tensors and name not in touched and self._is_plain(name, tensor)
        ]
        differ = []
        for name in names[:: max(1, len(names) // _UNTOUCHED)]:
            merged, base = self._rows(self._merged.tensors[name]), self._rows(self._base.tensors[name])
            if merged.shape != base.shape:
                continue  # a vocabulary that was resized
            if not np.all(np.abs(merged - base) <= self._spacing(self._merged.tensors[name], merged, base)):
                differ.append(name)
        return differ

    def _is_plain(self, name: str, tensor: StoredTensor) -> bool:
        """Neither quantized, nor a packed weight's statistics, nor a linear layer, which a merge may change."""
        if ".weight." in name:
            return False
        last = name.rsplit(".", 2)[-2]
        return tensor.dtype in _BITS and (len(tensor.shape) == 1 or "embed" in last or last in ("wte", "wpe"))

    def _adapted(self, module: str, parts: Mapping[str, StoredTensor]) -> MergedTensor:
        name = f"{module}.weight"
        stored, original = self._merged.tensors.get(name), self._base.tensors.get(name)
        if stored is None or original is None:
            return self._of_experts(module, parts) or MergedTensor(tensor=name, verdict="undecided")
        if stored.dtype in PACKED:
            return self._packed(module, parts, stored, original)
        if stored.dtype not in _BITS or (original.dtype in _BITS and stored.shape != original.shape):
            return MergedTensor(tensor=name, verdict="undecided")
        merged, found = self._rows(stored), MergedTensor(tensor=name, verdict="undecided")
        for base, given in self._bases(name, original, self._rows):
            if base is None or base.shape != merged.shape:
                continue
            change = self._change(module, parts, stored.shape, base)
            if change is None:
                return found
            now = judged(name, merged, change, self._spacing(stored, merged, base + change.at(1)))
            if now.verdict == "applied" and given:
                return now.model_copy(update={"verdict": "applied-to-dequantized"})
            if now.verdict != "undecided":
                return now
            found = now if found.residual is None else found
        return found

    def _bases(
        self, name: str, original: StoredTensor, plain: Callable[[StoredTensor], Any]
    ) -> Iterator[tuple[Any, bool]]:
        """What a merge may have begun with: the base's weight, and the same as packed weights give it back.

        Args:
            plain: gives the weight, or the rows of it that are looked at.
        """
        from .quantized import given_back, unpacked

        rows = slice(None) if plain == self._get else _spread(original.shape[0])
        if original.dtype in PACKED:
            whole = unpacked(self._base, name)
            yield (None if whole is None else whole[slice(None) if plain == self._get else _spread(len(whole))], True)
            return
        yield plain(original), False
        for whole in given_back(self._get(original), original.dtype):
            yield whole[rows].astype("f8"), True

    def _packed(
        self, module: str, parts: Mapping[str, StoredTensor], stored: StoredTensor, original: StoredTensor
    ) -> MergedTensor:
        """The merged weight is packed: it is held against each change, packed as the merge does it."""
        from .quantized import quantized_again, unpacked

        name = f"{module}.weight"
        merged, undecided = unpacked(self._merged, name), MergedTensor(tensor=name, verdict="undecided")
        for base, given in self._bases(name, original, self._get):
            if merged is None or base is None or merged.shape != base.shape:
                continue
            change = self._change(module, parts, base.shape, base.astype("f8"), every=True)
            if change is None:
                break
            found = judged_packed(
                name, merged, change, lambda weight: quantized_again(weight, self._merged, name),
                base_packed=given, scales=self._scales,
            )  # fmt: skip
            if found.verdict != "undecided":
                return found
            undecided = undecided if undecided.residual is not None else found
        return undecided

    def _of_experts(self, module: str, parts: Mapping[str, StoredTensor]) -> MergedTensor | None:
        """Of a tensor of experts, some of them on some rows; None where there is no such tensor."""
        owner = module.replace(".base_layer", "")
        a, b = (self._get(parts[key]).astype("f8") for key in ("lora_A", "lora_B"))
        scaling, undecided = scaling_of(self._config, module), None
        for experts in experts_of(owner, self._base.tensors, self._shape_of):
            count, rows, columns = experts.shape
            for turned in (False, True):
                if (b.shape[0], a.shape[1]) != ((columns, rows) if turned else (rows, columns)) or a.shape[0] % count:
                    continue
                found = self._some_experts(experts, a, b, scaling, turned=turned)
                if found is not None and found.verdict != "undecided":
                    return found
                undecided = undecided or found
        return undecided

    def _shape_of(self, name: str) -> tuple[int, ...]:
        """Of a base's weight, as it is when a packed one is given back."""
        from .quantized import unpacked

        tensor = self._base.tensors[name]
        weight = unpacked(self._base, name) if tensor.dtype in PACKED else None
        return tensor.shape if weight is None else tuple(weight.shape)

    def _some_experts(self, experts: Experts, a: Any, b: Any, scaling: float, *, turned: bool) -> MergedTensor | None:
        import numpy as np

        count = experts.shape[0]
        chosen = sorted({0, count // 3, 2 * count // 3, count - 1})
        merged = self._weights_of(self._merged, experts, chosen)
        if merged is None:
            return None
        changes = [change_of(a, b, each, count) * scaling for each in chosen]
        low_rank = np.concatenate([each.T if turned else each for each in changes])
        undecided = None
        for base, given in self._bases_of(experts, chosen):
            if [each.shape for each in base] != [each.shape for each in merged]:
                continue
            found = self._judged_experts(experts, chosen, merged, Change(np.concatenate(base), low_rank), given=given)
            if found is not None and found.verdict != "undecided":
                return found
            undecided = undecided or found
        return undecided

    def _judged_experts(
        self, experts: Experts, chosen: list[int], pieces: list[Any], change: Change, *, given: bool
    ) -> MergedTensor | None:
        """Plain numbers on some rows of each expert, packed ones on all; None where some are this and some that."""
        import numpy as np

        from .quantized import quantized_again

        names = self._names_of(experts, chosen)
        stored = [self._merged.tensors[name] for name in names]
        merged = np.concatenate(pieces)
        if all(each.dtype in PACKED for each in stored):
            lengths = [len(each) for each in pieces]

            def pack(weight: Any) -> Any:
                packed, begin = [], 0
                for name, length in zip(names, lengths, strict=True):
                    if begin < len(weight):
                        packed.append(quantized_again(weight[begin : begin + length], self._merged, name))
                    begin += length
                return np.concatenate(packed)

            return judged_packed(experts.name, merged, change, pack, base_packed=given, scales=self._scales)
        if any(each.dtype in PACKED for each in stored):
            return None
        rows = experts.shape[1]
        some = np.concatenate([_spread(rows) + rows * place for place in range(len(chosen))])
        merged, change = merged[some], Change(change.base[some], change.low_rank[some])
        found = judged(experts.name, merged, change, self._spacing(stored[0], merged, change.base + change.at(1)))
        if given and found.verdict == "applied":
            return found.model_copy(update={"verdict": "applied-to-dequantized"})
        return found

    def _names_of(self, experts: Experts, chosen: list[int]) -> list[str]:
        return [name for each in chosen for name in experts.parts[0 if experts.joined else each]]

    def _weights_of(self, checkpoint: Checkpoint, experts: Experts, chosen: list[int]) -> list[Any] | None:
        """The weights of these experts, projection by projection; None where one is not there or cannot be read."""
        from .quantized import unpacked

        found = []
        for expert in chosen:
            for name in experts.parts[0 if experts.joined else expert]:
                tensor = checkpoint.tensors.get(name)
                weight = None
                if tensor is not None and tensor.dtype in _BITS:
                    weight = self._open(tensor.file).rows(tensor, [expert])[0] if experts.joined else self._get(tensor)
                elif tensor is not None and tensor.dtype in PACKED:
                    weight = unpacked(checkpoint, name)
                if weight is None or weight.ndim != 2:
                    return None
                found.append(weight.astype("f8"))
        return found

    def _bases_of(self, experts: Experts, chosen: list[int]) -> Iterator[tuple[list[Any], bool]]:
        """What a merge may have begun with, as ``_bases`` has it of one weight."""
        from .quantized import given_back

        base = self._weights_of(self._base, experts, chosen)
        if base is None:
            return
        dtypes = [self._base.tensors[name].dtype for name in self._names_of(experts, chosen)]
        packed = any(dtype in PACKED for dtype in dtypes)
        yield base, packed
        if not packed and not experts.joined:  # transformers quantizes the projections of each by themselves
            every = [given_back(weight.astype("f4"), dtype) for weight, dtype in zip(base, dtypes, strict=True)]
            for again in zip(*every, strict=True):
                yield [weight.astype("f8") for weight in again], True

    def _whole(self, name: str, tensor: StoredTensor) -> MergedTensor:
        """A module that was trained whole: the merged tensor is the adapter's, or still the base's."""
        import numpy as np

        stored, original = self._merged.tensors.get(name), self._base.tensors.get(name)
        if stored is None or stored.shape != tensor.shape or stored.dtype not in _BITS:
            return MergedTensor(tensor=name, verdict="undecided")
        merged, saved = self._rows(stored), self._rows(tensor)
        near = np.abs(merged - saved) <= self._spacing(stored, merged, saved)
        if near.mean() >= AGREE:
            return MergedTensor(tensor=name, verdict="applied", scale=1.0)
        if original is not None and original.shape == stored.shape:
            base = self._rows(original)
            if (np.abs(merged - base) <= self._spacing(stored, merged, base)).mean() >= AGREE:
                return MergedTensor(tensor=name, verdict="not-applied", scale=0.0)
        return MergedTensor(tensor=name, verdict="undecided")

    def _token_rows(self, module: str, tensor: StoredTensor) -> MergedTensor:
        """Rows of an embedding that were trained by themselves: the file holds them whole (peft, trainable_tokens)."""
        import numpy as np

        name = f"{module}.weight"
        asked = self._config.get("trainable_token_indices")
        if isinstance(asked, Mapping):
            asked = next((rows for key, rows in asked.items() if f".{module}".endswith(f".{key}")), None)
        stored, original = self._merged.tensors.get(name), self._base.tensors.get(name)
        if not isinstance(asked, list) or stored is None or stored.dtype not in _BITS or len(tensor.shape) != 2:
            return MergedTensor(tensor=name, verdict="undecided")
        if len(asked) != tensor.shape[0] or stored.shape[1] != tensor.shape[1] or max(asked) >= stored.shape[0]:
            return MergedTensor(tensor=name, verdict="undecided")
        merged = np.asarray(self._open(stored.file).rows(stored, asked), np.float64)
        for verdict, scale, source, rows in (
            ("applied", 1.0, tensor, range(len(asked))),
            ("not-applied", 0.0, original, asked),
        ):
            if source is None or max(rows) >= source.shape[0]:
                continue
            own = np.asarray(self._open(source.file).rows(source, list(rows)), np.float64)
            if (np.abs(merged - own) <= self._spacing(stored, merged, own)).mean() >= AGREE:
                return MergedTensor(tensor=name, verdict=verdict, scale=scale)
        return MergedTensor(tensor=name, verdict="undecided", residual=math.inf)

    def _change(
        self, module: str, parts: Mapping[str, StoredTensor], shape: tuple[int, ...], base: Any, *, every: bool = False
    ) -> Change | None:
        """ΔW on the rows that are looked at, or on all; None where the factors do not make such a matrix."""
        import numpy as np

        a, b = (np.asarray(self._get(parts[key]), np.float64) for key in ("lora_A", "lora_B"))
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
            return None
        rows = np.arange(shape[0]) if every else _spread(shape[0])
        turned = bool(self._config.get("fan_in_fan_out")) or "lora_embedding_A" in parts["lora_A"].name
        scaling = scaling_of(self._config, module)
        if shape == (b.shape[0], a.shape[1]) and not turned:
            low_rank = scaling * (b[rows] @ a)
        elif shape == (a.shape[1], b.shape[0]):
            low_rank = scaling * (a.T[rows] @ b.T)
        else:
            return None
        if "magnitude" in parts and not turned:
            return Change(base, low_rank, np.asarray(self._get(parts["magnitude"]), np.float64).reshape(-1)[rows])
        return Change(base, low_rank)

    def _spacing(self, stored: StoredTensor, *values: Any) -> Any:
        """The distance of neighbouring numbers of the file's dtype at the largest of these values."""
        import numpy as np

        largest = np.maximum.reduce([np.abs(value) for value in values])
        _, exponent = np.frexp(np.maximum(largest, 1e-30))
        return np.ldexp(1.0, exponent - _BITS[stored.dtype])

    def _rows(self, tensor: StoredTensor) -> Any:
        import numpy as np

        if len(tensor.shape) < 2:
            return np.asarray(self._get(tensor)[_spread(tensor.shape[0])], np.float64)
        return np.asarray(self._open(tensor.file).rows(tensor, _spread(tensor.shape[0])), np.float64)

    def _get(self, tensor: StoredTensor) -> Any:
        return self._open(tensor.file).get(tensor)

    def _open(self, file: Path) -> Arrays:
        if file not in self._arrays:
            self._arrays[file] = Arrays(file)
        return self._arrays[file]


def _spread(length: int) -> Any:
    import numpy as np

    return np.unique(np.linspace(0, length - 1, min(length, ROWS)).astype(int))
