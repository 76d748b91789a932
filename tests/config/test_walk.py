"""A folder's configs: found by what they hold, and what is left out."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from qlora_doctor.reading.walk import find_configs

AXOLOTL = "base_model: x/y\nadapter: qlora\nload_in_4bit: true\nmicro_batch_size: 1\nsequence_len: 512\n"
NATIVE = "model: x/y\nlora: {r: 8}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    texts = {
        "a.yml": AXOLOTL,
        "deep/er/b.yaml": NATIVE,
        "deep/notes.yaml": "title: notes\n",
        "deep/launch.yaml": "compute_environment: LOCAL_MACHINE\ndistributed_type: 'NO'\n",  # Accelerate's own
        "adapter/adapter_config.json": json.dumps({"peft_type": "LORA", "base_model_name_or_path": "x/y", "r": 8}),
        "adapter/tokenizer_config.json": json.dumps({"tokenizer_class": "LlamaTokenizer"}),
        "script.py": "print('no training here')\n",
        "broken.yaml": "a: [1, 2\n",
        "a.md": AXOLOTL,  # prose may quote a config
        ".git/c.yaml": NATIVE,
        ".venv/lib/d.yaml": NATIVE,
        "old/e.yaml": NATIVE,
        "old/keep/f.yaml": NATIVE,
    }
    for name, text in texts.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def names(folder: Path, **options: object) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in find_configs(folder, **options).configs]  # type: ignore[arg-type]


def test_configs_are_found_by_content(folder: Path) -> None:
    walk = find_configs(folder)
    found = [path.relative_to(folder).as_posix() for path in walk.configs]
    assert found == ["a.yml", "adapter/adapter_config.json", "deep/er/b.yaml", "old/e.yaml", "old/keep/f.yaml"]
    assert walk.passed_over == 4
    assert len(walk.unreadable) == 1 and "broken.yaml is not valid YAML" in walk.unreadable[0]


@pytest.mark.parametrize("pattern", ["old", "old/", "./old", "*/old/*.yaml", "ol?", "old/*"])
def test_patterns_leave_out_names_and_paths(folder: Path, pattern: str) -> None:
    found = names(folder, exclude=[pattern], base=folder.parent)
    assert "a.yml" in found and "old/e.yaml" not in found


def test_a_pattern_does_not_meet_folders_above_the_walk(folder: Path) -> None:
    assert "a.yml" in names(folder, exclude=[f"{folder.name}/*", folder.name], base=folder)


def test_one_dialect_alone(folder: Path) -> None:
    assert names(folder, dialect="axolotl") == ["a.yml"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_pipes_and_circles_do_not_hold_it_up(folder: Path) -> None:
    os.mkfifo(folder / "pipe.yaml")
    (folder / "deep" / "up").symlink_to(folder)
    (folder / "nowhere.yaml").symlink_to(folder / "gone.yaml")
    assert len(find_configs(folder).configs) == 5
