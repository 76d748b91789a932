"""Made-up inputs for any kind of model: token ids, labels of the task, images and sound where the model takes them.

Ids are random and never padding, end of text or a placeholder; they stay below what both the embedding and the output
head hold. Where a model takes images or sound, one of each goes into every row: a picture of the size of its vision
config, or a small grid of patches. How many placeholders that takes the model itself is asked, by
``get_image_features`` and ``get_audio_features``, and the whole is tried in one forward without gradients; what the
model does not take is left out.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from .classes import task_of_class
from .four_bit import never_repacked

Tensors = dict[str, torch.Tensor]
_Maker = Callable[[], tuple[Tensors, bool]]
"""Gives the tensors of one image or sound, and whether those of several rows are stacked (else they are joined)."""
_PLACEHOLDER = re.compile(
    r"(image|video|audio|vision|boi|eoi|boa|eoa|img|speech).*(token|_id|index)|token.*(image|audio)"
)
IMAGE_TOKEN = ("image_token_id", "image_token_index")
_PLACES = "image_embeds_position_mask"
_AUDIO_TOKEN = ("audio_token_id", "audio_token_index")
_TEXT = 8
"""Tokens of text beside the placeholders at least."""
_MOST_PLACEHOLDERS = 256
"""Placeholders of a picture at most, where its size is free: an image of 448 × 448 in Qwen2.5-VL."""


_SOUND = ("input_features", "input_values")
"""Inputs of sound, of which a model hears the one or the other."""


@dataclass
class Medium:
    """One image or sound in a row.

    Attributes:
        name: ``image`` or ``audio``.
        tensors: arguments of the forward for one row; with a first dimension of one where ``stacked``.
        stacked: rows make a batch along a new first dimension; otherwise they follow each other in the first.
        token: the placeholder's id; None where the model wants none.
        count: placeholders of one row.
    """

    name: str
    tensors: Tensors
    stacked: bool
    token: int | None = None
    count: int = 0


@dataclass
class Inputs:
    """Turns rows of token ids into batches that a model takes.

    Attributes:
        task: as in ``classes.AUTO_CLASSES``.
        media: what every row has beside its tokens.
        left_out: media that the model has a tower for and that could not be made; ``image``, ``audio``.
    """

    model: Any
    task: str
    media: list[Medium] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def is_plain(self) -> bool:
        """Whether rows of ids, and the same as labels, are all there is to it."""
        return (
            self.task in ("causal-lm", "image-text-to-text", "multimodal-lm", "seq2seq-lm")
            and not self.media
            and not _encodes(self.model)
            and not {"mm_token_type_ids", "token_type_ids"} & _parameters(self.model)
            and not _shape_arguments(self.model)
        )

    def batch(self, ids: torch.Tensor) -> Tensors:
        """A batch of the model's inputs, labels among them.

        Args:
            ids: ``[rows, length]``.
        """
        ids = _lengthened(ids, self.length(ids.shape[1]))
        known = _parameters(self.model)
        labels = _below(ids, _head_rows(self.model))
        kinds = torch.zeros_like(ids)
        at = 1
        for medium in self.media:
            if medium.token is not None and medium.count:
                ids[:, at : at + medium.count] = medium.token
                labels[:, at : at + medium.count] = -100
                kinds[:, at : at + medium.count] = 1
                at += medium.count + 1
            elif medium.count:  # a place without a token of its own (KOSMOS-2)
                labels[:, at : at + medium.count] = -100
                kinds[:, at : at + medium.count] = 1
                at += medium.count + 1
        given: Tensors = {} if _main_input(self.model) in _SOUND else {"input_ids": ids}
        if given and "attention_mask" in known:
            given["attention_mask"] = torch.ones_like(ids)
        if "mm_token_type_ids" in known or ("token_type_ids" in known and self._marks_images()):
            name = "mm_token_type_ids" if "mm_token_type_ids" in known else "token_type_ids"
            given[name] = kinds
        if _PLACES in known and any(medium.name == "image" for medium in self.media):
            given[_PLACES] = kinds
        given |= self._labels(ids, labels)
        for medium in self.media:
            given |= {name: _rows(tensor, len(ids), medium.stacked) for name, tensor in medium.tensors.items()}
        return given

    def length(self, tokens: int) -> int:
        """Tokens of a row: those asked for, or what the placeholders and a few tokens of text need."""
        return max(tokens, sum(medium.count + 1 for medium in self.media) + _TEXT if self.media else 0)

    def _marks_images(self) -> bool:
        return hasattr(self.model.config, "vision_config")

    def _labels(self, ids: torch.Tensor, labels: torch.Tensor) -> Tensors:
        rows, length = ids.shape
        draws = torch.Generator().manual_seed(1)
        if self.task == "sequence-classification":
            if _encodes(self.model):  # BART's head reads the state of the one end of text in each row
                end = getattr(self.model.config.get_text_config(), "eos_token_id", None)
                if isinstance(end, int):
                    ids[:, -1] = end
            return {"labels": synthetic_labels(self.model, ids)}
        if self.task == "token-classification":
            return {"labels": synthetic_labels(self.model, ids)}
        if self.task == "question-answering":
            starts = torch.zeros((rows,), dtype=torch.long)
            return {"start_positions": starts, "end_positions": starts + min(3, length - 1)}
        if self.task == "multiple-choice":
            return {"input_ids": ids[:, None].repeat(1, 2, 1), "attention_mask": torch.ones((rows, 2, length)).long(),
                    "labels": torch.randint(0, 2, (rows,), generator=draws)}  # fmt: skip
        if _encodes(self.model):
            text = self.model.config.get_text_config()
            limit = getattr(text, "max_target_positions", None)
            return {"labels": labels[:, :limit].clone() if isinstance(limit, int) else labels}
        return {"labels": labels}


def inputs_for(model: Any, length: int) -> Inputs:
    """How to make batches for a model on a real device, whose forward is tried with what it may take.

    Args:
        model: with or without an adapter.
        length: tokens of a row.
    """
    base = _base(model)
    task = task_of_class(type(base).__name__) or "causal-lm"
    made = Inputs(base, task)
    for name, makers in (("image", _images(base, length)), ("audio", _sounds(base))):
        if makers is None:
            continue
        found = _first_taken(base, task, name, makers, length)
        if found is not None:
            made.media.append(found)
        else:
            made.left_out.append(name)
    if len(made.media) > 1 and not _runs(base, made, length):
        made.media, made.left_out = made.media[:1], [*made.left_out, made.media[1].name]
    return made


def token_rows(model: Any, rows: int, length: int) -> torch.Tensor:
    """Random token ids ``[rows, length]``, the same on every call; see the module's text for which are left out."""
    base = _base(model)
    limit = min(size for size in (_embedding_rows(base), _head_rows(base)) if size)
    special = {number for number in _special(base.config) if 0 <= number < limit}
    usable = torch.tensor([number for number in range(limit) if number not in special] or [0])
    draws = torch.randint(0, len(usable), (rows, length), generator=torch.Generator().manual_seed(0))
    return usable[draws]


def needed_media(model: Any) -> list[str]:
    """Arguments for images and sound that the model's forward has no default for (BLIP-2's ``pixel_values``)."""
    taken = inspect.signature(type(_base(model)).forward).parameters.values()
    return [each.name for each in taken if each.default is each.empty and _MEDIUM.search(each.name)]


_MEDIUM = re.compile(r"pixel|image|video|audio|speech|input_features|input_values")


def synthetic_labels(model: Any, ids: Any) -> Any:
    """Labels for token ids as the model's head takes them: one class a sample or token, one number, or the ids.

    Args:
        model: the (PEFT) model; the name of its base's class and its config's ``problem_type`` say what its head is.
        ids: ``[samples, tokens]``.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    name, config = type(base).__name__, model.config
    count = int(getattr(config, "num_labels", None) or 1)
    classes = ids % max(count, 1)
    if name.endswith("ForTokenClassification"):
        return classes
    if not name.endswith("ForSequenceClassification"):
        return ids
    problem = config.problem_type or ("regression" if count == 1 else None)
    if problem == "regression":
        return torch.zeros(ids.shape[0] if count == 1 else (ids.shape[0], count))
    if problem == "multi_label_classification":
        return torch.zeros(ids.shape[0], count)
    return classes[:, 0]


def _base(model: Any) -> Any:
    from peft import PeftModel

    while isinstance(model, PeftModel):
        model = model.get_base_model()
    return model


def _parameters(base: Any) -> set[str]:
    return set(inspect.signature(base.forward).parameters)


def _main_input(base: Any) -> str:
    return str(getattr(base, "main_input_name", "input_ids"))


def _encodes(base: Any) -> bool:
    config = base.config
    return bool(getattr(config, "is_encoder_decoder", False)) or "decoder_input_ids" in _parameters(base)


def _shape_arguments(base: Any) -> set[str]:
    return {"bbox", "qformer_input_ids"} & _parameters(base)


def _embedding_rows(base: Any) -> int:
    try:
        embedding = base.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        embedding = None
    rows = getattr(embedding, "num_embeddings", None)
    weight = getattr(embedding, "weight", None)
    if rows is None and weight is not None:
        rows = weight.shape[0]
    return int(rows or getattr(base.config.get_text_config(), "vocab_size", 0) or 1000)


def _head_rows(base: Any) -> int | None:
    """What the output head can score; None for a model without one."""
    try:
        head = base.get_output_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    rows = getattr(head, "out_features", None)
    if rows is None and getattr(head, "weight", None) is not None:
        rows = head.weight.shape[0]
    return int(rows) if rows else None


def _special(config: Any) -> set[int]:
    """Ids that mean something to the model: padding, ends of text, placeholders of media; of inner configs too."""
    found: set[int] = set()

    def walk(values: dict[str, Any]) -> None:
        for key, value in values.items():
            if isinstance(value, dict):
                walk(value)
            elif key in ("pad_token_id", "eos_token_id", "bos_token_id") or _PLACEHOLDER.search(str(key)):
                listed = value if isinstance(value, list) else [value]
                found.update(each for each in listed if isinstance(each, int) and not isinstance(each, bool))

    walk(config.to_dict())
    return found


def _below(ids: torch.Tensor, rows: int | None) -> torch.Tensor:
    """Labels that the head can score; the others are left out of the loss."""
    return ids.clone() if rows is None else torch.where(ids < rows, ids, torch.full_like(ids, -100))


def _rows(tensor: torch.Tensor, rows: int, stacked: bool) -> torch.Tensor:
    times = (rows,) + (1,) * (tensor.dim() - 1)
    return tensor.repeat(times) if stacked or tensor.dim() else tensor


def _lengthened(ids: torch.Tensor, length: int) -> torch.Tensor:
    times = -(-length // ids.shape[1])
    return ids.repeat(1, times)[:, :length].clone()


def _positions(base: Any) -> int:
    """Tokens that the model has positions for."""
    return _number(base.config.get_text_config(), "max_position_embeddings", "n_positions") or 512


def _number(config: Any, *names: str) -> int | None:
    for name in names:
        value = getattr(config, name, None)
        value = value[0] if isinstance(value, list | tuple) and value else value
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return None


def _token(config: Any, names: tuple[str, ...]) -> int | None:
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, int):
            return value
    return None


@dataclass(frozen=True)
class _ImageSizes:
    """What a model's config says of its images: side in pixels and in patches, channels, patches that are merged."""

    size: int
    patch: int
    channels: int
    times: int
    merge: int
    side: int

    @property
    def many(self) -> int:
        """Patches of an image."""
        return self.side * self.side


def _image_sizes(config: Any, vision: Any, length: int) -> _ImageSizes:
    merge = _number(vision, "spatial_merge_size", "merge_size") or 2
    room = max(1, min(_MOST_PLACEHOLDERS, length // 2))
    return _ImageSizes(
        size=_number(vision, "image_size", "image_resolution") or _number(config, "image_size") or 224,
        patch=_number(vision, "patch_size") or _number(config, "patch_size") or 14,
        channels=_number(vision, "in_channels", "num_channels", "in_chans") or 3,
        times=_number(vision, "temporal_patch_size") or 1,
        merge=merge,
        side=merge * max(1, int(room**0.5) & ~1 if room >= 4 else 1),
    )


def _pixels(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


def _images(base: Any, length: int) -> list[_Maker] | None:
    """Makers of one image, the likeliest form first; None for a model that takes none."""
    known = _parameters(base)
    config = base.config
    if not known & {"pixel_values", "flattened_patches"} or getattr(config, "vision_config", config) is None:
        return None
    vision = _vision(config)
    sizes = _image_sizes(config, vision, length)
    return [
        *_images_in_patches(known, vision, sizes, length),
        *_whole_images(known, config, sizes, length, without_tower=vision is config),
    ]


def _images_in_patches(known: set[str], vision: Any, sizes: _ImageSizes, length: int) -> list[_Maker]:
    """Forms of processors that cut an image into patches or tiles, and say where these lie."""
    channels, patch, many, side = sizes.channels, sizes.patch, sizes.many, sizes.side
    grid = torch.tensor([[1, side, side]])
    makers: list[_Maker] = []
    if "image_grid_thw" in known:
        flat = channels * sizes.times * patch * patch
        makers = [
            lambda: ({"pixel_values": _pixels(many, flat), "image_grid_thw": grid}, False),
            lambda: ({"pixel_values": _pixels(many, channels, patch, patch), "image_grid_thw": grid}, False),
            lambda: ({"pixel_values": _pixels(many, 1, channels, patch, patch), "image_grid_thw": grid}, False),
            lambda: ({"pixel_values": _pixels(many, channels * 2 * patch * patch), "image_grid_thw": grid}, False),
            lambda: ({"pixel_values": _pixels(many, channels, 2, patch, patch), "image_grid_thw": grid}, False),
        ]
        if "image_merge_sizes" in known:
            merges = torch.tensor([sizes.merge])
            makers = [
                lambda: ({"pixel_values": _pixels(many, channels * patch * patch), "image_grid_thw": grid,
                          "image_merge_sizes": merges}, False)
            ]  # fmt: skip
    if "aspect_ratio_ids" in known:
        makers.append(lambda: (_tiled(channels, sizes.size, _number(vision, "max_num_tiles") or 4, length), True))
    if "spatial_shapes" in known:
        shapes = torch.tensor([[side, side]])
        makers.append(
            lambda: ({"pixel_values": _pixels(1, many, channels * patch * patch), "spatial_shapes": shapes,
                      "pixel_attention_mask": torch.ones((1, many), dtype=torch.long)}, False)
        )  # fmt: skip
    if "image_position_ids" in known:
        pooled = _number(vision, "pooling_kernel_size") or 1
        wide = pooled * max(1, side // pooled)
        places = torch.stack(torch.meshgrid(torch.arange(wide), torch.arange(wide), indexing="xy"), -1)
        makers += [
            lambda: ({"pixel_values": _pixels(1, wide * wide, channels * patch * patch).sigmoid(),
                      "image_position_ids": places.reshape(1, -1, 2)}, False),
        ]  # fmt: skip
    if "target_sizes" in known:
        makers.append(
            lambda: ({"pixel_values": _pixels(1, channels, patch, many * patch),
                      "target_sizes": torch.tensor([[side, side]])}, False)
        )  # fmt: skip
    if "flattened_patches" in known:
        hidden = _number(vision, "patch_embed_hidden_size") or channels * patch * patch
        makers += [
            lambda: ({"flattened_patches": _numbered(_pixels(1, 16, hidden), 4)}, True),
            lambda: ({"flattened_patches": _numbered(_pixels(1, 16, hidden), 4), "width": torch.tensor([[4]]),
                      "height": torch.tensor([[4]])}, True),
        ]  # fmt: skip
    return makers


def _tiled(channels: int, size: int, tiles: int, length: int) -> Tensors:
    """One image of one tile, for a model that takes up to ``tiles`` (Mllama)."""
    mask = torch.zeros((1, 1, tiles), dtype=torch.long)
    mask[..., 0] = 1
    crossed = torch.zeros((1, length, 1, tiles), dtype=torch.long)
    crossed[..., 0] = 1
    return {
        "pixel_values": _pixels(1, 1, tiles, channels, size, size),
        "aspect_ratio_ids": torch.ones((1, 1), dtype=torch.long),
        "aspect_ratio_mask": mask,
        "cross_attention_mask": crossed,
    }


def _whole_images(
    known: set[str], config: Any, sizes: _ImageSizes, length: int, *, without_tower: bool
) -> list[_Maker]:
    """Forms of processors that hand the image over as it is, with what the model takes beside it."""
    makers: list[_Maker] = []
    channels, size, patch = sizes.channels, sizes.size, sizes.patch
    more: Tensors = {}
    if "high_res_pixel_values" in known:
        high = _number(getattr(config, "high_res_vision_config", None), "image_size") or size
        more = {"high_res_pixel_values": _pixels(1, channels, high, high)}
    if "qformer_input_ids" in known:
        more |= {"qformer_input_ids": torch.full((1, 4), 5), "qformer_attention_mask": torch.ones((1, 4)).long()}
    if "bbox" in known:
        more |= {"bbox": torch.zeros((1, length, 4))}
    if "image_attention_mask" in known:
        more |= {"image_attention_mask": torch.ones((1, length, 1), dtype=torch.long)}
    plain = _pixels(1, channels, size, size)
    if "image_sizes" in known:
        of_image = torch.tensor([[size, size]])
        tiles = _tiles(config, size)
        if tiles is not None:
            several = (1, tiles, 1, 1, 1)
            makers.append(lambda: ({"pixel_values": plain[:, None].repeat(several), "image_sizes": of_image}, False))
        makers += [
            lambda: ({"pixel_values": torch.stack([plain, plain], 1), "image_sizes": of_image}, False),
            lambda: ({"pixel_values": plain, "image_sizes": of_image}, False),
        ]
    if without_tower and _number(config, "patch_size"):  # patches go in as they are (Fuyu)
        makers.append(lambda: ({"pixel_values": _pixels(1, sizes.many, channels * patch * patch)}, True))
    if "pixel_values" in known:
        makers += [
            lambda: ({"pixel_values": plain, **more}, True),
            lambda: ({"pixel_values": plain[None], **more}, True),
            lambda: ({"pixel_values": plain[None].repeat(1, 4, 1, 1, 1), **more}, True),
        ]
    if "pixel_attention_mask" in known:
        real = torch.ones((1, 1), dtype=torch.bool)
        makers.append(lambda: ({"pixel_values": plain[None], "pixel_attention_mask": real}, True))
    return makers


def _vision(config: Any) -> Any:
    """The config of the tower: ``vision_config``, of an inner config too, or what an encoder of images has."""
    inner = [
        value
        for value in vars(config).values()
        if type(value).__name__.endswith("Config") and hasattr(value, "to_dict")
    ]
    for holder in (config, *inner):
        if getattr(holder, "vision_config", None) is not None:
            return holder.vision_config
    return getattr(config, "encoder", None) or config


def _tiles(config: Any, size: int) -> int | None:
    """Tiles that LLaVA-NeXT's processor cuts a picture of the tower's own size into, the whole one among them."""
    pinpoints = getattr(config, "image_grid_pinpoints", None)
    if not pinpoints:
        return None
    from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

    return int(image_size_to_num_patches((size, size), pinpoints, size))


def _numbered(patches: torch.Tensor, wide: int) -> torch.Tensor:
    """Patches with their row and column, from 1, before them (Pix2Struct)."""
    places = torch.stack(torch.meshgrid(torch.arange(wide), torch.arange(wide), indexing="ij"), -1) + 1
    return torch.cat([places.reshape(1, -1, 2).float(), patches], -1)


def _sounds(base: Any) -> list[_Maker] | None:
    """Makers of one sound; None for a model that takes none."""
    known = _parameters(base)
    config = base.config
    if not known & set(_SOUND) or getattr(config, "audio_config", config) is None:
        return None
    audio = getattr(config, "audio_config", None) or getattr(config, "encoder_config", None) or config
    bins = _number(audio, "num_mel_bins", "n_mels", "input_feat_per_channel", "input_size") or 80
    positions = _number(audio, "max_source_positions") or 1500
    makers: list[_Maker] = []

    def sound(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(3))

    if "input_features" in known:
        frames = 2 * positions
        mask = next((name for name in ("feature_attention_mask", "input_features_mask") if name in known), None)
        for masked in [True, False] if mask is not None else [False]:

            def features(masked: bool = masked) -> tuple[Tensors, bool]:
                more = {str(mask): torch.ones((1, frames), dtype=torch.long)} if masked else {}
                return {"input_features": sound(1, bins, frames), **more}, True

            def turned(masked: bool = masked) -> tuple[Tensors, bool]:
                more = {str(mask): torch.ones((1, 64), dtype=torch.bool)} if masked else {}
                return {"input_features": sound(1, 64, bins), **more}, True

            makers += [features, turned]
    if "input_values" in known:
        makers.append(lambda: ({"input_values": sound(1, 16000)}, True))
    return makers


def _first_taken(base: Any, task: str, name: str, makers: list[_Maker], length: int) -> Medium | None:
    """The first form of a medium with which the model's forward runs."""
    token = _token(base.config, IMAGE_TOKEN if name == "image" else _AUDIO_TOKEN)
    for make in makers:
        try:
            tensors, stacked = make()
        except (RuntimeError, ValueError, TypeError):
            continue
        for count in _counts(base, name, tensors, token):
            medium = Medium(name, tensors, stacked, token, count)
            if count + _TEXT <= max(length, _positions(base)) and _runs(base, Inputs(base, task, [medium]), length):
                return medium
    return None


def _counts(base: Any, name: str, tensors: Tensors, token: int | None) -> list[int]:
    """Placeholders that a medium takes: what the model's own features come to; none where there is no placeholder."""
    if token is None:
        places = _number(base.config, "latent_query_num") if _PLACES in _parameters(base) and name == "image" else None
        return [places or 0]
    inner = getattr(base, "model", None)
    getter = getattr(base, f"get_{name}_features", None) or getattr(inner, f"get_{name}_features", None)
    if getter is None:
        return [0]
    known = inspect.signature(getter).parameters
    given = {key: value for key, value in tensors.items() if key in known or "kwargs" in known}
    with _aside(base) as (device, dtype):
        try:
            found = getter(**_moved(given, device, dtype))
        except Exception:  # whatever a model raises for a form that is not its own
            return []
    counted = features_of(found)
    return [counted] if counted else []


def features_of(found: Any) -> int:
    """Rows of the features of one image or sound."""
    for name in ("pooler_output", "image_embeds", "audio_embeds", "last_hidden_state"):
        value = getattr(found, name, None)
        if value is not None:
            return features_of(value)
    if isinstance(found, torch.Tensor):
        return int(found.numel() // found.shape[-1]) if found.dim() else 0
    if isinstance(found, list | tuple) and found and all(isinstance(each, torch.Tensor) for each in found):
        return sum(int(each.numel() // each.shape[-1]) for each in found)
    return 0


def _runs(base: Any, inputs: Inputs, length: int) -> bool:
    """Whether the model's forward takes a batch of one row and gives a loss."""
    batch = inputs.batch(token_rows(base, 1, length))
    with _aside(base) as (device, dtype):
        try:
            out = base(**_moved(batch, device, dtype))
        except Exception:  # whatever a model raises for a form that is not its own
            return False
    loss = getattr(out, "loss", None)
    return isinstance(loss, torch.Tensor)


def _moved(tensors: Tensors, device: torch.device, dtype: torch.dtype) -> Tensors:
    return {
        name: tensor.to(device, dtype) if tensor.is_floating_point() and name != "bbox" else tensor.to(device)
        for name, tensor in tensors.items()
    }


@contextmanager
def _aside(base: Any) -> Iterator[tuple[torch.device, torch.dtype]]:
    """Evaluation mode without gradients and with the random state kept; (device, dtype of the inputs)."""
    modes = [(module, module.training) for module in base.modules()]
    first = next(parameter for parameter in base.parameters())
    dtype = next((p.dtype for p in base.parameters() if p.dtype in (torch.float16, torch.bfloat16)), torch.float32)
    devices = [first.device] if first.device.type == "cuda" else []
    try:
        for module, _ in modes:
            module.training = False
        with (
            never_repacked(base),
            torch.random.fork_rng(devices=devices),
            torch.no_grad(),
            torch.autocast(first.device.type, dtype=torch.bfloat16, enabled=dtype != torch.float32),
        ):
            yield first.device, dtype
    finally:
        for module, mode in modes:
            module.training = mode
