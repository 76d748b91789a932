"""Each row of the trainers' refusals by its own examples: a file that has the fault is refused for it, and the healthy
file is not.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from qlora_doctor.facts.config import Remark
from qlora_doctor.facts.environment import EnvironmentFacts, Gpu, Packages
from qlora_doctor.language.fields import LanguageError
from qlora_doctor.probes.config.conclude import conclude
from qlora_doctor.reading import read_setup
from qlora_doctor.reading.dialects.refusals import axolotl, llamafactory
from qlora_doctor.tables.refusals import TRAINERS, Refusal, catalogue, compiling, find_refusal
from qlora_doctor.tables.refusals.compiling import compiled, source
from qlora_doctor.tables.refusals.rows import COMPILED
from tests.faults.test_planted_files import AXOLOTL, LLAMAFACTORY

COMPUTED = {"axolotl": axolotl.COMPUTED, "llamafactory": llamafactory.COMPUTED}
ROWS = [(trainer, row) for trainer in TRAINERS for row in catalogue(trainer).rows]
FAULTS = [(t, row, example) for t, row in ROWS for example in find_refusal(row.id)[2]]


def everything_older() -> EnvironmentFacts:
    """A machine with an Ascend NPU, an old card, and packages of two years ago: every condition of a row holds."""
    packages = Packages(torch="2.5.1", bitsandbytes="0.42.0", transformers="5.0.0", torch_npu="2.5.1", axolotl="0.18.0")
    gpus = [Gpu(index=0, name="Tesla T4", memory_bytes=2**34, capability=7.5)]
    return EnvironmentFacts(tool_version="0", python="3.11", platform="Linux", packages=packages, gpus=gpus)


def newest() -> EnvironmentFacts:
    packages = Packages(torch="2.13.0", bitsandbytes="0.50.2", transformers="5.23.0", axolotl="0.19.0")
    gpus = [Gpu(index=0, name="NVIDIA H200", memory_bytes=2**37, capability=9.0)]
    return EnvironmentFacts(tool_version="0", python="3.11", platform="Linux", packages=packages, gpus=gpus)


def refused(tmp_path: Path, text: str, environment: EnvironmentFacts | None) -> list[Remark]:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    facts = conclude(read_setup(path), environment)
    assert facts.refused is not None
    return facts.refused


def planted(trainer: str, example: dict[str, Any] | str) -> str:
    """The healthy file with an example's keys (RFC 7386: null takes one away), or its lines."""
    healthy: str = source(trainer)["healthy"]
    if isinstance(example, str):
        return healthy + example + "\n"
    return yaml.safe_dump(
        {key: value for key, value in (yaml.safe_load(healthy) | example).items() if value is not None}
    )


@pytest.mark.parametrize(("trainer", "row", "example"), FAULTS, ids=[f"{row.id}-{row.kind}" for _, row, _ in FAULTS])
def test_row(trainer: str, row: Refusal, example: dict[str, Any] | str, tmp_path: Path) -> None:
    found = refused(tmp_path, planted(trainer, example), everything_older())
    told = next(remark for remark in found if remark.id == row.id)
    assert (told.kind, told.about, told.note) == (row.kind, row.about, row.note)


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("environment", [None, newest()], ids=["anywhere", "newest"])
def test_a_healthy_file_is_taken(trainer: str, environment: EnvironmentFacts | None, tmp_path: Path) -> None:
    assert refused(tmp_path, planted(trainer, {}), environment) == []


def test_the_healthy_files_are_those_of_the_planted_faults() -> None:
    of_planted = {"axolotl": AXOLOTL, "llamafactory": LLAMAFACTORY}
    assert {trainer: yaml.safe_load(source(trainer)["healthy"]) for trainer in TRAINERS} == {
        trainer: yaml.safe_load(text) for trainer, text in of_planted.items()
    }


def test_an_id_is_used_once() -> None:
    ids = [row.id for _, row in ROWS]
    assert len(set(ids)) == len(ids) > 130


@pytest.mark.parametrize("trainer", TRAINERS)
def test_what_takes_code_has_code(trainer: str) -> None:
    assert set(catalogue(trainer).computed) == set(COMPUTED[trainer])


def test_the_compiled_rows_are_those_that_are_written() -> None:
    """``make schema`` writes them."""
    assert json.loads(COMPILED.read_bytes()) == json.loads(json.dumps({each: compiled(each) for each in TRAINERS}))


@pytest.mark.parametrize("when", ["load_in_4bits", "adapter.lower()", "lora ==", "none == adapter"])
def test_a_condition_that_cannot_be_is_an_error(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt key would be a row that never finds anything."""
    changed = source("axolotl") | {
        "refusals": [{"id": "AX001", "kind": "k", "key": "adapter", "note": "n", "when": when}]
    }
    monkeypatch.setattr(compiling, "source", lambda trainer: changed)
    with pytest.raises(LanguageError, match="AX001"):
        compiled("axolotl")


def test_what_depends_on_the_machine_is_told_there_alone(tmp_path: Path) -> None:
    """Where nothing is known of a machine, or it is a current one, such a row says nothing."""
    two = {"fsdp_version": 2, "fsdp_config": {"offload_params": False}, "tf32": True, "sage_attention": True}
    text = planted("axolotl", two)
    told = {"quantized-on-npu", "tf32-on-npu", "fsdp2-with-older-torch", "sage-attention-on-older-card"}
    assert told <= {remark.kind for remark in refused(tmp_path, text, everything_older())}
    for environment in (newest(), None):
        assert not told & {remark.kind for remark in refused(tmp_path, text, environment)}
