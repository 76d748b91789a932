"""``check --fix`` and ``--diff``: what is written, how, and what remains."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import qlora_doctor.run.fixing
from qlora_doctor.cli import main
from qlora_doctor.core.errors import UsageError
from qlora_doctor.run.fixing import fix
from qlora_doctor.run.session import CheckOptions

OPTIONS = CheckOptions(stages=("config",), cache=False)
BROKEN = """\
# a run
base_model: meta-llama/Llama-3.1-8B  # the base
adapter: qlora
load_in_4bit: true
bnb_config_kwargs:
  bnb_4bit_quant_type: fp4  # four bits
  bnb_4bit_compute_dtype: float32

lora_r: 16
lora_alpha: 8
lora_alpha: 32  # this one
lora_target_linear: true
micro_batch_size: 1
gradient_accumulation_steps: 4
learning_rate: 0.00002
evaluation_strategy: "no"
datasets: [{path: my/rows, type: alpaca}]
bf16: true
"""
SAFE = BROKEN.replace("fp4", "nf4").replace("float32", "bfloat16").replace("lora_alpha: 8\n", "")
UNSAFE = SAFE.replace("0.00002", "0.0002").replace("evaluation_strategy", "eval_strategy")

NATIVE = """\
model: meta-llama/Llama-3.1-8B
quantization: {bnb_4bit_quant_type: nf4, bnb_4bit_use_double_quant: true, bnb_4bit_compute_dtype: bfloat16}
"""


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["check", "--stage", "config", "--no-cache", *map(str, arguments)])


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    path = tmp_path / "axolotl.yml"
    path.write_text(BROKEN)
    return path


def test_fix_writes_what_is_safe(broken: Path) -> None:
    result = run(broken, "--fix")
    assert broken.read_text() == SAFE
    assert result.exit_code == 0
    assert "error[" not in result.stdout
    assert "warning[QD120]" in result.stdout
    assert "fixed 3 findings (QD103, QD112, QD207); --unsafe-fixes would fix 2 more (QD120, QD138)" in " ".join(
        result.stderr.split()
    )


def test_unsafe_fixes_go_further(broken: Path) -> None:
    result = run(broken, "--fix", "--unsafe-fixes", "--format", "json")
    assert broken.read_text() == UNSAFE
    assert '"findings": []' in result.stdout or '"findings":[]' in result.stdout


def test_fixing_again_changes_nothing(broken: Path) -> None:
    run(broken, "--fix", "--unsafe-fixes")
    once, when = broken.read_text(), broken.stat().st_mtime_ns
    assert "fixed nothing" in run(broken, "--fix", "--unsafe-fixes").stderr
    assert (broken.read_text(), broken.stat().st_mtime_ns) == (once, when)


def test_diff_prints_and_writes_nothing(broken: Path) -> None:
    result = run(broken, "--diff")
    assert broken.read_text() == BROKEN
    assert result.exit_code == 1  # of the file as it stands
    name = str(broken).lstrip("/")
    assert result.stdout.startswith(f"--- a/{name}\n+++ b/{name}\n@@ ")
    changed = [line for line in result.stdout.splitlines()[2:] if line[:1] in "+-"]
    assert changed == [
        "-  bnb_4bit_quant_type: fp4  # four bits",
        "-  bnb_4bit_compute_dtype: float32",
        "+  bnb_4bit_quant_type: nf4  # four bits",
        "+  bnb_4bit_compute_dtype: bfloat16",
        "-lora_alpha: 8",
    ]
    assert "would fix 3 findings" in result.stderr


def test_the_exit_code_is_that_of_what_remains(broken: Path) -> None:
    broken.write_text(BROKEN + "kd_zscore_base_temp: 1.0\n")  # read by nobody; taking it away is unsafe
    assert run(broken, "--fix", "--quiet", "--fail-on", "warning").exit_code == 1
    assert run(broken, "--fix", "--quiet", "--fail-on", "warning", "--unsafe-fixes").exit_code == 0


def test_several_files(broken: Path, tmp_path: Path) -> None:
    other = tmp_path / "native.yaml"
    other.write_text(f"{NATIVE}lora: {{r: 8, r: 16}}\n")
    (tmp_path / "no.yaml").write_text("a: b\n")
    result = run(broken, tmp_path / "no.yaml", other, "--fix", "--format", "json")
    assert (broken.read_text(), other.read_text()) == (SAFE, f"{NATIVE}lora: {{r: 16}}\n")
    assert result.exit_code == 2


def test_suppressed_findings_are_left_alone(broken: Path) -> None:
    broken.write_text(BROKEN.replace("lora_alpha: 32  # this one", "lora_alpha: 32  # qlora-doctor: ignore[QD103] so"))
    run(broken, "--fix")
    assert "lora_alpha: 8\n" in broken.read_text()


@pytest.mark.parametrize("options", [("--fix", "--diff"), ("--unsafe-fixes",), ("--facts", "f.json", "--fix")])
def test_options_that_do_not_go_together(broken: Path, options: tuple[str, ...]) -> None:
    (broken.parent / "f.json").write_text("{}")
    options = tuple(str(broken.parent / each) if each == "f.json" else each for each in options)
    assert run(broken, *options).exit_code == 2
    assert broken.read_text() == BROKEN


# -- files


@pytest.mark.parametrize(
    ("mark", "encoding", "end", "cut"),
    [
        (b"\xef\xbb\xbf", "utf-8", "\n", 0),
        (b"", "utf-8", "\r\n", 0),
        (b"\xff\xfe", "utf-16-le", "\r\n", 0),
        (b"", "utf-8", "\n", 1),
        (b"\xef\xbb\xbf", "utf-8", "\r\n", 2),
    ],
)
def test_encoding_and_line_ends_stay(broken: Path, mark: bytes, encoding: str, end: str, cut: int) -> None:
    def written(text: str) -> bytes:
        text = text.replace("\n", end)
        return mark + text[: len(text) - cut].encode(encoding)

    broken.write_bytes(written(BROKEN))
    assert fix(broken, OPTIONS).write()
    assert broken.read_bytes() == written(SAFE)


def test_mode_and_links_stay(broken: Path, tmp_path: Path) -> None:
    broken.chmod(0o640)
    link = tmp_path / "link.yml"
    link.symlink_to("axolotl.yml")
    assert fix(link, OPTIONS).write()
    assert link.is_symlink()
    assert broken.read_text() == SAFE
    assert stat.S_IMODE(broken.stat().st_mode) == 0o640
    assert sorted(each.name for each in tmp_path.iterdir()) == ["axolotl.yml", "link.yml"]


def test_a_read_only_file_is_not_written(broken: Path) -> None:
    broken.chmod(0o444)
    result = run(broken, "--fix")
    assert result.exit_code == 2
    assert "read-only" in result.stderr
    assert broken.read_text() == BROKEN
    assert run(broken, "--diff").stdout.startswith("--- a/")


def test_a_file_that_somebody_else_changes_meanwhile_is_not_written(broken: Path) -> None:
    fixed = fix(broken, OPTIONS)
    broken.write_text(BROKEN + "seed: 1\n")
    with pytest.raises(UsageError, match="meanwhile"):
        fixed.write()
    assert broken.read_text() == BROKEN + "seed: 1\n"


def test_tabs_in_json_stay(tmp_path: Path) -> None:
    text = (
        '{\n\t"model": "x/y",\n\t"quantization": {\n\t\t"load_in_4bit": false,\n\t\t"load_in_8bit": true\n\t},\n'
        '\t"lora": {\n\t\t"r": 8,\n\t\t"r": 16\n\t}\n}'
    )
    path = tmp_path / "c.json"
    path.write_text(text)
    fix(path, OPTIONS).write()
    assert path.read_text() == text.replace('"r": 8,\n\t\t', "")


def test_fixes_that_undo_each_other_come_to_an_end(
    broken: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Two rules of one's own that want opposite things."""
    rules = tmp_path / "rules"
    rules.mkdir()
    page = (Path(qlora_doctor.run.fixing.__file__).parents[2] / "rules" / "QD207-fp4-quant-type.md").read_text()
    mine = (
        page.replace("QD207", "QD991")
        .replace("fp4-quant-type", "wants-fp4")
        .replace('config.quant_type == "fp4"', 'config.quant_type == "nf4"')
        .replace("value: nf4", "value: fp4")
    )
    assert mine != page
    (rules / "QD991-wants-fp4.md").write_text(mine)
    fixed = fix(broken, CheckOptions(stages=("config",), cache=False, rules=(rules,)))
    assert not fixed.settled
    assert "bnb_4bit_compute_dtype: bfloat16" in fixed.after
