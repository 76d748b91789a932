"""Files made to hurt: each is read, or refused in a sentence, within five seconds and 500 MB."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

resource = pytest.importorskip("resource")

ROOT = Path(__file__).parents[2]
SECONDS, MEGABYTES = 5.0, 500
AXOLOTL = "base_model: x/y\nadapter: qlora\nmicro_batch_size: 1\n"
BOMB = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30))
FILES: dict[str, Callable[[], str]] = {
    "aliases.yaml": lambda: BOMB,
    "merges.yaml": lambda: "a0: &a0 {x: 1}\n"
    + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 3000)),
    "deep.yaml": lambda: "[" * 1_000_000,
    "deep-block.yaml": lambda: "".join(" " * i + "a:\n" for i in range(2000)),
    "deep.json": lambda: '{"a":' * 500_000,
    "deep.toml": lambda: "a = " + "[" * 100_000,
    "dotted.toml": lambda: "a" + ".a" * 20_000 + " = 1",
    "tables.toml": lambda: "".join(f"[[a.b{i}.c]]\n" for i in range(40_000)),
    "deep.ipynb": lambda: '{"nbformat": 4, "cells": ' + "[" * 100_000,
    "cells.ipynb": lambda: json.dumps(
        {"nbformat": 4, "cells": [{"cell_type": "code", "source": "x = LoraConfig(r=1)"}] * 40_000}
    ),
    "deep.py": lambda: "from peft import LoraConfig\nLoraConfig(r=" + "(" * 100_000,
    "calls.py": lambda: "from peft import LoraConfig\n" + "x = LoraConfig(r=x)\n" * 20_000,
    "digits.json": lambda: '{"model": "x", "lora": {"r": ' + "9" * 1_000_000 + "}}",
    "digits.yaml": lambda: "model: x\nlora: {r: " + "9" * 1_000_000 + "}\n",
    "sexagesimal.yaml": lambda: "model: x\nlora: {r: 1" + ":59" * 300_000 + "}\n",
    "long-text.yaml": lambda: AXOLOTL + "lora_target_modules: '" + "{{<$" * 1_000_000 + "'\n",
    "commas.yaml": lambda: AXOLOTL + "lora_target_modules: [" + "a," * 1_000_000 + "]\n",
    "keys.yaml": lambda: AXOLOTL + "".join(f"learning_ratt{i}: {i}\n" for i in range(100_000)),
    "repeated.json": lambda: "{" + ",".join('"model": "x"' for _ in range(300_000)) + "}",
    "sections.json": lambda: json.dumps({f"lora{i}": {"lora_r": 8, "model": {"name": "x"}} for i in range(50_000)}),
    "template.yaml": lambda: "model: '{{" + "}" * 500_000 + "'\nlora: {r: 8}\n",
    "quotes.sh": lambda: "'\"`" * 150_000,
    "blocks.sh": lambda: "if a; then\n" * 40_000,
    "loops.sh": lambda: "for x in a; do A=1\n" * 20_000 + "python qlora.py --lora_r $A\n",
    "braces.sh": lambda: "python qlora.py --lora_r " + "${A:-" * 100_000,
    "sums.sh": lambda: "A=1\n" + "B=$((" + "(" * 200_000 + "A",
    "arrays.sh": lambda: "A=(x)\n" + 'A+=("${A[@]}")\n' * 60 + 'python qlora.py "${A[@]}"\n',
    "doubling.sh": lambda: "A=xxxxxxxx\n" + "A=$A$A\n" * 60 + "python qlora.py --lora_r $A\n",
    "heredoc.sh": lambda: "cat <<A <<B <<C\n" + "x\n" * 200_000,
    "runs.sh": lambda: "python qlora.py --model_name_or_path x/y --lora_r 8 --bits 4\n" * 8_000,
    "control.yaml": lambda: "model: \x07\x00",
}  # fmt: skip
CHILD = """
import json, resource, sys, time
resource.setrlimit(resource.RLIMIT_CPU, (300, 300))
from pathlib import Path
from qlora_doctor.reading import read_setup
from qlora_doctor.probes.config.conclude import conclude
from qlora_doctor.core.errors import DoctorError
from qlora_doctor.run.checking import check
from tests.child_memory import peak_bytes
for name in sys.argv[1:]:
    begun = time.process_time()
    try:
        check(name, stages=("config",), cache=False)
        end = "read"
    except DoctorError as error:
        end = error.message
    peak = peak_bytes() // 2**20
    print(json.dumps([Path(name).name, time.process_time() - begun, peak, end]), flush=True)
"""


@pytest.mark.slow
def test_no_file_takes_long_or_much(tmp_path: Path) -> None:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text(), "utf-8")
    names = [str(tmp_path / name) for name in FILES]  # one process: starting it anew for each would take the most time
    done = subprocess.run([sys.executable, "-c", CHILD, *names], capture_output=True, text=True, cwd=ROOT)
    ended = [json.loads(line) for line in done.stdout.splitlines()]
    assert [name for name, *_ in ended] == list(FILES), done.stderr[-2000:]
    over = [(name, seconds, peak) for name, seconds, peak, _ in ended if seconds > SECONDS or peak > MEGABYTES]
    assert not over
    assert all("\n" not in end and end for *_, end in ended)
