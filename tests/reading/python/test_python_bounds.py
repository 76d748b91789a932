"""Any bytes and any program: read within bounds, never a crash, and nothing in it is run."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qlora_doctor.core.errors import ConfigError
from qlora_doctor.probes.config.conclude import conclude
from qlora_doctor.reading import Setup, read_setup
from qlora_doctor.reading.dialects import dialect_named
from qlora_doctor.reading.document import Document
from tests.reading.python.scripts import ARGPARSE, CLASS_BASED, DATACLASS, TUTORIAL, UNSLOTH, notebook

ROOT = Path(__file__).parents[3]
SCRIPTS = (TUTORIAL, ARGPARSE, DATACLASS, CLASS_BASED, UNSLOTH)


def read_text(text: str, dialect: str = "python") -> Setup | None:
    """The Setup of a script; None where it is refused in words."""
    try:
        setup = dialect_named(dialect).read(Document(Path("train.py"), text, "text", None))
    except ConfigError as error:
        assert str(error)
        return None
    conclude(setup, None)
    setup.model_dump_json()
    return setup


# -- any bytes


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("b") / "train.py"
    path.write_bytes(b"from peft import LoraConfig  # from_pretrained(\n" + content)
    with contextlib.suppress(ConfigError):
        read_setup(path)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SCRIPTS), st.data())
def test_damaged_scripts(script: str, data: st.DataObject) -> None:
    """Lines lost, doubled and swapped: mostly valid Python that means something else."""
    lines = script.split("\n")
    for _ in range(data.draw(st.integers(1, 6))):
        at, other = (data.draw(st.integers(0, len(lines) - 1)) for _ in range(2))
        what = data.draw(st.sampled_from(["drop", "double", "swap", "indent"]))
        if what == "drop" and len(lines) > 1:
            lines.pop(at)
            continue
        if what == "double":
            lines.insert(other, lines[at])
        elif what == "swap":
            lines[at], lines[other] = lines[other], lines[at]
        else:
            lines[at] = "    " + lines[at]
        lines = lines or [""]
    read_text("\n".join(lines))


# -- any program

_NAMES = st.sampled_from(["a", "b", "model", "args", "config", "f", "self", "torch", "kwargs", "BITS", "print"])
_FUNCTIONS = st.sampled_from(
    ["LoraConfig", "BitsAndBytesConfig", "AutoModelForCausalLM.from_pretrained", "get_peft_model", "TrainingArguments",
     "prepare_model_for_kbit_training", "Trainer", "SFTTrainer", "SFTConfig", "dict", "getattr", "f", "C", "unseen",
     "FastLanguageModel.from_pretrained", "FastLanguageModel.get_peft_model", "a.update", "a.append", "model.train",
     "HfArgumentParser", "argparse.ArgumentParser", "a.parse_args_into_dataclasses", "a.add_argument", "a.parse_args",
     "setattr", "PeftModel.from_pretrained", "a.pop", "len", "int", "','.join", "super", "vars", "list", "a.get"]
)  # fmt: skip
_ATOMS = st.one_of(
    _NAMES,
    st.sampled_from(
        ["1", "2e-4", "True", "None", "'q_proj'", "'nf4'", "b'x'", "...", "1j", "-1", "torch.bfloat16", "4 ** 9"]
    ),
)


def _wider(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    operators = st.sampled_from(
        ["+", "-", "*", "/", "//", "%", "**", "|", "and", "or", "==", "in", "is not", ">=", "@", "<<"]
    )
    named = st.tuples(
        st.sampled_from(["r", "model", "args", "load_in_4bit", "quantization_config", "peft_config", "default"]), inner
    ).map("=".join)
    arguments = st.lists(st.one_of(inner, named, inner.map("**{}".format), inner.map("*{}".format)), max_size=4)
    ordered = arguments.map(lambda parts: sorted(parts, key=lambda part: ("=" in part[:22], part.startswith("**"))))
    return st.one_of(
        st.tuples(inner, operators, inner).map(lambda parts: f"({' '.join(parts)})"),
        st.tuples(_FUNCTIONS, ordered).map(lambda call: f"{call[0]}({', '.join(call[1])})"),
        st.lists(inner, max_size=3).map(lambda parts: f"[{', '.join(parts)}]"),
        st.lists(st.tuples(inner, inner).map(": ".join), max_size=3).map(lambda parts: "{" + ", ".join(parts) + "}"),
        st.tuples(inner, inner, inner).map("({0[0]} if {0[1]} else {0[2]})".format),
        st.tuples(inner, st.sampled_from(["r", "config", "dtype", "use_cache", "__dict__"])).map(
            "({0[0]}).{0[1]}".format
        ),
        st.tuples(inner, inner).map("({0[0]})[{0[1]}]".format),
        inner.map("(lambda a, *b, c=1, **d: {})".format),
        inner.map("[{} for a in b if a]".format),
        inner.map("f'x{{{}}}'".format),
        inner.map("(not {})".format),
        inner.map("(a := {})".format),
    )


_EXPRESSIONS = st.recursive(_ATOMS, _wider, max_leaves=8)
_TARGETS = st.sampled_from(
    ["a", "model", "args.r", "config['x']", "a, b", "a, *b", "model.config.use_cache", "[a, b]", "C.r"]
)


def _indented(lines: list[str]) -> str:
    return "\n".join("    " + line for part in (lines or ["pass"]) for line in part.split("\n"))


def _blocks(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    body = st.lists(inner, max_size=3).map(_indented)
    return st.one_of(
        st.tuples(_EXPRESSIONS, body, body).map("if {0[0]}:\n{0[1]}\nelse:\n{0[2]}".format),
        st.tuples(_TARGETS, _EXPRESSIONS, body).map("for {0[0]} in {0[1]}:\n{0[2]}".format),
        st.tuples(_EXPRESSIONS, body).map("while {0[0]}:\n{0[1]}".format),
        st.tuples(body, body).map("try:\n{0[0]}\nexcept (ValueError, a) as b:\n{0[1]}\nfinally:\n    pass".format),
        st.tuples(_EXPRESSIONS, body).map("with {0[0]} as a:\n{0[1]}".format),
        st.tuples(_EXPRESSIONS, body).map("def f(self, a={0[0]}, *b, r, **kwargs):\n{0[1]}".format),
        st.tuples(_EXPRESSIONS, body).map("@{0[0]}\n@property\ndef f(model, a=1):\n{0[1]}".format),
        st.tuples(_EXPRESSIONS, body).map("@dataclass\nclass C(f, {0[0]}):\n    r: int = {0[0]}\n{0[1]}".format),
        st.tuples(_EXPRESSIONS, body).map(
            "match {0[0]}:\n    case [1, *b]:\n        pass\n    case _:\n        a = 2".format
        ),
    )


_SIMPLE = st.one_of(
    st.tuples(_TARGETS, _EXPRESSIONS).map(" = ".join),
    st.tuples(st.sampled_from(["a", "args.r", "config['x']"]), _EXPRESSIONS).map(" += ".join),
    _EXPRESSIONS,
    _EXPRESSIONS.map("return {}".format),
    st.sampled_from(
        ["break", "continue", "global a", "del a", "raise a", "from x import *", "import torch as a", "yield a"]
    ),
)
_PROGRAMS = st.lists(st.recursive(_SIMPLE, _blocks, max_leaves=10), min_size=1, max_size=12).map("\n".join)


@settings(max_examples=150, deadline=None)
@given(_PROGRAMS)
def test_any_program(program: str) -> None:
    read_text(program)
    read_text(f"def main():\n{_indented([program])}\nmain()\nTrainer(model=model, args=args).train()")


# -- nothing is run


def test_nothing_is_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    (tmp_path / "evil.py").write_text(f"open({str(mark)!r}, 'w')\n")
    touch = f"open({str(mark)!r}, 'w')"
    text = f"""\
import sys, os, pickle, evil
sys.path.insert(0, {str(tmp_path)!r})
from evil import *
import evil as other
__import__("evil")
os.system("touch {mark}")
exec({touch!r})
eval({touch!r})
x = [{touch} for _ in range(1)]
y = f"{{{touch}}}"
@(lambda f: {touch})
def g(a={touch}):
    return {touch}
class M(type):
    def __new__(c, *a):
        {touch}
class C(metaclass=M):
    r = {touch}
    def __init_subclass__(cls):
        {touch}
    def __getattr__(self, name):
        return {touch}
class D(C):
    pass
getattr(os, "system")("touch {mark}")
C().r
pickle.loads(b"cos\\nsystem\\n(S'touch {mark}'\\ntR.")
assert {touch}
g()
"""
    for name, content in (
        ("train.py", text + TUTORIAL),
        ("train.ipynb", notebook("!touch " + str(mark), text, TUTORIAL)),
    ):
        (tmp_path / name).write_text(content)
        assert read_setup(tmp_path / name).lora.r == 64
    assert not mark.exists()
    assert "evil" not in sys.modules


# -- bounds

BOMBS = {
    "deep brackets": "x = " + "[" * 3_000 + "]" * 3_000,
    "deep calls": "x = " + "f(" * 90 + ")" * 90,
    "deep attributes": "x = a" + ".b" * 20_000,
    "deep not": "x = " + "not " * 20_000 + "a",
    "long sum": "x = " + " + ".join(["1"] * 60_000),
    "long text sum": "x = " + " + ".join(["'aaaaaaaa'"] * 30_000),
    "long comparison": "x = " + " < ".join(["a"] * 50_000),
    "doubling list": "x = [1]\n" + "x = x + x\n" * 5_000,
    "doubling text": "x = 'ab'\n" + "x = x + x\n" * 5_000,
    "doubling through names": "x0 = LoraConfig(r=1)\n" + "".join(f"x{i + 1} = [x{i}, x{i}]\n" for i in range(5_000)),
    "doubling calls": "x0 = LoraConfig(r=1)\n"
    + "".join(f"x{i + 1} = LoraConfig(a=x{i}, b=x{i})\n" for i in range(3_000)),
    "nested target modules": "x = ['q']\n" + "x = [x] * 9 + [x, x, x]\n" * 30 + "LoraConfig(target_modules=x)\n",
    "doubling dict": "x = {}\n" + "x = {'a': x, 'b': x, **x}\n" * 5_000,
    "power": "x = 10\n" + "x = x ** x\n" * 100 + "y = 9 ** 9 ** 9 ** 9",
    "shift and repeat": "x = 1 << 10 ** 9\ny = 'a' * 10 ** 10\nz = [0] * 10 ** 10\nb = b'a' * 10 ** 10\n",
    "format": "x = '%999999999d' % 1\ny = f'{1:999999999}'\nz = '{:999999999}'.format(1)\nw = b'%9999999d' % 1\n",
    "replace": "x = 'a' * 20000\n" + "x = x.replace('a', x)\n" * 50,
    "join": "x = ['a' * 20000] * 1\n" + "y = ('b' * 20000).join(x + x + x)\n" * 2_000,
    "recursion": "def f(n):\n    return f(n - 1) + f(n - 2)\nf(99)\n" * 200,
    "mutual recursion": "def f(n):\n    return g(n) + g(n)\ndef g(n):\n    return f(n) + f(n)\nf(3)\n",
    "exponential calls": "def f0():\n    return 1\n"
    + "".join(f"def f{i + 1}():\n    return f{i}() + f{i}()\n" for i in range(60))
    + "f60()\n",
    "exponential branches": "".join(f"if unseen({i}):\n    a{i} = {i}\nelse:\n    b = {i}\n" for i in range(8_000)),
    "nested branches": "".join("    " * i + f"if u{i}:\n" for i in range(90)) + "    " * 90 + "a = 1\n",
    "many names and branches": "".join(f"n{i} = {i}\n" for i in range(12_000)) + "if unseen:\n    a = 1\n" * 12_000,
    "elif chain": "if u0:\n    a = 0\n" + "".join(f"elif u{i}:\n    a = {i}\n" for i in range(3_000)),
    "loops in loops": "".join("    " * i + f"for i{i} in range(9):\n" for i in range(18)) + "    " * 18 + "a = 1\n",
    "endless loop": "while True:\n    x = x + [x]\n",
    "inheritance": "class C0:\n    r = 1\n"
    + "".join(f"class C{i + 1}(C{i}, C{i}):\n    pass\n" for i in range(200))
    + "C200().missing\n" * 200,
    "self inheritance": "class C(C):\n    def f(self):\n        return self.f()\nC().f()\n" * 100,
    "large dataclass": "@dataclass\nclass A:\n"
    + "".join(f"    a{i}: int = {i}\n" for i in range(5_000))
    + "A()\n" * 500,
    "uncalled functions": "".join(
        f"def f{i}(m):\n    g = LoraConfig(r={i})\n    return f{i - 1}(m)\n" for i in range(3_000)
    ),
    "decorators": "@a\n" * 3_000 + "def f():\n    pass\n",
    "long line": "x = '" + "a" * 500_000 + "'\n",
    "many lines": "\n" * 500_000,
    "too long": "x = 1\n" * 200_000,
    "lambda nest": "x = " + "(lambda: " * 80 + "1" + ")()" * 80,
    "string escapes": "x = '" + "\\u1234" * 50_000 + "'\n",
    "arguments": "".join(f"p.add_argument('--a{i}', default={i})\n" for i in range(8_000)),
    "keyword spread": "k = dict(a=1)\n" + "k = dict(k, **k)\n" * 3_000 + "f(**k)\n" * 3_000,
    "star arguments": "a = [1]\n" + "a = [*a, *a]\n" * 3_000 + "f(*a)\n" * 3_000,
    "models in branches": "".join(
        f"if u{i}:\n    m = get_peft_model(m, LoraConfig(r={i}))\nelse:\n    m = prepare_model_for_kbit_training(m)\n"
        for i in range(1_500)
    ),
}

_MEASURE = """\
import json, sys, time
from pathlib import Path
from qlora_doctor.reading.dialects import dialect_named
from qlora_doctor.reading.document import Document
from qlora_doctor.core.errors import ConfigError
from tests.child_memory import peak_bytes
python = dialect_named("python")
text = "from peft import LoraConfig\\n" + json.load(sys.stdin)
started = time.perf_counter()
try:
    python.read(Document(Path("train.py"), text, "text", None))
except ConfigError:
    pass
print(time.perf_counter() - started, peak_bytes())
"""


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_end_within_bounds(bomb: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE],
        input=json.dumps(BOMBS[bomb]),
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-500:]
    seconds, taken = map(float, done.stdout.split())
    assert seconds < 5
    assert taken < 500e6


# -- what lies beside the script

BESIDE: dict[str, dict[str, str]] = {
    "many modules": {
        "train.py": "import m0\n" + "".join(f"import m{i}\n" for i in range(200)),
        **{f"m{i}.py": f"import m{i + 1}\nx = [1]\n" + "x = x + x\n" * 200 for i in range(200)},
    },
    "modules in a circle": {
        "train.py": "from a import *\n",
        "a.py": "from b import *\nfrom a import *\n" * 500,
        "b.py": "from a import *\nfrom . import b\n" * 500,
    },
    "endless module": {"train.py": "from a import x\nLoraConfig(r=x)\n", "a.py": "while True:\n    x = x + [x]\n" * 50},
    "deep modules": {"train.py": "import a\n", "a.py": "x = " + "[" * 3_000 + "]" * 3_000},
    "large yaml": {
        "train.py": "import yaml\nc = yaml.safe_load(open('c.yaml'))\n" * 50,
        "c.yaml": "".join(f"k{i}: {{a: [1, 2, 3], b: {i}}}\n" for i in range(20_000)),
    },
    "aliases": {
        "train.py": "import yaml\nc = yaml.safe_load(open('c.yaml'))\nLoraConfig(r=c['z'])\n",
        "c.yaml": "a0: &a0 [1, 1]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}, *a{i}]\n" for i in range(40)),
    },
    "interpolation without end": {
        "train.py": "from omegaconf import OmegaConf\nc = OmegaConf.load('c.yaml')\nLoraConfig(r=c.a)\n",
        "c.yaml": "a: ${b}${b}\nb: ${a}${a}\nc: ${c}\n",
    },
    "many starts": {
        "train.py": "import argparse\np = argparse.ArgumentParser()\n"
        + "".join(f"p.add_argument('--a{i}')\n" for i in range(500))
        + "a = p.parse_args()\n",
        **{f"run{i}.sh": "python train.py " + " ".join(f"--a{j} {i}" for j in range(500)) for i in range(60)},
    },
    "newer f-strings": {"train.py": "x = " + "f'{" * 200 + "1" + "}'" * 200 + "\n" + "y = f'{a['b']}'\n" * 3_000},
}
_MEASURE_FILE = """\
import sys, time
from pathlib import Path
from qlora_doctor.core.errors import ConfigError
from qlora_doctor.reading.dialects import read_setup
from tests.child_memory import peak_bytes
started = time.process_time()
try:
    read_setup(Path(sys.argv[1]), dialect="python")
except ConfigError:
    pass
print(time.process_time() - started, peak_bytes())
"""


@pytest.mark.parametrize("name", BESIDE)
def test_neighbours_end_within_bounds(name: str, tmp_path: Path) -> None:
    for file, text in BESIDE[name].items():
        head = "from peft import LoraConfig, get_peft_model\n" if file == "train.py" else ""
        (tmp_path / file).write_text(head + text)
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE_FILE, str(tmp_path / "train.py")],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-500:]
    seconds, taken = map(float, done.stdout.split())
    assert seconds < 10
    assert taken < 500e6


def test_odd_neighbours(tmp_path: Path) -> None:
    """Pipes, loops of links, folders and broken text where a file is asked for."""
    import os

    os.mkfifo(tmp_path / "pipe.py")
    os.mkfifo(tmp_path / "c.yaml")
    (tmp_path / "loop.py").symlink_to(tmp_path / "loop.py")
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "bytes.py").write_bytes(b"\xff\xfe\x00x = 1\n")
    (tmp_path / "run.sh").symlink_to("/dev/zero")
    text = "import pipe, loop, folder, bytes, yaml\nfrom . import x\nfrom ..... import y\nimport a" + ".b" * 50 + "\n"
    (tmp_path / "train.py").write_text(text + "c = yaml.safe_load(open('c.yaml'))\n" + TUTORIAL)
    assert read_setup(tmp_path / "train.py").lora.r == 64
