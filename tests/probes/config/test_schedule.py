"""The trainer's arithmetic, what the trainers refuse of it, and the checkpoint that a run goes on from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qlora_doctor import check
from qlora_doctor.core.rows import count_rows
from qlora_doctor.facts.schedule import ResumeFacts, ScheduleFacts
from qlora_doctor.probes.config.resume import recorded_arguments

SCRIPT = """
from datasets import load_dataset
from peft import LoraConfig
from trl import {kind}Config, {kind}Trainer

trainer = {kind}Trainer(
    model="Qwen/Qwen2.5-3B-Instruct",
    train_dataset=load_dataset("json", data_files="rows.jsonl", split="train"),
    args={kind}Config(output_dir="out", {arguments}),
    peft_config=LoraConfig(r=16, target_modules="all-linear"),
)
trainer.train({train})
"""


def rows(folder: Path, count: int) -> None:
    (folder / "rows.jsonl").write_text("".join(json.dumps({"text": f"row {n}"}) + "\n" for n in range(count)))


def native(folder: Path, **training: Any) -> dict[str, Any]:
    file = folder / "config.json"
    lora = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
    data = {"train": "rows.jsonl"} if (folder / "rows.jsonl").exists() else {}
    file.write_text(json.dumps({"model": "a/b", "lora": lora, "training": training, "data": data}))
    return of(file)


def script(folder: Path, arguments: str, kind: str = "SFT", train: str = "") -> dict[str, Any]:
    file = folder / "train.py"
    file.write_text(SCRIPT.format(kind=kind, arguments=arguments, train=train))
    return of(file)


def of(file: Path) -> dict[str, Any]:
    report = check(file, stages=("config",), cache=False)
    assert report.facts.config is not None
    told = {finding.rule: finding.message for finding in report.findings}
    return {"schedule": report.facts.config.schedule, "preference": report.facts.config.preference, "told": told}


def schedule(found: dict[str, Any]) -> ScheduleFacts:
    assert found["schedule"] is not None
    return found["schedule"]


def resume(found: dict[str, Any]) -> ResumeFacts:
    known = schedule(found).resume
    assert known is not None
    return known


# -- updates


def test_updates_are_counted_as_the_trainer_counts_them(tmp_path: Path) -> None:
    rows(tmp_path, 103)
    found = schedule(native(tmp_path, per_device_train_batch_size=4, gradient_accumulation_steps=8, num_train_epochs=3))
    # 103 rows are 26 batches, which are 4 updates, the last one of 2 batches
    assert (found.effective_batch, found.rows, found.updates_per_epoch, found.updates) == (32, 103, 4, 12)


def test_a_launched_run_has_ranks_that_nobody_told(tmp_path: Path) -> None:
    rows(tmp_path, 100)
    plain = schedule(script(tmp_path, "per_device_train_batch_size=2, num_train_epochs=1, packing=False"))
    assert (plain.effective_batch, plain.batch_of_a_rank, plain.updates) == (None, 2, 50)
    file = tmp_path / "train.py"
    file.write_text(file.read_text() + "\nimport os; rank = os.environ['LOCAL_RANK']\n")
    assert schedule(of(file)).updates is None


@pytest.mark.parametrize(
    ("steps", "warmup", "told"),
    [(60, 500, "12%"), (60, 30, None), (60, 31, "31 of 60"), (1000, 100, None)],
)
def test_warmup_against_all_updates(tmp_path: Path, steps: int, warmup: int, told: str | None) -> None:
    message = native(tmp_path, max_steps=steps, warmup_steps=warmup)["told"].get("QD162")
    assert message is None if told is None else told in message


def test_a_share_of_warmup_is_of_the_updates(tmp_path: Path) -> None:
    found = native(tmp_path, max_steps=200, warmup_ratio=0.03)
    assert schedule(found).warmup_updates == 6
    assert "QD162" not in found["told"]
    assert "QD162" not in native(tmp_path, warmup_steps=500)["told"]  # of how many updates is not known


def test_intervals_beyond_the_end(tmp_path: Path) -> None:
    late = native(tmp_path, max_steps=60, eval_strategy="steps", eval_steps=200, save_steps=50, logging_steps=10)
    assert "evaluation every 200 falls after" in late["told"]["QD163"]
    assert "QD163" not in native(tmp_path, max_steps=600, eval_strategy="steps", eval_steps=200)["told"]
    assert "QD163" not in native(tmp_path, max_steps=60, eval_strategy="epoch", eval_steps=200)["told"]


def test_many_passes_over_few_rows(tmp_path: Path) -> None:
    rows(tmp_path, 200)
    assert "200 rows" in native(tmp_path, num_train_epochs=20)["told"]["QD166"]
    assert "QD166" not in native(tmp_path, num_train_epochs=3)["told"]
    rows(tmp_path, 1500)
    assert "QD166" not in native(tmp_path, num_train_epochs=20)["told"]


@pytest.mark.parametrize(
    ("name", "text", "count"),
    [
        ("a.jsonl", '{"a": 1}\n\n{"a": 2}', 2),
        ("a.json", '[{"a": 1}, {"a": 2}, {"a": 3}]', 3),
        ("b.json", '{"a": 1}\n{"a": 2}\n', 2),
        ("c.json", '{\n"a": 1\n}', None),
        ("a.csv", 'text,label\n"two\nlines",1\nx,0\n', 2),
        ("a.bin", "x", None),
        ("d.json", "[1, 2", None),
    ],
)
def test_rows_of_a_file(tmp_path: Path, name: str, text: str, count: int | None) -> None:
    file = tmp_path / name
    file.write_text(text)
    assert count_rows(file) == count


# -- what the trainers refuse


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"eval_strategy": "steps", "save_strategy": "epoch"}, "goes by steps, save by epoch"),
        ({}, "evaluation goes by no, save by steps"),
        ({"eval_strategy": "steps", "eval_steps": 300, "save_steps": 500}, "500 is none of 300"),
        ({"eval_strategy": "steps", "eval_steps": 0.1, "save_steps": 500}, "both as shares"),
        ({"eval_strategy": "steps", "eval_steps": 250, "save_steps": 500}, None),
        ({"eval_strategy": "steps", "eval_steps": 0.1, "save_steps": 0.2}, None),
        ({"eval_strategy": "epoch", "save_strategy": "epoch"}, None),
        ({"eval_strategy": "steps", "save_strategy": "best"}, None),
    ],
)
def test_best_model_is_held_against_transformers(tmp_path: Path, arguments: dict[str, Any], told: str | None) -> None:
    message = native(tmp_path, load_best_model_at_end=True, **arguments)["told"].get("QD160")
    assert message is None if told is None else message is not None and told in message
    transformers = pytest.importorskip("transformers")
    try:
        transformers.TrainingArguments(output_dir=str(tmp_path), load_best_model_at_end=True, **arguments)
        refused = False
    except ValueError:
        refused = True
    assert refused == (told is not None)


def test_best_model_of_nothing(tmp_path: Path) -> None:
    found = native(tmp_path, load_best_model_at_end=True, save_strategy="no")
    assert "nothing is ever evaluated" in found["told"]["QD164"]
    assert "QD160" not in found["told"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("per_device_train_batch_size=2, num_generations=8", "2 answers are generated at a time"),
        ("per_device_train_batch_size=2, gradient_accumulation_steps=4, num_generations=8", None),
        ("per_device_train_batch_size=8", None),
        ("per_device_train_batch_size=6", "num_generations 8"),
        ("per_device_train_batch_size=4, num_generations=1", "num_generations is 1"),
        ("per_device_train_batch_size=4, generation_batch_size=12, num_generations=8", "12 answers"),
        ("per_device_train_batch_size=4, steps_per_generation=4, num_generations=8", None),
    ],
)
def test_groups_are_held_against_trl(tmp_path: Path, arguments: str, told: str | None) -> None:
    message = script(tmp_path, arguments, "GRPO")["told"].get("QD161")
    assert message is None if told is None else message is not None and told in message
    trl = pytest.importorskip("trl")
    try:
        eval(f"trl.GRPOConfig(output_dir={str(tmp_path)!r}, bf16=False, use_cpu=True, {arguments})", {"trl": trl})
        refused = False
    except ValueError:
        refused = True
    assert refused == (told is not None)


def test_groups_of_several_ranks_are_left_to_their_launcher(tmp_path: Path) -> None:
    arguments = "per_device_train_batch_size=2, num_generations=8"
    file = tmp_path / "train.py"
    file.write_text("from accelerate import PartialState\n" + SCRIPT.format(kind="GRPO", arguments=arguments, train=""))
    assert "QD161" not in of(file)["told"]


# -- the checkpoint


def checkpoint(folder: Path, *, step: int = 60, r: int = 16, ranks: int = 1, batch: int = 8) -> Path:
    made = folder / "out" / f"checkpoint-{step}"
    made.mkdir(parents=True)
    state = {"global_step": step, "max_steps": step, "epoch": 3.0, "num_train_epochs": 3, "train_batch_size": batch}
    (made / "trainer_state.json").write_text(json.dumps(state))
    (made / "adapter_config.json").write_text(json.dumps({"r": r}))
    for name in ["rng_state.pth"] if ranks == 1 else [f"rng_state_{rank}.pth" for rank in range(ranks)]:
        (made / name).write_bytes(b"")
    return made


def test_nothing_is_left_to_resume(tmp_path: Path) -> None:
    checkpoint(tmp_path)
    again = {"resume_from_checkpoint": "out/checkpoint-60"}
    assert "which are all that this config asks for (60)" in native(tmp_path, max_steps=60, **again)["told"]["QD167"]
    assert "QD167" not in native(tmp_path, max_steps=120, **again)["told"]
    assert "QD167" in native(tmp_path, num_train_epochs=3, **again)["told"]
    assert "QD167" not in native(tmp_path, num_train_epochs=5, **again)["told"]
    assert "QD167" not in native(tmp_path, max_steps=60)["told"]


def test_the_last_checkpoint_of_the_folder_is_meant_by_true(tmp_path: Path) -> None:
    checkpoint(tmp_path, step=20)
    checkpoint(tmp_path, step=100)
    found = resume(native(tmp_path, max_steps=100, output_dir="out", resume_from_checkpoint=True))
    assert (found.updates_done, found.updates_left) == (100, 0)
    found = resume(script(tmp_path, "max_steps=200", train="resume_from_checkpoint=True"))
    assert (found.updates_done, found.updates_left) == (100, 100)


def test_a_folder_without_checkpoints_and_one_that_is_not_here(tmp_path: Path) -> None:
    """Outputs are no part of a checkout: what is not here may be where the run takes place."""
    absent = native(tmp_path, max_steps=100, output_dir="out", resume_from_checkpoint=True)["told"]
    assert "QD477" in absent and "QD471" not in absent
    (tmp_path / "out").mkdir()
    empty = native(tmp_path, max_steps=100, output_dir="out", resume_from_checkpoint=True)["told"]
    assert "QD471" in empty and "QD477" not in empty


def test_a_script_resumes_by_what_train_is_given(tmp_path: Path) -> None:
    checkpoint(tmp_path)
    kept = script(tmp_path, "max_steps=60, resume_from_checkpoint='out/checkpoint-60'")
    assert schedule(kept).resume is None
    assert "QD167" not in kept["told"]


def test_another_rank_batch_or_number_of_processes(tmp_path: Path) -> None:
    checkpoint(tmp_path, r=64, ranks=2, batch=4)
    again = {"resume_from_checkpoint": "out/checkpoint-60", "max_steps": 120}
    told = native(tmp_path, per_device_train_batch_size=8, **again)["told"]
    assert "rank 64 and the config builds one of rank 16" in told["QD169"]
    assert "world size 2, now 1, batch 4, now 8" in told["QD168"]
    skipped = native(tmp_path, per_device_train_batch_size=8, ignore_data_skip=True, **again)["told"]
    assert "QD168" not in skipped


def test_a_checkpoint_without_the_state_of_optimizer_and_schedule(tmp_path: Path) -> None:
    """What ``save_only_model`` leaves."""
    made = checkpoint(tmp_path)
    again = {"resume_from_checkpoint": "out/checkpoint-60", "max_steps": 120}
    assert "counts on from update 60" in native(tmp_path, **again)["told"]["QD258"]
    (made / "optimizer.pt").write_bytes(b"")
    assert "QD258" not in native(tmp_path, **again)["told"]


def test_epochs_that_max_steps_goes_before(tmp_path: Path) -> None:
    rows(tmp_path, 100)
    told = native(tmp_path, per_device_train_batch_size=2, max_steps=60, num_train_epochs=3)["told"]
    assert told["QD626"].endswith("max_steps goes before num_train_epochs, which would be 150.")
    assert "QD626" not in native(tmp_path, per_device_train_batch_size=2, max_steps=60)["told"]
    assert "QD626" not in native(tmp_path, per_device_train_batch_size=2, max_steps=-1, num_train_epochs=3)["told"]


def test_the_seed_of_a_real_checkpoint_is_read_without_running_it(tmp_path: Path) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    made = checkpoint(tmp_path)
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), seed=7, data_seed=300, gradient_accumulation_steps=70000
    )
    torch.save(arguments, made / "training_args.bin")
    read = recorded_arguments(made / "training_args.bin")
    assert (read["seed"], read["data_seed"], read["gradient_accumulation_steps"]) == (7, 300, 70000)
    again = {"resume_from_checkpoint": "out/checkpoint-60", "max_steps": 120, "gradient_accumulation_steps": 70000}
    assert resume(native(tmp_path, data_seed=300, **again)).differs == []
    assert resume(native(tmp_path, data_seed=301, **again)).differs == ["data seed 300, now 301"]
    (made / "training_args.bin").write_bytes(b"PK no archive")
    assert recorded_arguments(made / "training_args.bin") == {}


# -- preference and reinforcement learning


@pytest.mark.parametrize(
    ("kind", "arguments", "rule", "told"),
    [
        ("DPO", "beta=0.0", "QD172", True),
        ("DPO", "beta=0.1", "QD172", False),
        ("DPO", "beta=0.0, loss_type=['sigmoid', 'sft']", "QD172", False),
        ("GRPO", "beta=0.0, num_generations=8", "QD172", False),
        ("KTO", "beta=0.0", "QD172", True),
        ("DPO", "beta=10.0", "QD173", True),
        ("DPO", "beta=0.5", "QD173", False),
        ("DPO", "beta=10.0, loss_type='ipo'", "QD173", False),
        ("CPO", "beta=10.0", "QD173", False),
        ("DPO", "label_smoothing=0.7, loss_type='exo_pair'", "QD174", True),
        ("DPO", "label_smoothing=0.7", "QD174", False),
        ("DPO", "label_smoothing=0.1", "QD174", False),
        ("DPO", "label_smoothing=0.1", "QD175", True),
        ("DPO", "label_smoothing=0.1, loss_type='robust'", "QD175", False),
    ],
)
def test_beta_and_label_smoothing(tmp_path: Path, kind: str, arguments: str, rule: str, told: bool) -> None:
    pytest.importorskip("trl")
    assert (rule in script(tmp_path, arguments, kind)["told"]) == told


DPO_ON_ADAPTER = """
from peft import PeftModel
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from trl import DPOConfig, DPOTrainer

model = AutoModelForCausalLM.from_pretrained("a/b", quantization_config=BitsAndBytesConfig(load_in_4bit=True))
model = PeftModel.from_pretrained(model, "sft", is_trainable=True)
reference = AutoModelForCausalLM.from_pretrained("a/b")
trainer = DPOTrainer(model, args=DPOConfig(output_dir="out"), train_dataset=rows, {more})
trainer.train()
"""


@pytest.mark.parametrize(
    ("trl", "more", "reference"),
    [
        ("0.26.2", "", "base"),
        ("0.27.0", "", "adapter-copy"),
        ("1.16.0", "", "adapter-copy"),
        ("0.26.2", "ref_model=reference", "second-model"),
    ],
)
def test_the_reference_of_a_continued_adapter(tmp_path: Path, trl: str, more: str, reference: str) -> None:
    from qlora_doctor.facts.environment import EnvironmentFacts, Packages
    from qlora_doctor.probes.config.conclude import conclude
    from qlora_doctor.reading import read_setup

    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "adapter_config.json").write_text('{"r": 8, "base_model_name_or_path": "a/b"}')
    file = tmp_path / "dpo.py"
    file.write_text(DPO_ON_ADAPTER.format(more=more))
    packages = Packages(torch="2.13.0", transformers="5.23.0", peft="0.21.2", trl=trl)
    environment = EnvironmentFacts(tool_version="0", python="3.11", platform="Linux", packages=packages)
    found = conclude(read_setup(file), environment).preference
    assert found is not None and (found.reference, found.continues_adapter) == (reference, True)


def test_llamafactory_switches_the_adapter_off_for_its_reference(tmp_path: Path) -> None:
    file = tmp_path / "dpo.yaml"
    text = "model_name_or_path: a/b\nstage: dpo\nfinetuning_type: lora\ndo_train: true\nquantization_bit: 4\n"
    file.write_text(text + "adapter_name_or_path: sft\nlearning_rate: 5.0e-6\n")
    assert "QD171" in of(file)["told"]
    file.write_text(text + "adapter_name_or_path: sft\nlearning_rate: 5.0e-6\nref_model: other/model\n")
    assert "QD171" not in of(file)["told"]
    file.write_text(text + "learning_rate: 5.0e-6\n")
    assert "QD171" not in of(file)["told"]


# -- what public reports ended at

REPORTED = {
    "vllm-merges-into-4-bit": ("GRPO", "use_vllm=True, vllm_mode='colocate', num_generations=8", "QD170"),
    "group-not-divisible": ("GRPO", "per_device_train_batch_size=2, num_generations=8", "QD161"),
    "best-model-strategies-differ": (
        "SFT",
        "eval_strategy='steps', eval_steps=40, save_strategy='epoch', load_best_model_at_end=True",
        "QD160",
    ),
}
LOAD = """AutoModelForCausalLM.from_pretrained(
        "Qwen/Qwen2.5-3B-Instruct", quantization_config=BitsAndBytesConfig(load_in_4bit=True)
    )"""
HELD_OUT = '    eval_dataset=load_dataset("json", data_files="held_out.jsonl", split="train"),\n'


@pytest.mark.parametrize(("kind", "arguments", "rule"), REPORTED.values(), ids=REPORTED)
def test_reports_are_named_by_their_cause(kind: str, arguments: str, rule: str, tmp_path: Path) -> None:
    text = SCRIPT.format(kind=kind, arguments=f"bf16=True, {arguments}", train="")
    text = text.replace('"Qwen/Qwen2.5-3B-Instruct"', LOAD).replace("    args=", HELD_OUT + "    args=")
    text = "from transformers import AutoModelForCausalLM, BitsAndBytesConfig\n" + text
    (tmp_path / "train.py").write_text(text)
    report = check(tmp_path / "train.py", stages=("config",), cache=False)
    assert [finding.rule for finding in report.findings if finding.severity == "error"] == [rule]


def test_vllm_beside_a_16_bit_base_is_no_finding(tmp_path: Path) -> None:
    found = script(tmp_path, "use_vllm=True, num_generations=8", "GRPO")
    assert found["preference"].merges_into_4bit is False
    assert "QD170" not in found["told"]


def test_an_evaluation_has_rows(tmp_path: Path) -> None:
    asked = "eval_strategy='steps', eval_steps=10"
    assert "given no eval_dataset" in script(tmp_path, asked)["told"]["QD125"]
    assert "QD125" not in script(tmp_path, "eval_strategy='no'")["told"]
    file = tmp_path / "train.py"
    text = SCRIPT.format(kind="SFT", arguments=asked, train="")
    file.write_text(text.replace("    peft_config=", "    eval_dataset=held_out,\n    peft_config="))
    assert "QD125" not in of(file)["told"]
    file.write_text(text.replace("trainer.train", "trainer.eval_dataset = held_out\ntrainer.train"))
    assert "QD125" not in of(file)["told"]


def test_a_home_made_file_is_refused_by_what_it_tells(tmp_path: Path) -> None:
    file = tmp_path / "home.yaml"
    text = "model_name: a/b\nload_in_4bit: true\nlora: {r: 16}\ntraining: {eval_strategy: steps, save_strategy: %s, "
    text += "load_best_model_at_end: true, learning_rate: 1.0e-4}\n"
    file.write_text(text % "epoch")
    assert "QD160" in of(file)["told"]
    file.write_text(text % "steps")
    assert "QD160" not in of(file)["told"]


LLAMAFACTORY = """
model_name_or_path: Qwen/Qwen2.5-7B
stage: sft
do_train: true
finetuning_type: lora
quantization_bit: 4
lora_rank: 8
dataset: mine
dataset_dir: .
template: qwen
per_device_train_batch_size: 2
gradient_accumulation_steps: 8
num_train_epochs: 3
"""


@pytest.mark.parametrize(
    ("more", "updates", "told"),
    [
        ("", 45, set()),
        ("warmup_steps: 300\n", 45, {"QD162"}),
        ("val_size: 0.1\neval_strategy: steps\neval_steps: 40\nsave_steps: 500\n", 42, {"QD163"}),
        ("num_train_epochs: 20\n", 300, {"QD166"}),
        ("max_samples: 32\n", 6, set()),
    ],
)
def test_without_ranks_the_most_updates_count(tmp_path: Path, more: str, updates: int, told: set[str]) -> None:
    """With more than one rank there are fewer, so that what is late on one is late on all."""
    (tmp_path / "rows.json").write_text(json.dumps([{"instruction": f"a {n}", "output": "b"} for n in range(240)]))
    (tmp_path / "dataset_info.json").write_text(json.dumps({"mine": {"file_name": "rows.json"}}))
    said = LLAMAFACTORY if "num_train" not in more else LLAMAFACTORY.replace("num_train_epochs: 3\n", "")
    (tmp_path / "lf.yaml").write_text(said + more)
    found = of(tmp_path / "lf.yaml")
    assert schedule(found).updates is None and schedule(found).updates_at_most == updates
    assert {"QD162", "QD163", "QD166"} & found["told"].keys() == told


@pytest.mark.parametrize(("text", "updates"), [("short", 30), ("long " * 400, None)])
def test_axolotls_completion_divides_long_texts(tmp_path: Path, text: str, updates: int | None) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for _ in range(240)))
    (tmp_path / "a.yml").write_text(
        "base_model: Qwen/Qwen2.5-7B\nadapter: qlora\nload_in_4bit: true\nlora_r: 8\nsequence_len: 512\n"
        "micro_batch_size: 2\ngradient_accumulation_steps: 4\nnum_epochs: 1\n"
        "datasets:\n  - path: rows.jsonl\n    type: completion\n"
    )
    assert schedule(of(tmp_path / "a.yml")).updates_at_most == updates


def test_the_first_argument_is_the_output_folder(tmp_path: Path) -> None:
    rows(tmp_path, 64)
    state = {"global_step": 8, "epoch": 0.5, "train_batch_size": 2}
    (tmp_path / "out" / "checkpoint-8").mkdir(parents=True)
    (tmp_path / "out" / "checkpoint-8" / "trainer_state.json").write_text(json.dumps(state))
    (tmp_path / "out" / "checkpoint-8" / "adapter_config.json").write_text(json.dumps({"r": 64}))
    file = tmp_path / "train.py"
    text = SCRIPT.format(kind="SFT", arguments="per_device_train_batch_size=2", train="resume_from_checkpoint=True")
    file.write_text(text.replace('output_dir="out"', '"out"'))
    assert "QD169" in of(file)["told"]


def test_an_adapter_that_is_continued_is_known_without_its_folder(tmp_path: Path) -> None:
    file = tmp_path / "train.py"
    file.write_text(
        "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n"
        "from trl import DPOConfig, DPOTrainer\n"
        "model = AutoModelForCausalLM.from_pretrained('a/b', load_in_4bit=True)\n"
        "model = PeftModel.from_pretrained(model, 'sft-adapter', is_trainable=True)\n"
        "DPOTrainer(model=model, args=DPOConfig(output_dir='out'), train_dataset=rows).train()\n"
    )
    (tmp_path / "requirements.txt").write_text("trl==0.9.6\n")
    assert "QD171" in of(file)["told"]


@pytest.mark.parametrize(("beta", "told"), [("10.0", True), ("0.04", False), ("0.0", False)])
def test_beta_of_grpo(tmp_path: Path, beta: str, told: bool) -> None:
    pytest.importorskip("trl")
    assert ("QD677" in script(tmp_path, f"beta={beta}", "GRPO")["told"]) == told
