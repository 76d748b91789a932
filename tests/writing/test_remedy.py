"""What a finding offers for the user's own file: a diff in its keys, or why there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qlora_doctor.core.report import PatchOperation, Remediation
from qlora_doctor.reading import Setup, read_setup
from qlora_doctor.reading.document import document_of
from qlora_doctor.reading.native import setup_from_mapping
from qlora_doctor.writing.edit import apply_patch
from qlora_doctor.writing.express import reread
from qlora_doctor.writing.patch import CannotEdit
from qlora_doctor.writing.remedy import in_file
from qlora_doctor.writing.repair import repair

AXOLOTL = "base_model: x/y\nadapter: qlora\nload_in_4bit: true\nmicro_batch_size: 1\nsequence_len: 512\n"
LLAMA_FACTORY = "model_name_or_path: x/y\nstage: sft\nfinetuning_type: lora\nlora_target: all\ntemplate: llama3\n"
TRL = "model_name_or_path: x/y\nuse_peft: true\nload_in_4bit: true\nlora_r: 8\ndataset_name: d\n"


def setup_of(folder: Path, text: str, name: str = "c.yaml") -> Setup:
    (folder / name).write_bytes(text.encode())
    return read_setup(folder / name)


def remedy(path: str, value: Any, safety: Any = "safe") -> Remediation:
    return Remediation(text="Set it.", safety=safety, patch=[PatchOperation(op="add", path=path, value=value)])


def repaired(folder: Path, text: str, kind: str, safety: Any = "safe") -> tuple[Remediation, str, Setup]:
    """(the remedy, the text with it, what its reader makes of that)."""
    setup = setup_of(folder, text)
    found = in_file(setup, Remediation(text="Do it.", safety=safety), kind)
    after = apply_patch(text, "yaml", found.patch)
    return found, after, reread(setup, document_of(folder / "c.yaml", after))


def test_a_diff_of_the_users_own_file(tmp_path: Path) -> None:
    setup = setup_of(tmp_path, "model: x/y\ntraining:\n  max_seq_length: 512")
    found = in_file(setup, remedy("/training/max_length", 1024))
    assert found.diff == (
        "--- a/c.yaml\n+++ b/c.yaml\n@@ -1,3 +1,3 @@\n model: x/y\n training:\n"
        "-  max_seq_length: 512\n\\ No newline at end of file\n"
        "+  max_seq_length: 1024\n\\ No newline at end of file\n"
    )
    assert [(o.op, o.path, o.value) for o in found.patch] == [("add", "/training/max_seq_length", 1024)]
    assert in_file(setup, remedy("/training/max_length", 512)).diff is None
    assert (tmp_path / "c.yaml").read_text() == "model: x/y\ntraining:\n  max_seq_length: 512"


def test_lines_of_a_diff_are_those_of_the_file(tmp_path: Path) -> None:
    """A form feed or a line separator inside a text ends no line of the file."""
    setup = setup_of(tmp_path, 'model: "x\\u2028y"\nlora:\r\n  r: 8\r\n')
    assert "-  r: 8\r\n+  r: 16\r\n" in str(in_file(setup, remedy("/lora/r", 16)).diff)


def test_no_diff_without_a_file() -> None:
    found = in_file(setup_from_mapping({"model": "x"}), remedy("/lora/r", 8))
    assert (found.diff, found.patch, found.safety) == (None, [], "display")


def test_what_brings_more_along_is_not_safe(tmp_path: Path) -> None:
    """TRL computes in the dtype that it loads the model in: the one cannot be had without the other."""
    setup = setup_of(tmp_path, TRL)
    found = in_file(setup, remedy("/quantization/bnb_4bit_compute_dtype", "bfloat16"))
    assert found.safety == "unsafe"
    assert "+dtype: bfloat16\n" in str(found.diff)
    assert in_file(setup, remedy("/quantization/bnb_4bit_quant_type", "fp4")).safety == "safe"


def test_what_is_guessed_is_not_safe(tmp_path: Path) -> None:
    text = (
        "model:\n  name: x/y\nquantization:\n  load_in_4bit: true\n  quant_type: fp4\nlora:\n  rank: 8\n  alpha: 16\n"
    )
    setup = setup_of(tmp_path, text)
    assert setup.dialect == "custom"
    found = in_file(setup, remedy("/quantization/bnb_4bit_quant_type", "nf4"))
    assert (found.safety, found.patch[0].path) == ("unsafe", "/quantization/quant_type")


def test_what_the_file_cannot_say_is_told(tmp_path: Path) -> None:
    found = in_file(setup_of(tmp_path, AXOLOTL), remedy("/model/use_cache", False))
    assert (found.safety, found.patch, found.diff) == ("display", [], None)
    assert found.text == "Set it. --fix cannot write it: axolotl 0.18.0 has no key that sets use_cache."


def test_misspelt_keys_are_renamed(tmp_path: Path) -> None:
    text = AXOLOTL + "lora_dropot: 0.1  # some\nlora_alpha: 16\nlora_alpa: 32\nzzz_unheard_of: 1\n"
    found, after, setup = repaired(tmp_path, text, "unknown-keys", "unsafe")
    assert after == text.replace("lora_dropot: 0.1  # some", "lora_dropout: 0.1  # some")
    assert found.safety == "unsafe"
    assert setup.lora.lora_dropout == 0.1
    assert [key.key for key in setup.unknown_keys] == ["lora_alpa", "zzz_unheard_of"]


def test_native_keys_go_to_their_section(tmp_path: Path) -> None:
    text = "model: x/y\nlora:\n  r: 8\n  learning_rate: 0.0002\n  lora_alfa: 16  # a\ntraining:\n  bf16: true\n"
    _, after, setup = repaired(tmp_path, text, "unknown-keys", "unsafe")
    assert (
        after == "model: x/y\nlora:\n  r: 8\n  lora_alpha: 16  # a\ntraining:\n  bf16: true\n  learning_rate: 0.0002\n"
    )
    assert (setup.lora.lora_alpha, setup.training.learning_rate, setup.unknown_keys) == (16, 0.0002, [])


def test_removed_keys_get_their_new_names_and_then_go(tmp_path: Path) -> None:
    text = TRL + "evaluation_strategy: steps  # often\nwarmup_ratio: 0.1\noverwrite_output_dir: true\n"
    found, after, setup = repaired(tmp_path, text, "removed-keys")
    assert after == TRL + "eval_strategy: steps  # often\nwarmup_steps: 0.1\noverwrite_output_dir: true\n"
    assert found.safety == "safe"
    assert (setup.training.eval_strategy, setup.training.warmup_steps) == ("steps", 0.1)
    found, after, setup = repaired(tmp_path, after, "removed-keys")
    assert after == TRL + "eval_strategy: steps  # often\nwarmup_steps: 0.1\n"
    assert found.safety == "unsafe"
    assert setup.removed_keys == []


def test_repeated_keys_keep_the_one_that_counts(tmp_path: Path) -> None:
    text = LLAMA_FACTORY + "lora_rank: 8  # first\nlora_alpha: 16\nlora_rank: 16  # second\n"
    _, after, setup = repaired(tmp_path, text, "repeated-keys")
    assert after == LLAMA_FACTORY + "lora_alpha: 16\nlora_rank: 16  # second\n"
    assert (setup.lora.r, setup.duplicate_keys) == (16, [])


@pytest.mark.parametrize(
    ("written", "number"), [("2e-4", "0.0002"), ("1e-5", "1.0e-05"), ('"3"', "3"), ("'0.5'", "0.5"), ("5E3", "5000.0")]
)
def test_numbers_written_as_text(tmp_path: Path, written: str, number: str) -> None:
    text = f"model: x/y\ntraining:\n  learning_rate: {written}  # lr\n"
    _, after, setup = repaired(tmp_path, text, "text-numbers")
    assert after == f"model: x/y\ntraining:\n  learning_rate: {number}  # lr\n"
    assert setup.string_numbers == []
    assert setup.training.learning_rate == float(number)


def test_a_repair_that_would_be_a_guess_is_not_offered(tmp_path: Path) -> None:
    setup = setup_of(tmp_path, AXOLOTL + "zzz_unheard_of: 1\n")
    found = in_file(setup, Remediation(text="Do it.", safety="unsafe"), "unknown-keys")
    assert (found.text, found.safety, found.patch, found.diff) == ("Do it.", "display", [], None)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("flash_attention: true  # fast\n", "attn_implementation: flash_attention_2  # fast\n"),
        ("evaluation_strategy: 'no'\n", "eval_strategy: 'no'\n"),
        (
            "fsdp_config:\n  fsdp_offload_params: true\n  fsdp_version: 1\n",
            "fsdp_config:\n  offload_params: true\n  fsdp_version: 1\n",
        ),
        # two switches, of which one counts: the new key beside the other one would be refused
        ("flash_attention: true\nxformers_attention: true\n", None),
        ("gradient_checkpointing: offload\n", None),
    ],
)
def test_deprecated_keys_get_their_new_names(old: str, new: str | None, tmp_path: Path) -> None:
    """In their places, with their comments; what has no new name stays, and so does what the file means."""
    rest = (
        "base_model: my/model\nadapter: qlora\nload_in_4bit: true\nlora_target_linear: true\nmicro_batch_size: 1\n"
        "gradient_accumulation_steps: 4\ndatasets: [{path: a, type: alpaca}]\n"
    )
    path = tmp_path / "config.yml"
    path.write_text(rest + old)
    before = read_setup(path)
    assert before.deprecated_keys
    if new is None:
        with pytest.raises(CannotEdit):
            repair(before, "deprecated-keys")
        return
    path.write_text(apply_patch(rest + old, "yaml", repair(before, "deprecated-keys")))
    assert path.read_text() == rest + new
    after = read_setup(path)
    assert after.model == before.model and after.training == before.training
