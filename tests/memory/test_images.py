"""Images in a predicted batch: their size from the model or the setup, and what a model reads of them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qlora_doctor.memory.images import NoPictures, pictures_of
from qlora_doctor.setup.setup import Setup
from tests.memory.test_run import config, memory_of

VISION = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = {
    "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 1003, "max_position_embeddings": 4096,
}  # fmt: skip
LLAVA: dict[str, Any] = {
    "model_type": "llava", "image_token_index": 1000, "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default", "text_config": {"model_type": "llama", **TEXT},
    "vision_config": {"model_type": "clip_vision_model", "image_size": 56, "patch_size": 14, **VISION},
}  # fmt: skip
QWEN: dict[str, Any] = {
    "model_type": "qwen2_5_vl", "image_token_id": 1000, "video_token_id": 1001, "vision_start_token_id": 998,
    "vision_end_token_id": 999,
    "text_config": {
        "model_type": "qwen2_5_vl_text", **TEXT, "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
    },
    "vision_config": {
        "model_type": "qwen2_5_vl", "depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 4,
        "out_hidden_size": 128, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2,
        "window_size": 56, "fullatt_block_indexes": [1], "in_channels": 3,
    },
}  # fmt: skip


def given(folder: Path, architecture: dict[str, Any], **data: Any) -> dict[str, Any]:
    """A native config of a small model that sees."""
    (folder / "config.json").write_text(json.dumps(architecture), encoding="utf-8")
    return config(folder) | {"data": data}


def test_a_model_that_takes_pictures_of_one_size(tmp_path: Path) -> None:
    memory = memory_of(given(tmp_path, LLAVA))
    assert memory.prediction_failure is None and memory.predicted is not None
    assert any("56 × 56 pixels, which takes 16 tokens" in said for said in memory.predicted.assumptions or ())


def test_a_model_that_takes_pictures_of_any_size(tmp_path: Path) -> None:
    unknown = memory_of(given(tmp_path, QWEN))
    assert unknown.predicted is None and "data.image_size" in str(unknown.prediction_failure)
    small, large = (memory_of(given(tmp_path, QWEN, image_size=size)).predicted for size in (56, [224, 280]))
    assert small is not None and large is not None
    assert large.peak_allocated_bytes > small.peak_allocated_bytes  # type: ignore[operator]
    assert any("224 × 280 pixels, which takes 80 tokens" in said for said in large.assumptions or ())


def test_text_alone_needs_no_picture(tmp_path: Path) -> None:
    seeing = memory_of(given(tmp_path, QWEN, image_size=224)).predicted
    reading = memory_of(given(tmp_path, QWEN, format="text", train="x.jsonl")).predicted
    assert seeing is not None and reading is not None
    assert reading.peak_allocated_bytes < seeing.peak_allocated_bytes  # type: ignore[operator]


@pytest.mark.parametrize("size", [448, [448, 896]])
def test_pictures_that_do_not_fit_the_samples(size: Any, tmp_path: Path) -> None:
    memory = memory_of(given(tmp_path, QWEN, image_size=size))
    assert memory.predicted is None and "placeholders" in str(memory.prediction_failure)


def test_a_picture_that_is_cut_into_tiles(tmp_path: Path) -> None:
    """LLaVA-Next: the grid that fits the picture best, and the whole picture as one more tile."""
    tiled = LLAVA | {"model_type": "llava_next", "image_grid_pinpoints": [[56, 112], [112, 56], [112, 112]]}
    unknown = memory_of(given(tmp_path, tiled))
    assert unknown.predicted is None and "data.image_size" in str(unknown.prediction_failure)
    # 3 tiles are 16 tokens of the whole, and 4 rows of 8 with a token that ends each; 5 are 16 and 8 rows of 8.
    for size, tiles, tokens in (([56, 112], 3, 16 + 4 * 9), ([112, 112], 5, 16 + 8 * 9)):
        predicted = memory_of(given(tmp_path, tiled, image_size=size)).predicted
        assert predicted is not None
        assert any(f"{tiles} tiles, which takes {tokens} tokens" in said for said in predicted.assumptions or ())


def test_a_picture_that_keeps_its_form(tmp_path: Path) -> None:
    """Pixtral: at most as long as the tower's size, in whole patches."""
    keeping = LLAVA | {"vision_feature_layer": -1, "vision_feature_select_strategy": "full"}
    keeping["vision_config"] = {"model_type": "pixtral", "image_size": 112, "patch_size": 14, **VISION}
    predicted = memory_of(given(tmp_path, keeping, image_size=[224, 100])).predicted
    assert predicted is not None
    assert any("112 × 56 pixels, which takes 32 tokens" in said for said in predicted.assumptions or ())


def test_trl_takes_them_too_and_its_other_methods_do_not(tmp_path: Path) -> None:
    told = given(tmp_path, LLAVA)
    told["training"]["trainer"] = "trl"
    assert memory_of(told).predicted is not None
    told["training"]["method"] = "dpo"
    memory = memory_of(told)
    assert memory.predicted is None and "dpo" in str(memory.prediction_failure)


def test_a_model_whose_processor_cuts_pictures_has_no_figure() -> None:
    class InternVLForConditionalGeneration:
        config = SimpleNamespace(
            model_type="internvl", image_token_id=5, vision_config=SimpleNamespace(image_size=[448, 448])
        )

        def forward(self, input_ids: Any, pixel_values: Any) -> None: ...

    with pytest.raises(NoPictures, match="processor of InternVLForConditionalGeneration cuts"):
        pictures_of(InternVLForConditionalGeneration(), Setup())
