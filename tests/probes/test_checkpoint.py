"""Damaged checkpoints are told by their headers, in one sentence with the number that shows it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")

from qlora_doctor.core.errors import StageError
from qlora_doctor.probes.load.checkpoint import check_shapes, read_checkpoint


@pytest.fixture
def folder(tiny_llama: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(tiny_llama, tmp_path / "model"))


@pytest.fixture
def sharded(folder: Path) -> Path:
    """The same in two shards with an index."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    weight_map = {}
    for file, members in halves.items():
        save_file({name: tensors[name] for name in members}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(members, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def failure(folder: Path) -> StageError:
    with pytest.raises(StageError) as caught:
        read_checkpoint(folder)
    assert caught.value.message.count("\n") == 0 and caught.value.message.endswith(".")
    return caught.value


def test_whole_checkpoint(folder: Path) -> None:
    found = read_checkpoint(folder)
    assert found.nbytes == (folder / "model.safetensors").stat().st_size
    assert found.tensors["model.embed_tokens.weight"].shape == (512, 64)
    assert found.largest is not None and found.largest.shape == (512, 64)
    assert found.elements == sum(t.elements for t in found.tensors.values())


def test_whole_shards(sharded: Path) -> None:
    found = read_checkpoint(sharded)
    assert len(found.files) == 2 and "lm_head.weight" in found.tensors


def test_missing_shard(sharded: Path) -> None:
    (sharded / "model-00002-of-00002.safetensors").unlink()
    error = failure(sharded)
    assert error.kind == "missing-file" and "1 of 2" in error.message and "00002-of-00002" in error.message


def test_truncated_shard(sharded: Path) -> None:
    file = sharded / "model-00001-of-00002.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:-10])
    error = failure(sharded)
    assert error.kind == "truncated" and f"{len(data) - 10:,}" in error.message and f"{len(data):,}" in error.message


@pytest.mark.parametrize("keep", [0, 4, 100])
def test_truncated_within_its_header(folder: Path, keep: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    assert failure(folder).kind == "truncated"


def test_header_that_is_no_json(folder: Path) -> None:
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[8:40] = b"\xff" * 32
    file.write_bytes(data)
    assert failure(folder).kind == "corrupt"


def test_a_web_page_instead_of_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"<!DOCTYPE html><html><body>404</body></html>")
    assert failure(folder).kind == "corrupt"


def test_a_pointer_file_of_git_lfs(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 5\n")
    assert failure(folder).kind == "corrupt"


def test_entry_whose_bytes_do_not_fit_its_shape(folder: Path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 8]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    error = failure(folder)
    assert error.kind == "corrupt" and "8 bytes for 4 of F32" in error.message


def test_index_that_leads_outside(sharded: Path) -> None:
    index = sharded / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": "../../secret.safetensors"}}))
    assert failure(sharded).kind == "corrupt"


def test_index_that_is_no_index(sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").write_text("[]")
    assert failure(sharded).kind == "corrupt"


def test_index_that_places_a_tensor_elsewhere(sharded: Path) -> None:
    index = sharded / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["model.ghost.weight"] = "model-00001-of-00002.safetensors"
    index.write_text(json.dumps(content))
    assert "model.ghost.weight" in failure(sharded).message


def test_pickles_are_refused_unread(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'echo harm'\ntR.")
    error = failure(folder)
    assert error.kind == "pickle-only" and error.remedy is not None and "safetensors" in error.remedy


def test_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert failure(folder).kind == "missing-file"


def test_wrong_shape_is_named(folder: Path) -> None:
    checkpoint = read_checkpoint(folder)
    expected: dict[str, tuple[int, ...]] = {"model.norm.weight": (32,), "not.there": (1,)}
    with pytest.raises(StageError, match=r"model\.norm\.weight is 64 in the checkpoint and 32") as caught:
        check_shapes(checkpoint, expected)
    assert caught.value.kind == "wrong-shape"
    check_shapes(checkpoint, {"model.norm.weight": (64,)})


def test_unreadable_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: Callable[..., object] = Path.open

    def refuse(self: Path, *args: object, **kwargs: object) -> object:
        if self.suffix == ".safetensors":
            raise PermissionError(13, "Permission denied")
        return opened(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    assert "Permission denied" in failure(folder).message
