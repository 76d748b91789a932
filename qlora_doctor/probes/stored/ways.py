"""The ways to serve an adapter, loaded for real and measured side by side on the same tokens.

The reference is the adapter on the 4-bit base that QLoRA trained it on. What a way keeps is told apart from what its
base does otherwise: the change of the log-probabilities from the way's own base without the adapter, projected on the
change that the adapter makes on the 4-bit base. One is all of it, nothing is left at zero.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...core.errors import StageError
from ...facts.run import KeptOutputs
from ...facts.stored import Way
from ...pipeline.base import dtype_argument
from ..config.stored_adapter import CONFIG, PICKLED, WEIGHTS
from ..load.checkpoint import read_checkpoint
from .bases import base_folder
from .reload import BASES, answered, has_other_weights
from .reload import concluded as reloaded
from .rows import token_rows
from .texts import read_json

REPETITIONS = 5
_PREFILL, _DECODE = 512, 64
_PREFILL_CPU, _DECODE_CPU = 128, 16
_KEEPS, _DESTROYS = 0.9, 0.5
_NEARLY = 0.8
"""Of a speed: what two runs of the same model differ by on a busy machine (42 and 51 tokens a second on an H200)."""


@dataclass
class Bench:
    """What every way is measured with.

    Attributes:
        rows: token ids; each is run by itself, so that no padding is in it.
        reference: log-probabilities of the reference by row, float32, on the CPU; filled by the first way.
        origins: the same of the bases without the adapter, ``4-bit`` and ``16-bit``.
    """

    rows: Sequence[Sequence[int]]
    device: Any
    speed: bool
    reference: list[Any] | None = None
    origins: dict[str, list[Any]] = field(default_factory=dict)
    kept: KeptOutputs | None = None
    """What the run that trained the adapter kept of it."""
    answers: dict[str, tuple[float, float]] = field(default_factory=dict)
    """What the reloaded models say to the same tokens; filled by those ways that are reloads."""
    repetitions: int = REPETITIONS
    decode: int | None = None
    """Tokens that are written in each repetition; None takes 64 on a GPU and 16 on a CPU."""


def measured(
    folder: Path,
    base: Path | None,
    rows: Path | None,
    *,
    device: str | None = None,
    speed: bool = True,
    kept: KeptOutputs | None = None,
    merged: Path | None = None,
) -> dict[str, Any]:
    """Facts of all ways.

    Args:
        folder: of the adapter.
        base: of the base with its weights; None takes the one that the adapter names, where that is a folder here.
        rows: see ``token_rows``.
        speed: measure prefill and decode as well.
        kept: what the run kept of this adapter.
        merged: a merged model that is measured beside the ways that are made here.

    Raises:
        StageError: there is no base, no tokenizer, it is no causal language model, or weights are a pickle.
    """
    import torch
    from transformers import AutoTokenizer

    config, why = read_json(folder / CONFIG)
    if config is None:
        raise StageError(f"The ways to serve need an adapter: {why}", kind="missing-file")
    if config.get("task_type") not in (None, "CAUSAL_LM"):
        raise StageError(f"The ways are measured by next tokens, and this adapter is for {config['task_type']}.")
    named = base_folder(base, config)
    if named is None or not (named / "config.json").is_file():
        raise StageError("The base's folder is not known.", kind="missing-file", remedy="Give it with --base.")
    if (folder / PICKLED).exists() and not (folder / WEIGHTS).exists():  # PEFT would open it
        raise StageError(f"{PICKLED} is a pickle, and pickles are not opened here.", kind="pickle-only")
    read_checkpoint(named)  # transformers would open the base's pickle
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    try:
        has_own = (folder / "tokenizer.json").is_file() or (folder / "tokenizer_config.json").is_file()
        tokenizer = AutoTokenizer.from_pretrained(folder if has_own else named)
    except (OSError, ValueError) as error:
        raise StageError(
            f"The tokenizer cannot be loaded: {str(error).splitlines()[0]}", kind="missing-file"
        ) from error
    ids, told = token_rows(tokenizer, rows)
    bench = Bench(ids, place, speed, kept=kept)
    ways = all_ways(folder, named, bench, merged=merged)
    facts = {"ways": ways, "data": told, **concluded(ways)}
    if kept is None:
        return facts
    if has_other_weights(folder, kept):
        return facts | {"reload": "other-weights", "reload_step": kept.step}
    return facts | reloaded(kept, bench.answers)


def all_ways(
    folder: Path,
    base: Path,
    bench: Bench,
    told: Callable[[Way], None] | None = None,
    merged: Path | None = None,
) -> list[Way]:
    """Each way in an order in which no more than one model is held, and each base is loaded as seldom as can be.

    Args:
        merged: a merged model, which is measured as it is stored.
        told: called with each way as soon as it is measured.
    """
    made = _Made(folder, base, bench.device)
    ways: dict[str, Way] = {}
    for courses in (*made.chains(), *made.stored(merged)):
        model: Any = None
        failure: str | None = None
        for name, build, origin in courses:
            if failure is None:
                try:
                    model = build(model)
                    ways[name] = _measure(name, model, bench, origin)
                except StageError as error:
                    failure = error.message
                except Exception as error:  # a way that this base or machine refuses does not end the others
                    first = str(error).splitlines()[0] if str(error) else ""
                    failure = f"{type(error).__name__}: {first}"
            if failure is not None:  # what comes of it fails with it
                ways[name] = Way(way=name, failure=failure)
            _free()
            if told is not None:
                told(ways[name])
            if bench.reference is None:
                raise StageError(f"The adapter on the 4-bit base cannot be run: {ways[name].failure}")
    order = ("adapter-on-4bit", "adapter-on-16bit", "merged-16bit", "merged-dequantized", "merged-4bit",
             "merged-quantized-anew", "merged-as-stored", "base")  # fmt: skip
    return [ways[name] for name in order if name in ways]


def concluded(ways: Sequence[Way]) -> dict[str, Any]:
    """Which way to ship: of those that keep nine tenths and decode nearly as fast as the fastest of them the one that
    keeps most; which ways destroy the adapter, and which lose a part of it."""
    judged = [way for way in ways if way.kept_ratio is not None]
    good = [way for way in judged if (way.kept_ratio or 0) >= _KEEPS]
    fastest = max((way.decode_tokens_per_second or 0.0 for way in good), default=0.0)
    near = [way for way in good if (way.decode_tokens_per_second or 0.0) >= _NEARLY * fastest]
    best = max(near, key=lambda way: min(way.kept_ratio or 0.0, 1.0), default=None)
    return {
        "best_way": best.way if best else "adapter-on-4bit",
        "destroying_ways": [way.way for way in judged if (way.kept_ratio or 0) < _DESTROYS],
        "losing_ways": [way.way for way in judged if _DESTROYS <= (way.kept_ratio or 0) < _KEEPS],
    }


_Step = tuple[str, Callable[[Any], Any], str | None]


class _Made:
    """Builds the models, each from the one before it where that costs no load."""

    def __init__(self, folder: Path, base: Path, device: Any) -> None:
        import torch

        config = read_json(base / "config.json")[0] or {}
        self._stored_packed = isinstance(config.get("quantization_config"), dict)
        written = str(config.get("dtype") or config.get("torch_dtype") or "bfloat16")
        self._dtype = {"float16": torch.float16, "float32": torch.float32}.get(written, torch.bfloat16)
        self._folder, self._base, self._device = folder, base, device
        self._packed: set[str] = set()

    def chains(self) -> tuple[tuple[_Step, ...], ...]:
        """By load of the base: name, how the model comes of the one before, and the base that it is held against."""
        return (
            (
                ("adapter-on-4bit", lambda _: self._attached(self._four_bit()), None),
                ("base", lambda model: model.unload(), None),
            ),
            # Loaded anew: on a CPU bitsandbytes packs the weights otherwise in the first forward, and rounds absmax.
            (("merged-4bit", lambda _: self._attached(self._four_bit()).merge_and_unload(), "4-bit"),),
            (
                (
                    "merged-dequantized",
                    lambda _: self._attached(self._four_bit().dequantize()).merge_and_unload(),
                    "4-bit",
                ),
                # Of a base that is stored in 4-bit there are no other 16-bit weights.
                *((("merged-quantized-anew", self._quantized, "4-bit"),) if self._stored_packed else ()),
            ),
            (
                ("base-16bit", lambda _: self._load(), None),
                ("adapter-on-16bit", self._attached, "16-bit"),
                ("merged-16bit", lambda model: model.merge_and_unload(), "16-bit"),
                *(() if self._stored_packed else (("merged-quantized-anew", self._quantized, "4-bit"),)),
            ),
        )

    def stored(self, merged: Path | None) -> tuple[tuple[_Step, ...], ...]:
        """A merged model as it is stored, held against the base in its own precision."""
        if merged is None:
            return ()
        packed = isinstance((read_json(merged / "config.json")[0] or {}).get("quantization_config"), dict)
        origin = "4-bit" if packed else "16-bit"
        return ((("merged-as-stored", lambda _: self._load(merged, as_stored=True), origin),),)

    def _four_bit(self) -> Any:
        """The base in nf4 with double quantization, as QLoRA has it."""
        import bitsandbytes as bnb
        from transformers import BitsAndBytesConfig

        bits = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=self._dtype,
        )
        model = self._load(quantization_config=bits)
        self._packed = {name for name, module in model.named_modules() if isinstance(module, bnb.nn.Linear4bit)}
        return model

    def _attached(self, model: Any) -> Any:
        """The model with the adapter."""
        from peft import PeftModel

        return PeftModel.from_pretrained(model, str(self._folder)).eval()

    def _quantized(self, model: Any) -> Any:
        """A 16-bit model with the layers in 4-bit that a 4-bit load of the base has so."""
        import bitsandbytes as bnb

        for name in self._packed:
            old = model.get_submodule(name)
            new = bnb.nn.Linear4bit(
                old.in_features, old.out_features, old.bias is not None, compute_dtype=self._dtype,
                compress_statistics=True, quant_type="nf4", device="meta",
            )  # fmt: skip
            new.weight = bnb.nn.Params4bit(
                old.weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4", module=new
            ).to(self._device)
            new.bias = old.bias
            owner, _, last = name.rpartition(".")
            setattr(model.get_submodule(owner), last, new)
        return model.eval()

    def _load(self, folder: Path | None = None, *, as_stored: bool = False, **arguments: Any) -> Any:
        from transformers import AutoModelForCausalLM

        if self._stored_packed and folder is None and not arguments:
            raise StageError("the base is stored quantized, so that its 16-bit weights are not here")
        dtype = "auto" if as_stored else self._dtype
        model = AutoModelForCausalLM.from_pretrained(
            str(folder or self._base), **{dtype_argument(): dtype}, device_map={"": str(self._device)}, **arguments
        )
        return model.eval()


_ORIGINS = {"base": "4-bit", "base-16bit": "16-bit"}


def _measure(name: str, model: Any, bench: Bench, origin: str | None = None) -> Way:
    """One way on all rows; ``origin`` is the base that it is held against for what it keeps."""
    import torch

    is_cuda = bench.device.type == "cuda"
    if is_cuda:
        torch.cuda.reset_peak_memory_stats(bench.device)
    model.eval()
    if bench.kept is not None and name in (*BASES, *BASES.values()):
        bench.answers[name] = answered(model, bench.kept, bench.device)
    reference = bench.reference
    kept: list[Any] = []
    own, plain = bench.origins.get(origin or ""), bench.origins.get("4-bit")
    divergence = agree = nll = kept_part = whole = 0.0
    count = 0
    with torch.inference_mode():
        for index, row in enumerate(bench.rows):
            ids = torch.tensor([row], device=bench.device)
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float().cpu()
            logs = torch.log_softmax(logits, -1)
            other = reference[index] if reference is not None else logs
            divergence += float((other.exp() * (other - logs)).sum(-1).double().sum())
            agree += int((logs.argmax(-1) == other.argmax(-1)).sum())
            nll -= float(logs.gather(-1, ids[0, 1:, None].cpu()).double().sum())
            count += len(row) - 1
            if own is not None and plain is not None:
                weight, effect = other.exp(), other - plain[index]
                kept_part += float((weight * (logs - own[index]) * effect).double().sum())
                whole += float((weight * effect * effect).double().sum())
            if reference is None or name in _ORIGINS:
                kept.append(logs)
    if reference is None:
        bench.reference = kept
    elif name in _ORIGINS:
        bench.origins[_ORIGINS[name]] = kept
    speeds: dict[str, Any] = _speeds(model, bench) if bench.speed else {}
    peak = torch.cuda.max_memory_allocated(bench.device) if is_cuda else None
    size = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    return Way(
        way=name, divergence=divergence / count, agreement_ratio=agree / count,
        perplexity=math.exp(min(nll / count, 700)),
        kept_ratio=1.0 if reference is None else kept_part / whole if whole > 0 else None,
        bytes=size, peak_bytes=peak, **speeds,
    )  # fmt: skip


def _speeds(model: Any, bench: Bench) -> dict[str, float]:
    """Tokens per second of reading a prompt and of writing after it: medians of some repetitions."""
    import torch

    is_cuda = bench.device.type == "cuda"
    longest = int(getattr(model.config, "max_position_embeddings", 0) or 1 << 30)
    decode = bench.decode or (_DECODE if is_cuda else _DECODE_CPU)
    prefill = max(2, min(_PREFILL if is_cuda else _PREFILL_CPU, longest - decode - 1))
    flat = [token for row in bench.rows for token in row]
    prompt = torch.tensor([(flat * (prefill // len(flat) + 1))[:prefill]], device=bench.device)

    def timed(act: Callable[[], Any]) -> float:
        if is_cuda:
            torch.cuda.synchronize(bench.device)
        started = time.perf_counter()
        act()
        if is_cuda:
            torch.cuda.synchronize(bench.device)
        return time.perf_counter() - started

    def write() -> None:
        state = model(input_ids=prompt, use_cache=True)
        token = state.logits[:, -1:].argmax(-1)
        seconds.append(timed(lambda: _decode(model, token, state.past_key_values, decode)))

    seconds: list[float] = []
    with torch.inference_mode():
        timed(lambda: model(input_ids=prompt, use_cache=False))  # kernels are chosen in the first run
        reading = [timed(lambda: model(input_ids=prompt, use_cache=False)) for _ in range(bench.repetitions)]
        for _ in range(bench.repetitions):
            write()
    rates = [decode / each for each in seconds]
    return {
        "prefill_tokens_per_second": prefill / statistics.median(reading),
        "decode_tokens_per_second": statistics.median(rates),
        "decode_spread": statistics.stdev(rates),
    }


def _decode(model: Any, token: Any, cache: Any, count: int) -> None:
    for _ in range(count):
        state = model(input_ids=token, past_key_values=cache, use_cache=True)
        cache, token = state.past_key_values, state.logits[:, -1:].argmax(-1)


def _free() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
