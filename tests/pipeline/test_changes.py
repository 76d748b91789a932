"""What a script does with its model and tokenizer, made by the pipeline: the tensors that the script itself leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qlora_doctor.core.errors import StageError
from qlora_doctor.pipeline import attach, build_base, load_config, load_tokenizer, prepare
from qlora_doctor.reading.dialects import read_setup
from qlora_doctor.setup.setup import Setup
from tests.models import make_model

SCRIPT = """\
import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, Trainer, TrainingArguments

tokenizer = AutoTokenizer.from_pretrained("model")
if tokenizer.pad_token is None:
    tokenizer.pad_token = tokenizer.eos_token
tokenizer.padding_side = "left"
tokenizer.add_tokens(["<one>", "<two>"])
tokenizer.add_special_tokens({"pad_token": "<the-pad>"})
model = AutoModelForCausalLM.from_pretrained(
    "model", torch_dtype=torch.bfloat16, quantization_config=BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16))
model.resize_token_embeddings(len(tokenizer))
model.config.pad_token_id = tokenizer.pad_token_id
model = prepare_model_for_kbit_training(model)
model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], use_dora=True))
for name, module in model.named_modules():
    if "norm" in name:
        module = module.to(torch.float16)
for name, param in model.named_parameters():
    if param.requires_grad and "lora_A" not in name:
        param.data = param.data.to(torch.bfloat16)
    if "embed_tokens" in name:
        param.requires_grad = True
"""
TRAIN = 'Trainer(model=model, args=TrainingArguments(output_dir="o")).train()\n'


def picture(model: Any) -> dict[str, tuple[str, tuple[int, ...], bool]]:
    return {n: (str(p.dtype), tuple(p.shape), p.requires_grad) for n, p in model.named_parameters()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("script")
    make_model(folder / "model", "llama")
    (folder / "train.py").write_text(SCRIPT + TRAIN)
    return folder


def built(setup: Setup, device: str) -> Any:
    base = build_base(setup, device)
    prepare(base, setup)
    return attach(base, setup)


def test_the_real_stages_build_what_the_script_builds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = read_setup(folder / "train.py")
    assert not setup.not_followed
    monkeypatch.chdir(folder)
    own: dict[str, Any] = {}
    exec(SCRIPT, own)  # the test's own script, which knows nothing of the pipeline
    expected = picture(own["model"])
    assert picture(built(setup, "cpu")) == expected
    tokenizer = load_tokenizer(setup, load_config(setup))
    assert tokenizer is not None
    assert (len(tokenizer), tokenizer.pad_token, tokenizer.padding_side) == (len(own["tokenizer"]), "<the-pad>", "left")


def test_the_meta_device_builds_the_same(folder: Path) -> None:
    setup = read_setup(folder / "train.py")
    real, meta = picture(built(setup, "cpu")), picture(built(setup, "meta"))
    assert meta == real
    assert built(setup, "meta").config.pad_token_id == len(load_tokenizer(setup, load_config(setup)) or []) - 1


def test_a_change_that_fails_is_told_with_its_line(folder: Path) -> None:
    text = SCRIPT.replace("model.resize", "model.to(torch.bfloat16)\nmodel.resize")
    (folder / "cast.py").write_text(text + TRAIN)
    setup = read_setup(folder / "cast.py")
    with pytest.raises(StageError) as caught:
        built(setup, "cpu")
    assert "What the script does with the model fails" in str(caught.value)
    assert caught.value.place is not None
    assert caught.value.place.line == SCRIPT.split("\n").index("model.resize_token_embeddings(len(tokenizer))") + 1
