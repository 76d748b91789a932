"""Results that are kept: what makes them the same, what two runs on one folder do, and what damage costs."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from qlora_doctor.cli import main
from qlora_doctor.core.report import Report, StageRecord
from qlora_doctor.facts import AdapterFacts
from qlora_doctor.reading import read_setup
from qlora_doctor.run.cache import Kept, Store, cache_folder, stage_keys, store
from qlora_doctor.run.checking import run_check
from qlora_doctor.run.session import CheckOptions
from qlora_doctor.setup.setup import Asked
from qlora_doctor.worker.options import RunOptions

HERE = Path(__file__).resolve()
STAGES = ("structure", "memory", "data", "load", "step")
KEPT = Kept(StageRecord(name="structure", status="done", seconds=2.0), {"adapter": AdapterFacts(matched_modules=["a"])})


@pytest.fixture
def write(tmp_path: Path, tiny_llama: Path) -> Callable[..., Path]:
    """``write({"training": {…}})``: a native config of a tiny model with changes; the same file each time."""
    data = tmp_path / "data.jsonl"
    data.write_text('{"text": "one"}\n')

    def config(changes: dict[str, Any] | None = None, name: str = "config.json") -> Path:
        sections: dict[str, Any] = {
            "model": str(tiny_llama),
            "quantization": {"load_in_4bit": True, "bnb_4bit_compute_dtype": "bfloat16"},
            "lora": {"r": 4, "lora_alpha": 8, "lora_dropout": 0.05, "target_modules": "all-linear"},
            "training": {"learning_rate": 2e-4, "per_device_train_batch_size": 2, "max_length": 32, "bf16": True},
            "data": {"train": str(data)},
        }
        for section, values in (changes or {}).items():
            sections[section] = {**sections[section], **values} if isinstance(values, dict) else values
        path = tmp_path / name
        path.write_text(json.dumps(sections))
        return path

    return config


OFFLINE = RunOptions(offline=True)


def keys(path: Path, **options: Any) -> dict[str, str]:
    return stage_keys(read_setup(path), STAGES, replace(OFFLINE, **options), None)


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


@pytest.mark.parametrize(
    ("changes", "stages"),
    [
        ({}, set()),
        ({"training": {"learning_rate": 1e-5}}, {"step"}),
        ({"training": {"learning_rate": 0}}, {"memory", "data", "load", "step"}),
        ({"training": {"output_dir": "elsewhere"}}, {"step"}),
        ({"lora": {"lora_dropout": 0.1}}, {"step"}),
        ({"lora": {"lora_dropout": 0.0}}, {"structure", "memory", "load", "step"}),
        ({"lora": {"lora_alpha": 64}}, {"step"}),
        ({"lora": {"r": 8}}, {"structure", "memory", "load", "step"}),
        ({"lora": {"target_modules": ["q_proj"]}}, {"structure", "memory", "load", "step"}),
        ({"training": {"per_device_train_batch_size": 4}}, {"memory", "data", "load", "step"}),
        ({"training": {"prepare_for_kbit_training": False}}, set(STAGES)),
        ({"training": {"optim": "paged_adamw_8bit"}}, {"memory", "data", "load", "step"}),
        ({"quantization": {"bnb_4bit_quant_type": "fp4"}}, {"structure", "memory", "load", "step"}),
        ({"training": {"max_length": None}}, set(STAGES)),
    ],
)
def test_a_key_holds_what_its_stage_looks_at(
    write: Callable[..., Path], changes: dict[str, Any], stages: set[str]
) -> None:
    assert changed(keys(write()), keys(write(changes))) == stages


def test_a_place_in_the_file_is_no_part_of_a_key(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write()
    spaced = tmp_path / "spaced.json"
    spaced.write_text(json.dumps(json.loads(path.read_text()), indent=4))
    assert keys(path) == keys(spaced)


def test_files_are_known_by_their_content(write: Callable[..., Path], tiny_llama: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(tiny_llama, folder)
    path = write({"model": str(folder)})
    before = keys(path)
    (folder / "config.json").touch()
    assert keys(path) == before, "a new date alone is no change"
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    assert changed(before, keys(path)) == set(STAGES)
    (tmp_path / "data.jsonl").write_text('{"text": "two"}\n')
    again = keys(path)
    assert changed(before, again) == set(STAGES) and again["data"] != before["data"]


def test_a_template_that_a_value_names_is_a_part_of_the_key(write: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "template.jinja").write_text("one")
    path = write({"data": {"chat_template": "template.jinja"}})
    before = keys(path)
    (tmp_path / "template.jinja").write_text("two")
    assert "data" in changed(before, keys(path))


def test_what_a_script_gives_the_libraries_is_a_part_of_the_key(tmp_path: Path, tiny_llama: Path) -> None:
    """Two scripts of which one calls LoraConfig with a name that it has not: their structures are the same."""
    made = {}
    for name in ("alpha", "lora_alpha"):
        path = tmp_path / f"{name}.py"
        path.write_text(
            textwrap.dedent(f"""\
                from peft import LoraConfig, get_peft_model
                from transformers import AutoModelForCausalLM
                model = AutoModelForCausalLM.from_pretrained("{tiny_llama}")
                model = get_peft_model(model, LoraConfig(r=8, {name}=32))
            """)
        )
        made[name] = keys(path)["structure"]
    assert made["alpha"] != made["lora_alpha"]


def test_what_the_projects_versions_decide_is_a_part_of_the_key(write: Callable[..., Path]) -> None:
    setup = read_setup(write())
    asked = {"trl": Asked(exact="0.12.0", by="requirements.txt")}
    both = (setup, setup.model_copy(update={"versions": asked}))
    before, after = (stage_keys(each, STAGES, OFFLINE, None) for each in both)
    assert changed(before, after) == set(STAGES)


def test_what_is_asked_for_is_a_part_of_the_key(write: Callable[..., Path]) -> None:
    path = write()
    assert changed(keys(path), keys(path, device="cuda:1")) == {"memory", "load", "step"}
    assert changed(keys(path), keys(path, stages=("load",))) == {"load", "step"}
    assert changed(keys(path), keys(path, trust_remote_code=True)) == set(STAGES)


def test_what_the_hub_says_is_asked_again_each_day(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from qlora_doctor.run.cache import keys as module

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    path = write({"model": "meta-llama/Llama-3.2-1B"})
    setup = read_setup(path)
    before = stage_keys(setup, ("structure",), RunOptions(), None)
    monkeypatch.setattr(module, "_today", lambda: "2000-01-01")
    assert stage_keys(setup, ("structure",), RunOptions(), None) != before
    assert keys(path) == keys(path), "offline nobody is asked"


def test_what_is_left_out_of_keys_changes_no_facts(write: Callable[..., Path]) -> None:
    """The claim behind sharing: learning rate, dropout's rate and alpha leave structure, memory and data alone."""
    pytest.importorskip("bitsandbytes")
    reports = [
        run_check(
            write(changes),
            CheckOptions(stages=("structure", "memory", "data"), device="cpu", offline=True, cache=False),
        )
        for changes in (
            {},
            {
                "training": {"learning_rate": 1e-5, "weight_decay": 0.1, "max_steps": 7, "output_dir": "x"},
                "lora": {"lora_dropout": 0.3, "lora_alpha": 99},
            },
        )
    ]
    first, second = (report.facts.model_dump(exclude={"config", "environment"}) for report in reports)
    assert first["model"] is not None and first["data"] is not None
    assert first == second


def test_kept_results_come_back(tmp_path: Path) -> None:
    first = Store(tmp_path / "facts")
    first.put("k", KEPT)
    first.close()
    assert Store(tmp_path / "facts").get("k") == KEPT
    assert [file.name for file in (tmp_path / "facts").iterdir()] == ["k.json"]


@pytest.mark.parametrize("damage", ["empty", "cut", "bit", "other", "folder"])
def test_damaged_entries_are_none_and_are_replaced(tmp_path: Path, damage: str) -> None:
    Store(tmp_path).put("k", KEPT)
    file = tmp_path / "k.json"
    entry = file.read_bytes()
    if damage == "folder":
        file.unlink()
        file.mkdir()
        assert Store(tmp_path).get("k") is None
        return
    bad = {"empty": b"", "cut": entry[:-20], "bit": entry.replace(b"structure", b"structurf"), "other": b"[]"}[damage]
    file.write_bytes(bad)
    again = Store(tmp_path)
    assert again.get("k") is None
    again.put("k", KEPT)
    assert Store(tmp_path).get("k") == KEPT


def test_an_entry_of_another_shape_is_none(tmp_path: Path) -> None:
    content = b'{"record":{"name":"structure","status":"done"},"facts":{"adapter":{"no_such_fact":1}}}'
    import hashlib

    (tmp_path / "k.json").write_bytes(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
    assert Store(tmp_path).get("k") is None


def test_a_full_disk_costs_no_result_and_leaves_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fdopen

    def full(*arguments: Any, **options: Any) -> Any:
        stream = real(*arguments, **options)

        def write(content: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        return type("Full", (), {"write": staticmethod(write), "__enter__": lambda s: s,
                                 "__exit__": lambda s, *e: stream.close()})()  # fmt: skip

    monkeypatch.setattr(store.os, "fdopen", full)
    kept = Store(tmp_path)
    kept.put("k", KEPT)
    kept.close()
    assert kept.get("k") == KEPT, "this run still has it"
    assert list(tmp_path.iterdir()) == [] and "No space left" in (kept.trouble or "")


def test_a_folder_that_cannot_be_made_costs_no_result(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    kept = Store(tmp_path / "file" / "facts")
    assert kept.get("k") is None
    kept.put("k", KEPT)
    kept.close()
    assert kept.get("k") == KEPT and kept.trouble is not None


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    for number in range(6):
        Store(tmp_path).put(f"k{number}", KEPT)
        os.utime(tmp_path / f"k{number}.json", (1000 + number, 1000 + number))
    size = (tmp_path / "k0.json").stat().st_size
    (tmp_path / "left.tmp").write_bytes(b"")
    os.utime(tmp_path / "left.tmp", (1, 1))
    last = Store(tmp_path, limit=3 * size)
    assert last.get("k1") is not None, "used just now"
    last.put("k6", KEPT)
    last.close()
    assert {file.name for file in tmp_path.iterdir()} == {"k1.json", "k5.json", "k6.json"}


def test_the_folder_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(store.VARIABLE, "off")
    assert cache_folder() is None
    monkeypatch.setenv(store.VARIABLE, str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv(store.VARIABLE)
    if sys.platform == "linux":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert cache_folder() == tmp_path / "qlora-doctor" / "facts"


@pytest.mark.parametrize(
    ("switch", "variable"), [(["--no-cache"], None), ([], "off"), (["--no-cache", "--explain-selection"], None)]
)
def test_without_a_cache_nothing_at_all_is_written(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, switch: list[str], variable: str | None
) -> None:
    config = write()
    home = tmp_path / "home"
    home.mkdir()
    for name in ("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.delenv(store.VARIABLE, raising=False)
    if variable is not None:
        monkeypatch.setenv(store.VARIABLE, variable)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert CliRunner().invoke(main, ["check", str(config), "--stage", "config", *switch]).exit_code == 0
    assert sorted(tmp_path.rglob("*")) == before
    monkeypatch.delenv(store.VARIABLE, raising=False)
    CliRunner().invoke(main, ["check", str(config), "--stage", "config"])
    assert sorted(tmp_path.rglob("rules-*.json")), "with a cache, it is kept"


def test_two_processes_on_one_folder(tmp_path: Path) -> None:
    """Both write and read the same keys at once, and prune: nobody ever reads half an entry, none is left over."""
    code = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from qlora_doctor.run.cache import Kept, Store
        from qlora_doctor.facts import AdapterFacts
        from qlora_doctor.core.report import StageRecord
        names = [f"module.{n}" for n in range(2000)]
        bad = 0
        for turn in range(60):
            for key in ("a", "b", "c"):
                store = Store(Path(sys.argv[1]), limit=150_000)
                file = Path(sys.argv[1]) / f"{key}.json"
                try:
                    entry = file.read_bytes()
                except FileNotFoundError:
                    entry = None
                kept = store.get(key)
                if entry is not None and not entry.endswith(b"}}"):
                    bad += 1
                if kept is not None and kept.facts["adapter"].matched_modules != names:
                    bad += 1
                store.put(key, Kept(StageRecord(name="structure", status="done"),
                                    {"adapter": AdapterFacts(matched_modules=names)}))
                store.close()
        print(bad, store.trouble)
        """
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=HERE.parents[2]
        )
        for _ in range(2)
    ]
    assert [process.communicate(timeout=100)[0].strip() for process in both] == ["0 None", "0 None"]
    assert not list(tmp_path.glob("*.tmp"))


def cached(report: Report) -> dict[str, bool]:
    return {record.name: record.cached for record in report.stages}


def test_an_unchanged_config_starts_no_child(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bitsandbytes")
    options = CheckOptions(device="cpu", offline=True, cache_folder=tmp_path / "facts")
    first = run_check(write(), options)
    assert not any(cached(first).values())
    monkeypatch.setattr("qlora_doctor.worker.process.WorkerProcess", None)
    monkeypatch.setattr("qlora_doctor.worker.pool.WorkerProcess", None)
    began = time.process_time()
    second = run_check(write(), options)
    assert time.process_time() - began < 1
    assert cached(second) == {name: name != "config" for name in ("config", *STAGES)}
    hide = {"tool": True, "stages": {"__all__": {"cached", "seconds"}}, "facts": {"environment"}}
    assert first.model_dump(mode="json", exclude=hide) == second.model_dump(mode="json", exclude=hide)  # type: ignore[arg-type]


def test_a_step_is_not_trained_on_a_base_that_was_not_loaded(write: Callable[..., Path], tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    options = CheckOptions(device="cpu", offline=True, cache_folder=tmp_path / "facts")
    run_check(write(), options)
    other = run_check(write({"training": {"learning_rate": 1e-5}}), options)
    assert cached(other) == {name: name in ("structure", "memory", "data") for name in ("config", *STAGES)}
    assert other.facts.step is not None and other.facts.step.loss_before is not None


def test_a_failure_of_the_machine_is_not_kept(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    plant = (
        "import sys; sys.path[:] = [p for p in sys.path if p] + [{parent!r}]\n"
        "import os\n"
        "from qlora_doctor.worker import worker\n"
        "worker.STAGES['structure'] = lambda run: os.kill(os.getpid(), 9)\n"
        "worker.main()\n"
    )
    folder = tmp_path / "facts"
    options = CheckOptions(stages=("structure", "data"), offline=True, cache_folder=folder)
    with monkeypatch.context() as planted:
        planted.setattr("qlora_doctor.worker.process._ENTRY", plant)
        report = run_check(write(), options)
    assert {record.name: record.status for record in report.stages}["structure"] == "failed"
    assert not list(folder.glob("*.json"))


def test_a_failure_of_the_config_is_kept(write: Callable[..., Path], tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    path = write({"model": str(tmp_path / "none")})
    options = CheckOptions(stages=("structure",), offline=True, cache_folder=tmp_path / "facts")
    first, second = run_check(path, options), run_check(path, options)
    assert cached(second)["structure"] and first.exit_code == second.exit_code == 3
    (tmp_path / "none").mkdir()
    assert not cached(run_check(path, options))["structure"], "the folder is there now"


def test_without_a_cache_nothing_is_left(write: Callable[..., Path], tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    options = CheckOptions(stages=("structure",), offline=True, cache=False, cache_folder=tmp_path / "facts")
    run_check(write(), options)
    assert not (tmp_path / "facts").exists()
