"""Images in a batch: how many placeholders and pixels a sample's picture comes to, asked of the model itself.

Models that take pictures of one size say it in their config (Gemma 3, LLaVA); for those that take any size (Qwen-VL,
Pixtral) or cut them into tiles of one (LLaVA-Next) the setup has to, by ``data.image_size``. Nothing else of a picture
matters for memory.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..pipeline.inputs import IMAGE_TOKEN

if TYPE_CHECKING:
    from ..setup.setup import Setup


_CUT_BY_PROCESSOR = frozenset(
    (
        *("aya_vision", "cohere2_vision", "deepseek_ocr2", "got_ocr2", "granite_docling", "idefics3", "internvl"),
        *("kimi_k25", "lfm2_vl", "llama4", "mllama", "ovis2", "phi4_multimodal", "qianfan_ocr", "smolvlm", "step3p7"),
    )
)
"""Model types of one image size whose processor cuts a picture into several of it, unless it is set not to."""


class NoPictures(ValueError):
    """Why batches with images are not made; the end of a sentence that begins with "The prediction does not cover"."""


@dataclass(frozen=True)
class Pictures:
    """One picture in every row of a batch.

    Attributes:
        token: the id of its placeholders; ``count``: how many.
        shape: of its pixels, whose first dimension adds up over the rows.
        grid: frames, rows and columns of patches, where the model is given it.
        kinds: the argument that tells placeholders from text, if there is one.
        said: what is taken as given, one sentence.
        size: pixels of the picture, height and width, where the model gets them beside the tiles.
    """

    token: int
    count: int
    shape: tuple[int, ...]
    grid: tuple[int, int, int] | None
    kinds: str | None
    said: str
    size: tuple[int, int] | None = None

    def put_into(self, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Mark the placeholders in a batch of ids and labels; the integer arguments that come with the pixels.

        Raises:
            NoPictures: the samples are too short to hold a picture.
        """
        ids, labels = values["input_ids"], values["labels"]
        rows, length = ids.shape
        if length < self.count + 3:
            raise NoPictures(f"images of {self.count:,} placeholders in samples of {length:,} tokens")
        ids[:, 1 : 1 + self.count] = self.token
        labels[:, 1 : 1 + self.count] = -100
        more = {}
        if self.grid is not None:
            more["image_grid_thw"] = torch.tensor([self.grid] * rows)
        if self.size is not None:
            more["image_sizes"] = torch.tensor([self.size] * rows)
        if self.kinds is not None:
            more[self.kinds] = (ids == self.token).long()
        return more

    def pixels(self, rows: int) -> torch.Tensor:
        """The pixels of a batch, as a processor gives them: float32."""
        return torch.empty((rows * self.shape[0], *self.shape[1:]), device="meta")


def pictures_of(model: Any, setup: Setup) -> Pictures:
    """One picture for each sample of a model that takes some.

    Args:
        model: the (PEFT) model on the meta device.

    Raises:
        NoPictures: the model takes them in a form that is not made here, or their size is not known.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    name, config = type(base).__name__, base.config
    vision = getattr(config, "vision_config", None)
    known = inspect.signature(base.forward).parameters if vision is not None else {}
    token = next((value for field in IMAGE_TOKEN if isinstance(value := getattr(config, field, None), int)), None)
    if vision is None or token is None or "pixel_values" not in known:
        raise NoPictures(f"images as {name} takes them")
    kinds = next((each for each in ("mm_token_type_ids", "token_type_ids") if each in known), None)
    if "image_grid_thw" in known:
        return _of_any_size(name, vision, token, kinds, setup.data.image_size)
    unknown = {"aspect_ratio_ids", "pixel_attention_mask", "spatial_shapes", "target_sizes", "image_position_ids"}
    if unknown & set(known):
        raise NoPictures(f"images cut into tiles, as {name} takes them")
    if config.model_type in _CUT_BY_PROCESSOR:
        raise NoPictures(f"images that the processor of {name} cuts into as many tiles as their form asks for")
    told = setup.data.image_size
    size = getattr(vision, "image_size", None)
    size = size[0] if isinstance(size, list | tuple) and size else size
    if not isinstance(size, int):
        raise NoPictures(f"images of an unknown size in the batches of {name}")
    channels = int(getattr(vision, "num_channels", None) or 3)
    pinpoints = getattr(config, "image_grid_pinpoints", None)
    if not pinpoints and getattr(vision, "model_type", None) != "pixtral":
        shape: tuple[int, ...] = (1, channels, size, size)
        count = _counted(base, shape)
        said = f"Every sample has one image of {size} × {size} pixels, which takes {count:,} tokens."
        return Pictures(token, count, shape, None, kinds, said)
    if told is None:
        raise NoPictures(f"images in the batches of {name} as long as data.image_size does not tell their size")
    height, width = (told, told) if isinstance(told, int) else (int(told[0]), int(told[1]))
    if pinpoints:
        from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

        tiles = int(image_size_to_num_patches((height, width), pinpoints, size))
        shape, cut = (1, tiles, channels, size, size), f", cut into {tiles} tiles"
    else:
        height, width = _in_patches(config, vision, size, height, width)
        shape, cut = (1, channels, height, width), ""
    count = _counted(base, shape, image_sizes=torch.tensor([[height, width]]))
    said = f"Every sample has one image of {height} × {width} pixels{cut}, which takes {count:,} tokens."
    return Pictures(token, count, shape, None, kinds, said, (height, width))


def _in_patches(config: Any, vision: Any, longest: int, height: int, width: int) -> tuple[int, int]:
    """Height and width as a processor makes them that keeps the form of a picture (Pixtral, Mistral 3): at most
    ``longest`` at the longer side, in whole patches, as many as are merged into one token."""
    step = int(getattr(vision, "patch_size", 14)) * int(getattr(config, "spatial_merge_size", None) or 1)
    ratio = max(height / longest, width / longest, 1.0)
    return tuple(-(-int(side / ratio) // step) * step for side in (height, width))  # type: ignore[return-value]


def _of_any_size(name: str, vision: Any, token: int, kinds: str | None, told: Any) -> Pictures:
    """A picture that is cut into as many patches as it has room for (Qwen2-VL and those after it)."""
    if told is None:
        raise NoPictures(f"images in the batches of {name} as long as data.image_size does not tell their size")
    height, width = (told, told) if isinstance(told, int) else tuple(told)
    patch = int(getattr(vision, "patch_size", 14))
    merge = int(getattr(vision, "spatial_merge_size", 2))
    frames = int(getattr(vision, "temporal_patch_size", 1) or 1)
    channels = int(getattr(vision, "in_channels", None) or getattr(vision, "in_chans", None) or 3)
    step = patch * merge
    rows, columns = (max(1, round(side / step)) * merge for side in (height, width))
    count = rows * columns // merge**2
    said = f"Every sample has one image of {rows * patch} × {columns * patch} pixels, which takes {count:,} tokens."
    shape = (rows * columns, channels * frames * patch**2)
    return Pictures(token, count, shape, (1, rows, columns), kinds, said)


def _counted(base: Any, shape: tuple[int, ...], **more: torch.Tensor) -> int:
    """Placeholders of one picture: the features that the model's own code makes of it.

    Raises:
        NoPictures: it makes none of pixels in this form.
    """
    from ..pipeline.inputs import features_of
    from ..tables.cards import find_card
    from .as_on_cuda import as_on_cuda
    from .machine import Machine
    from .operators import register_bitsandbytes
    from .tape import Tape
    from .trace import Recorder

    register_bitsandbytes()
    recorder = Recorder(Tape())
    getter = getattr(base, "get_image_features", None)
    given = {name: torch.empty(value.shape, dtype=value.dtype, device="meta") for name, value in more.items()}
    for name, value in more.items():
        recorder.values.know(given[name], value)
    pixels = torch.empty(shape, device="meta", dtype=base.dtype)
    try:
        with as_on_cuda(Machine(find_card("H200"))), recorder, torch.no_grad():
            found = features_of(getter(pixel_values=pixels, **given)) if getter is not None else 0
    except Exception as error:  # whatever a model raises for a form that is not its own
        raise NoPictures(f"images as {type(base).__name__} takes them") from error
    if not found:
        raise NoPictures(f"images as {type(base).__name__} takes them")
    return found
