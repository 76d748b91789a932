"""What a training forward does: dtypes it reaches, whether its inputs carry a gradient, whether it builds a cache."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..tensors import decoder_layers

Inputs = Mapping[str, Any]
Guard = Callable[[Callable[..., Any]], Callable[..., Any]]
"""Takes a hook, gives one that does the same."""


@dataclass
class ForwardSeen:
    """What was seen over all training forwards; None or empty where nothing was."""

    dtypes: list[str] = field(default_factory=list)
    autocast_dtype: str | None = None
    inputs_require_grad: bool | None = None
    cache_built: bool | None = None
    micro_batches: int = 0
    trained_tokens: int = 0
    labelled: bool = False
    """Whether a training forward was given labels."""
    max_token_id: int | None = None
    tokens_out_of_range: int = 0
    batch: int | None = None
    sequence: int | None = None
    training_mode: bool | None = None
    """Whether every training forward ran in training mode; None where none ran."""
    layer_forwards: int = 0
    """Calls of the decoder layers' insides within training forwards."""
    layer_recomputations: int = 0
    """The same outside of them with gradients on: checkpointing computes a layer again in the backward."""


class ForwardWatch:
    """Hooks on the model, its layers and its head. They read; no tensor of the run is kept, replaced or copied.

    A training forward is one with gradients on, in whatever mode the model is: evaluation runs without them.

    Args:
        called: what the training loop calls where that is not the model itself (a compiled or wrapped one).
        with_layers: False puts hooks on the model alone, for one that is compiled: hooks inside would be traced.
        guard: wraps every hook, to keep what fails in it from the training.
        before: called with the inputs before each training forward, outside of everything that is timed.
        after: called with the inputs and what the model answered, after each training forward.
        on_phase: called with ``forward`` and ``backward`` as they begin.
        on_layer: called at both ends of every layer, recomputation in backward included.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        called: nn.Module | None = None,
        with_layers: bool = True,
        guard: Guard = lambda hook: hook,
        before: Callable[[Inputs], None] | None = None,
        after: Callable[[Inputs, Any], None] | None = None,
        on_phase: Callable[[str], None] | None = None,
        on_layer: Callable[[], None] | None = None,
    ) -> None:
        self.seen = ForwardSeen()
        self.losses: list[torch.Tensor] = []
        self._logit_sums: list[torch.Tensor] = []
        self._layer_sums: list[tuple[int, torch.Tensor]] = []
        """Of each layer's output, by its place among the layers."""
        self._model = model
        self._before, self._after, self._on_phase, self._on_layer = before, after, on_phase, on_layer
        self._aside = False
        self._inside = False
        self.vocab_rows = _vocabulary_rows(model)
        called = called if called is not None else model
        self._entered: nn.Module | None = None
        self._handles = []
        for each in _entries(model, called):
            # Before what FSDP 2 puts there: it gathers the parameters in a hook of its own.
            self._handles.append(each.register_forward_pre_hook(guard(self._begin), prepend=True, with_kwargs=True))
            self._handles.append(each.register_forward_hook(guard(self._end), with_kwargs=True))
        layers = self.layers = decoder_layers(model)
        for layer in layers if with_layers else []:
            self._handles.append(layer.register_forward_pre_hook(guard(self._layer_begins), with_kwargs=True))
            self._handles.append(layer.register_forward_hook(guard(self._layer_ends)))
            for part in list(layer.children())[:1]:  # transformers 5 computes a layer again below its own hooks
                self._handles.append(part.register_forward_pre_hook(guard(self._part_begins)))
        self._first = layers[0] if layers else None
        self._places = {id(layer): place for place, layer in enumerate(layers)}

    def close(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def take_losses(self) -> list[float]:
        """Losses of the forwards since the last call; waits for the device."""
        values = [float(loss) for loss in self.losses]
        self.losses.clear()
        return values

    def logits_finite(self) -> bool | None:
        """Whether the logits of every training forward are finite; None where the model returned none."""
        if not self._logit_sums:
            return None
        return all(math.isfinite(float(total)) for total in self._logit_sums)

    def first_nonfinite_layer(self) -> int | None:
        """Place of the first layer of the last forwards whose output was not finite; None where all were."""
        sums, self._layer_sums = self._layer_sums, []
        if not sums:
            return None
        values = torch.stack([total.to(sums[0][1].device) for _, total in sums]).tolist()
        bad = [place for (place, _), value in zip(sums, values, strict=True) if not math.isfinite(value)]
        return min(bad) if bad else None

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._aside or not torch.is_grad_enabled():
            return
        if self._inside and module is not self._entered:  # the base, called by the model around it
            return
        self._entered = module
        self.seen.training_mode = self.seen.training_mode is not False and self.trains()
        inputs = inputs_by_name(module, args, kwargs)
        if self._before is not None:
            self._aside = True
            try:
                self._before(inputs)
            finally:
                self._aside = False
        self._read_inputs(inputs)
        self._inside = True
        self._layer_sums.clear()  # of the forward before: one forward is what is looked at
        if self._on_phase is not None:
            self._on_phase("forward")

    def trains(self) -> bool:
        """Whether the layers are in training mode; PEFT puts a model in training mode around one that is not."""
        return all(layer.training for layer in self.layers) if self.layers else self._model.training

    def _end(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if self._aside or not self._inside or module is not self._entered:
            return
        self._inside = False
        self.seen.micro_batches += 1
        loss, logits = getattr(output, "loss", None), getattr(output, "logits", None)
        if isinstance(loss, torch.Tensor) and loss.numel() == 1:
            self.losses.append(loss.detach())
        if isinstance(logits, torch.Tensor) and logits.numel():
            self._note_dtype(logits)
            with torch.no_grad():  # a NaN or inf anywhere survives the sum; nothing of the logits' size is allocated
                self._logit_sums.append(logits.detach().sum(dtype=torch.float32))
        if self._after is not None:
            self._after(inputs_by_name(module, args, kwargs), output)
        cache = getattr(output, "past_key_values", None)
        self.seen.cache_built = bool(self.seen.cache_built) or cache is not None
        if self._on_phase is not None:
            self._on_phase("backward")

    def _layer_begins(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._aside:
            return
        if self._inside:
            hidden = args[0] if args else kwargs.get("hidden_states")
            if isinstance(hidden, torch.Tensor):
                self._note_dtype(hidden)
                if layer is self._first and self.seen.inputs_require_grad is not False:
                    self.seen.inputs_require_grad = hidden.requires_grad
            self._note_autocast()
        if self._on_layer is not None:
            self._on_layer()

    def _part_begins(self, part: nn.Module, args: tuple[Any, ...]) -> None:
        if self._inside:
            self.seen.layer_forwards += 1
        elif not self._aside and torch.is_grad_enabled():
            self.seen.layer_recomputations += 1

    def _layer_ends(self, layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self._aside:
            return
        hidden = output[0] if isinstance(output, tuple) and output else output
        if self._inside and isinstance(hidden, torch.Tensor):
            self._note_dtype(hidden)
            with torch.no_grad():  # as the logits': one number, read when a loss is none
                self._layer_sums.append((self._places.get(id(layer), 0), hidden.detach().sum(dtype=torch.float32)))
        if self._on_layer is not None:
            self._on_layer()

    def _note_dtype(self, tensor: torch.Tensor) -> None:
        name = str(tensor.dtype).removeprefix("torch.")
        if name not in self.seen.dtypes:
            self.seen.dtypes.append(name)

    def _note_autocast(self) -> None:
        kind = next((p.device.type for p in self._model.parameters()), "cpu")
        if torch.is_autocast_enabled(kind):
            self.seen.autocast_dtype = str(torch.get_autocast_dtype(kind)).removeprefix("torch.")

    def _read_inputs(self, inputs: Inputs) -> None:
        seen = self.seen
        ids = inputs.get("input_ids")
        if isinstance(ids, torch.Tensor) and ids.numel():
            if seen.batch is None and ids.dim() == 2:
                seen.batch, seen.sequence = int(ids.shape[0]), int(ids.shape[1])
            seen.max_token_id = max(seen.max_token_id or 0, int(ids.max()))
            seen.tokens_out_of_range += tokens_out_of_range(ids, self.vocab_rows)
        labels = inputs.get("labels")
        if isinstance(labels, torch.Tensor):
            seen.labelled = True
            seen.trained_tokens += _counted(labels)


def _entries(model: nn.Module, called: nn.Module) -> list[nn.Module]:
    """What a loop may call to run the model: what it was seen to call, and the base inside, called past an adapter."""
    base = model.get_base_model() if called is model and hasattr(model, "get_base_model") else called
    return [called] if base is called or not isinstance(base, nn.Module) else [called, base]


def inputs_by_name(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """A call's arguments by name; a single positional argument is taken for ``input_ids``."""
    inputs = dict(kwargs)
    if args and "input_ids" not in inputs:
        inputs["input_ids"] = args[0]
    return inputs


def tokens_out_of_range(ids: torch.Tensor, rows: int | None) -> int:
    """How many token ids have no row in the embedding."""
    return int(((ids < 0) | (ids >= rows)).sum()) if rows else 0


def _counted(labels: torch.Tensor) -> int:
    """Label positions that the loss counts: a causal model's first position predicts nothing before it."""
    shifted = labels[..., 1:] if labels.dim() == 2 else labels
    return int((shifted != -100).sum())


def _vocabulary_rows(model: nn.Module) -> int | None:
    embed: Any = getattr(model, "get_input_embeddings", lambda: None)()
    rows = getattr(embed, "num_embeddings", None)
    if rows is None and hasattr(embed, "weight"):
        rows = embed.weight.shape[0]
    return int(rows) if rows else None
