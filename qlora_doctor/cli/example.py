"""An embedded example: a small causal LM with a trained tokenizer, data, and two setups, one healthy and one broken.

Everything is made on the spot, so that ``qlora-doctor demo`` needs no network, no GPU and no account.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SILENT = '''\
"""Trains an adapter on a 4-bit base, with a loop of its own. It runs to its end, and nothing is learned."""

import json
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

here = Path(__file__).parent
tokenizer = AutoTokenizer.from_pretrained(here / "model")
quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
model = AutoModelForCausalLM.from_pretrained(here / "model", quantization_config=quantization, device_map={"": "cpu"})
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4)

model = prepare_model_for_kbit_training(model)
model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
model.train()

rows = [json.loads(line)["messages"] for line in (here / "train.jsonl").read_text(encoding="utf-8").splitlines()[:4]]
text = [tokenizer.apply_chat_template(row, tokenize=False) for row in rows]
batch = tokenizer(text, return_tensors="pt", padding=True, truncation=True, max_length=128, add_special_tokens=False)
labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
for step in range(4):
    loss = model(**batch, labels=labels).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    print(f"step {step + 1}: loss {loss.item():.3f}")
model.save_pretrained(here / "adapter")
print("done")
'''
"""The optimizer is made before the adapter is there, so that it holds none of its tensors; nothing complains."""
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]


@dataclass(frozen=True)
class Demo:
    """Where the example stands."""

    folder: Path
    healthy: Path
    broken: Path
    silent: Path
    """A script that trains to its end and learns nothing."""
    large: Path
    """A real model on a card that it does not fit."""


def make(folder: Path) -> Demo:
    """Write model, data and the two configs below a folder; what is there already is kept.

    The model is a Llama of about 5 million parameters with random weights: memory, gradients and bookkeeping do not
    depend on what it knows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = _texts()
    if not (folder / "model" / "model.safetensors").exists():
        _make_model(folder / "model", texts)
    _make_data(folder / "train.jsonl", texts)
    _make_instructions(folder / "instructions.jsonl", texts)
    silent, large = folder / "silent.py", folder / "large.yaml"
    silent.write_text(SILENT, encoding="utf-8")
    large.write_text(large_config(), encoding="utf-8")
    healthy, broken = folder / "healthy.json", folder / "broken.json"
    return Demo(folder, _write(healthy, healthy_config()), _write(broken, broken_config()), silent, large)


def healthy_config() -> dict[str, Any]:
    """The setup that the QLoRA paper describes, sized for the small model."""
    return {
        "model": "model",
        "quantization": {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": "bfloat16",
        },
        "lora": {
            "r": 16,
            "lora_alpha": 32,
            "lora_dropout": 0.05,
            "target_modules": "all-linear",
            "task_type": "CAUSAL_LM",
        },
        "training": {
            "per_device_train_batch_size": 2,
            "learning_rate": 2e-4,
            "bf16": True,
            "gradient_checkpointing": True,
            "gradient_checkpointing_kwargs": {"use_reentrant": False},
            "max_length": 128,
        },
        "data": {"train": "train.jsonl", "format": "messages"},
    }


def broken_config() -> dict[str, Any]:
    """Mistakes that no library stops: names of another architecture among the targets, the library's default 4-bit
    type, a misspelt rate, and prompts that fill the whole length, so that no label is left to learn from."""
    config = healthy_config()
    config["quantization"] = {"load_in_4bit": True}
    config["lora"] |= {"target_modules": ["q_proj", "v_proj", "query_key_value", "fc1"], "lora_alpha": 256}
    rate = config["training"].pop("learning_rate")
    config["training"] |= {"trainer": "trl", "max_length": 32, "learning_rates": rate}
    config["data"] = {"train": "instructions.jsonl", "format": "prompt-completion"}
    return config


def large_config() -> str:
    """Llama-3.1-8B on a card of 24 GB with long samples, as `qlora-doctor init` writes it but for batch and length."""
    from ..writing.starter import starter_config

    text = starter_config("meta-llama/Llama-3.1-8B", "rtx-4090", file="large.yaml")
    text = text.replace("per_device_train_batch_size: 1", "per_device_train_batch_size: 4")
    return text.replace("max_length: 1024", "max_length: 4096")


def _texts() -> list[tuple[str, str]]:
    """Questions and answers to train the tokenizer on: the titles and first paragraphs of the rule pages."""
    from ..core.assets import asset_folder
    from ..engine import load_rules

    pairs = []
    for rule in load_rules(asset_folder("rules")):
        checks = rule.sections["What it checks"].strip()
        why = rule.sections["Why it matters"].strip()
        pairs += [(f"What does {rule.id} check?", checks), (f"Why does {rule.name} matter?", why)]
    return pairs


def _make_model(folder: Path, texts: list[tuple[str, str]]) -> None:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([part for pair in texts for part in pair], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=2048,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=4096,
                hidden_size=256,
                intermediate_size=704,
                num_hidden_layers=4,
                num_attention_heads=8,
                num_key_value_heads=4,
                max_position_embeddings=2048,
                bos_token_id=None,
                eos_token_id=fast.eos_token_id,
                pad_token_id=fast.pad_token_id,
                tie_word_embeddings=False,
                dtype="bfloat16",
            )
        )
    model.to(torch.bfloat16).save_pretrained(folder)
    fast.save_pretrained(folder)


def _make_data(path: Path, texts: list[tuple[str, str]]) -> None:
    rows = [
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
        for question, answer in texts
    ]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _make_instructions(path: Path, texts: list[tuple[str, str]]) -> None:
    """The same questions after a preamble, as instruction templates put one before every prompt."""
    preamble = (
        "You are given a question about training adapters on a quantized base. Read it with care and write an answer "
        "that is short, true and complete, in whole sentences.\n\n### Question:\n{}\n\n### Answer:\n"
    )
    rows = [{"prompt": preamble.format(question), "completion": answer} for question, answer in texts]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _write(path: Path, config: dict[str, Any]) -> Path:
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return path
