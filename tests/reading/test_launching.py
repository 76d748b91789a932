"""What ``accelerate launch --config_file`` makes of the config or the script that it starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qlora_doctor.probes.config.conclude import conclude
from qlora_doctor.reading import read_setup
from qlora_doctor.reading.walk import find_configs
from qlora_doctor.setup.resolved import Resolved

FSDP = """\
compute_environment: LOCAL_MACHINE
distributed_type: FSDP
fsdp_config:
  fsdp_cpu_ram_efficient_loading: true
  fsdp_sync_module_states: true
  fsdp_offload_params: false
  fsdp_sharding_strategy: FULL_SHARD
mixed_precision: bf16
num_machines: 1
num_processes: 4
"""
ZERO = """\
compute_environment: LOCAL_MACHINE
distributed_type: DEEPSPEED
deepspeed_config:
  offload_optimizer_device: cpu
  zero_stage: 3
num_processes: 8
"""
DDP = "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_GPU\nnum_processes: 2\n"
ONE = "compute_environment: LOCAL_MACHINE\ndistributed_type: 'NO'\nnum_processes: 1\n"
SCRIPT = """\
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, Trainer, TrainingArguments

model = AutoModelForCausalLM.from_pretrained("my/model", quantization_config=BitsAndBytesConfig(load_in_4bit=True))
model = get_peft_model(model, LoraConfig(r=8, target_modules=["q_proj"]))
Trainer(model=model, args=TrainingArguments(output_dir="out", learning_rate=2e-4)).train()
"""
RECIPE = "model_name_or_path: my/model\ndataset_name: my/rows\nuse_peft: true\nload_in_4bit: true\n"


def project(folder: Path, launch: str, starter: str = "run.sh") -> Path:
    (folder / "pyproject.toml").write_text("")
    for name, text in {"fsdp": FSDP, "zero": ZERO, "ddp": DDP, "one": ONE}.items():
        (folder / f"{name}.yaml").write_text(text)
    (folder / "train.py").write_text(SCRIPT)
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / starter).write_text(launch)
    return folder


@pytest.mark.parametrize(
    ("config", "kind", "count"),
    [("fsdp", "fsdp1", 4), ("zero", "zero3", 8), ("ddp", "ddp", 2), ("one", "none", 1)],
)
@pytest.mark.parametrize("file", ["train.py", "recipe.yaml"])
def test_the_file_that_the_launch_names_is_read(file: str, config: str, kind: str, count: int, tmp_path: Path) -> None:
    launch = f"accelerate launch --config_file {config}.yaml train.py --config recipe.yaml\n"
    found = conclude(read_setup(project(tmp_path, launch) / file), None)
    assert (found.distributed, found.world_size) == (kind, count)


def test_the_command_line_wins(tmp_path: Path) -> None:
    launch = "```bash\naccelerate launch --config_file=ddp.yaml --num_processes=1 train.py\n```\n"
    setup = read_setup(project(tmp_path, launch, "README.md") / "train.py")
    assert setup.hardware.count == 1
    assert setup.origins["hardware.count"].note == "--num_processes of the command that starts it"


def test_precision_counts_where_the_trainer_is_silent(tmp_path: Path) -> None:
    folder = project(tmp_path, "accelerate launch --config_file fsdp.yaml train.py\n")
    assert read_setup(folder / "train.py").training.bf16 is True
    (folder / "train.py").write_text(SCRIPT.replace("learning_rate=2e-4", "fp16=True"))
    setup = read_setup(folder / "train.py")
    assert (setup.training.bf16, setup.training.fp16) == (None, True)


def test_launches_that_differ_leave_it_open(tmp_path: Path) -> None:
    launch = "accelerate launch --config_file ddp.yaml train.py\naccelerate launch --config_file fsdp.yaml train.py\n"
    setup = read_setup(project(tmp_path, launch) / "train.py")
    assert setup.is_unknown("hardware.count") and setup.is_unknown("training.fsdp")


@pytest.mark.parametrize(
    "launch",
    [
        "accelerate launch --config_file gone.yaml train.py\n",
        "accelerate launch --config_file fsdp.yaml other.py\n",
        "accelerate launch --config_file fsdp.yaml {script}.py --config recipes/{name}/recipe.yaml\n",
        "python train.py\n",
    ],
)
def test_another_launch_says_nothing(launch: str, tmp_path: Path) -> None:
    setup = read_setup(project(tmp_path, launch) / "train.py")
    assert setup.is_unknown("hardware.count") and setup.training.fsdp is None


def test_the_launcher_stops_at_weights_that_no_rank_sends(tmp_path: Path) -> None:
    path = tmp_path / "default_config.yaml"
    path.write_text(FSDP)
    healthy = conclude(read_setup(path), None)
    assert (healthy.dialect, healthy.distributed, healthy.refused) == ("accelerate-config", "fsdp1", [])
    path.write_text(FSDP.replace("sync_module_states: true", "sync_module_states: false"))
    faulty = conclude(read_setup(path), None)
    assert [remark.kind for remark in faulty.refused or ()] == ["launched-without-sync"]
    assert faulty.fsdp_loads_unsynced is False  # said once
    path.write_text(FSDP.replace("fsdp_sync_module_states: true", "fsdp_version: 2\n  fsdp_sync_module_states: false"))
    assert conclude(read_setup(path), None).refused == []  # FSDP 2 has no such option


def test_alone_it_is_no_run(tmp_path: Path) -> None:
    project(tmp_path, "")
    setup = read_setup(tmp_path / "zero.yaml")
    assert setup.is_unknown("model.name_or_path") and setup.hardware.count == 8
    assert conclude(setup, None).undecided == []
    left = {path.name: why for path, why in find_configs(tmp_path).left_out}
    assert left["zero.yaml"] == "it is an Accelerate config"


@pytest.mark.parametrize(
    ("flags", "kind", "count", "values"),
    [
        ("--use_fsdp --num_processes 4", "fsdp1", 4, {"training.fsdp": "full_shard auto_wrap"}),
        ("--use_fsdp --fsdp_version=2 --num-processes 2 --fsdp_offload_params true", "fsdp2", 2, {}),
        (
            "--use_fsdp --fsdp_sharding_strategy SHARD_GRAD_OP --fsdp_offload_params=true --num_processes 8",
            "fsdp1",
            8,
            {"training.fsdp": "shard_grad_op auto_wrap offload"},
        ),
        ("--use_deepspeed --zero_stage 3 --num_processes 4", "zero3", 4, {}),
        ("--use_deepspeed --num_processes 2", "zero2", 2, {}),
        ("--use_deepspeed --deepspeed_config_file ds.json --num_processes 2", "zero3", 2, {}),
        ("--multi_gpu --num_processes 2 --mixed_precision bf16", "ddp", 2, {"training.bf16": True}),
        ("--use_fsdp --config_file ddp.yaml", "fsdp1", 2, {}),
        ("--config_file zero.yaml --zero_stage 2", "zero2", 8, {}),
        ("--mixed_precision fp16 --num_processes=1", None, 1, {"training.fp16": True}),
    ],
)
@pytest.mark.parametrize("starter", ["run.sh", "README.md", "Makefile", "launch.json"])
def test_options_say_what_a_file_would(
    flags: str, kind: str | None, count: int, values: dict[str, object], starter: str, tmp_path: Path
) -> None:
    configuration = {"module": "accelerate.commands.launch", "args": [*flags.split(), "train.py"]}
    texts = {
        "run.sh": f"accelerate launch {flags} \\\n    train.py\n",
        "README.md": f"Start it:\n\n```bash\naccelerate launch {flags} train.py\n```\n",
        "Makefile": f"train:\n\taccelerate launch {flags} train.py\n",
        "launch.json": json.dumps({"configurations": [configuration]}),
    }
    (tmp_path / "ds.json").write_text('{"zero_optimization": {"stage": 3}}')
    setup = read_setup(project(tmp_path, texts[starter], starter) / "train.py")
    found = conclude(setup, None)
    assert (found.distributed, found.world_size) == (kind, count)
    assert {path: Resolved(setup)[path] for path in values} == values


def test_a_switch_without_processes_leaves_their_number_open(tmp_path: Path) -> None:
    setup = read_setup(project(tmp_path, "accelerate launch --use_fsdp train.py\n") / "train.py")
    assert setup.is_unknown("hardware.count") and setup.training.fsdp == "full_shard auto_wrap"
    assert setup.origins["training.fsdp"].note == "--use_fsdp of the command that starts it"


def test_a_text_of_the_command_line_is_true_to_the_launcher(tmp_path: Path) -> None:
    """``--fsdp_sync_module_states false`` does not stop the launcher; the ranks then load without it."""
    flags = "--use_fsdp --num_processes 2 --fsdp_sync_module_states false"
    found = conclude(read_setup(project(tmp_path, f"accelerate launch {flags} train.py\n") / "train.py"), None)
    assert found.refused == [] and found.fsdp_loads_unsynced is True
