"""Code that comes with a model, a checkpoint or a config does not run by being checked."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("bitsandbytes")

from tests.robustness.conftest import Ran  # noqa: E402

_MODULE = """
from pathlib import Path
Path({mark!r}).write_text("ran")
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

class OwnConfig(LlamaConfig):
    model_type = "own-llama"

class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig

class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """A file that is there once planted code ran."""
    return tmp_path / "code-ran"


class _Runs:
    """Unpickled without care, it writes the mark."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> Any:
        return Path.write_text, (self._mark, "ran")


@pytest.fixture
def own_code(copied: Path, mark: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model whose architecture is a module in its folder."""
    monkeypatch.setenv("HF_MODULES_CACHE", str(mark.parent / "modules"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(mark.parent / "modules"))
    (copied / "own.py").write_text(_MODULE.format(mark=str(mark)))
    config = json.loads((copied / "config.json").read_text())
    config |= {
        "model_type": "own-llama",
        "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"},
    }
    (copied / "config.json").write_text(json.dumps(config))
    return copied


def test_code_of_the_model_is_not_run(
    own_code: Path, mark: Path, doctor: Callable[..., Ran], config_for: Callable[..., Path]
) -> None:
    ran = doctor(config_for(own_code))
    assert not mark.exists()
    assert ran.code == 1 and ran.rules == {"QD219"}
    assert "--trust-remote-code" in ran.stages["structure"]["remedy"]


def test_a_config_cannot_allow_it(
    own_code: Path, mark: Path, doctor: Callable[..., Ran], config_for: Callable[..., Path]
) -> None:
    """A config that was handed over must not run code by being checked."""
    config = config_for(own_code, model={"name_or_path": str(own_code), "trust_remote_code": True})
    ran = doctor(config)
    assert not mark.exists()
    assert ran.code == 0 and not ran.rules
    assert {f["rule"] for f in ran.report["findings"]} == {"QD906"}
    assert doctor(config, "--stage", "load").code == 3 and not mark.exists()


def test_the_command_line_can(
    own_code: Path, mark: Path, doctor: Callable[..., Ran], config_for: Callable[..., Path]
) -> None:
    config = config_for(own_code, model={"name_or_path": str(own_code), "trust_remote_code": True})
    ran = doctor(config, "--trust-remote-code", "--stage", "structure,load,step")
    assert mark.exists()
    assert ran.code == 0 and not ran.rules, ran.stdout
    assert ran.report["facts"]["model"]["remote_code"] is True


def test_code_beside_an_architecture_that_is_known(
    copied: Path, mark: Path, doctor: Callable[..., Ran], config_for: Callable[..., Path]
) -> None:
    """transformers has the class itself: it is used, and the folder's code is left alone."""
    (copied / "own.py").write_text(_MODULE.format(mark=str(mark)))
    for name, entry in (
        ("config.json", {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}),
        ("tokenizer_config.json", {"AutoTokenizer": ["own.OwnTokenizer", "own.OwnTokenizer"]}),
    ):
        document = json.loads((copied / name).read_text()) | {"auto_map": entry}
        (copied / name).write_text(json.dumps(document))
    doctor(config_for(copied, model={"name_or_path": str(copied), "trust_remote_code": True}))
    assert not mark.exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00001.bin", "model.pt"])
def test_a_pickled_checkpoint_is_not_opened(
    name: str, copied: Path, mark: Path, doctor: Callable[..., Ran], config_for: Callable[..., Path]
) -> None:
    (copied / "model.safetensors").unlink()
    (copied / name).write_bytes(pickle.dumps({"model.norm.weight": _Runs(mark)}))
    ran = doctor(config_for(copied, model={"name_or_path": str(copied), "use_safetensors": False}), "--stage", "load")
    assert not mark.exists()
    assert ran.code == 3 and ran.rules == {"QD224"}
    assert "pickle" in ran.stages["load"]["reason"] and "safetensors" in ran.stages["load"]["remedy"]


def test_a_pickle_beside_the_weights_is_not_opened(
    copied: Path, mark: Path, doctor: Callable[..., Ran], config_for: Callable[..., Path]
) -> None:
    (copied / "pytorch_model.bin").write_bytes(pickle.dumps({"model.norm.weight": _Runs(mark)}))
    extra = {"use_safetensors": False, "weights_only": False}
    doctor(config_for(copied, model={"name_or_path": str(copied), **extra}))
    assert not mark.exists()


@pytest.mark.parametrize("name", ["adapter_model.bin", "training_args.bin", "optimizer.pt"])
def test_a_pickled_adapter_runs_nothing(
    name: str, tiny_llama: Path, tmp_path: Path, mark: Path, doctor: Callable[..., Ran], config_for: Callable[..., Path]
) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    settings = {"peft_type": "LORA", "r": 8, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    (adapter / name).write_bytes(pickle.dumps({"x": _Runs(mark)}))
    model = {"name_or_path": str(tiny_llama), "adapter": str(adapter), "adapter_is_trainable": True}
    ran = doctor(config_for(tiny_llama, model=model), "--stage", "step")
    assert not mark.exists()
    assert ran.code == 3 and ran.stages["step"]["status"] == "failed" and "Traceback" not in ran.stderr
    sentence = "holds more than tensors" if name == "adapter_model.bin" else "holds no adapter weights"
    assert sentence in ran.stages["step"]["reason"] and ran.stages["step"]["remedy"]
    assert ran.rules == {"QD426"} and ran.stages["load"]["status"] == "done"


def test_data_that_is_a_program(
    tiny_llama: Path, tmp_path: Path, mark: Path, doctor: Callable[..., Ran], config_for: Callable[..., Path]
) -> None:
    (tmp_path / "train.py").write_text(f"open({str(mark)!r}, 'w')")
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "rows.py").write_text(f"open({str(mark)!r}, 'w')")
    for name in ("train.py", "rows"):
        ran = doctor(config_for(tiny_llama, data={"train": name}), "--stage", "data")
        assert not mark.exists() and ran.code == 3 and ran.stages["data"]["remedy"]


def test_a_chat_template_is_no_program(
    tiny_llama: Path, tmp_path: Path, mark: Path, doctor: Callable[..., Ran], config_for: Callable[..., Path]
) -> None:
    from tests.models import make_data

    make_data(tmp_path / "train.jsonl", "messages")
    reach = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    template = reach + "{{ cycler.__init__.__globals__.os.system('touch MARK') }}".replace("MARK", str(mark))
    data = {"train": "train.jsonl", "format": "messages", "chat_template": template}
    ran = doctor(config_for(tiny_llama, data=data), "--stage", "data")
    assert not mark.exists() and ran.code == 3 and ran.stages["data"]["status"] == "failed"
