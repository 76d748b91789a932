"""Measure the memory of axolotl's and Unsloth's own code on this machine's GPU, one fresh process a case.

    python benchmarks/memory/measure_engines.py CASES.json --out DIR

``CASES.json`` is one of the recorded files (``kinds_axolotl_h200.json``, ``kinds_unsloth_h200.json``): their cases are
measured again, with the loop of ``measure_kinds.py``. It needs the packages that the file names; of axolotl its
``kernels`` and ``monkeypatch/lora_kernels.py`` are enough. Unsloth is imported before all else.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def axolotl(kinds: Any, case: dict[str, Any], device: Any, result: dict[str, Any]) -> tuple[Any, Any]:
    """The PEFT model of a case as axolotl's loader leaves it: dtypes, losses, kernels."""
    import peft
    import torch
    from transformers import AutoConfig

    folder = tempfile.mkdtemp()
    AutoConfig.for_model(**kinds.ARCHITECTURES[case["model"]]).save_pretrained(folder)
    if case.get("chunked"):
        from axolotl.monkeypatch.loss.chunked import patch_chunked_ce_loss_fn

        patch_chunked_ce_loss_fn()
    if case.get("liger_ax"):
        from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN as APPLY

        APPLY[kinds.ARCHITECTURES[case["model"]]["model_type"]](
            rope=True, rms_norm=True, swiglu=True, cross_entropy=False, fused_linear_cross_entropy=True
        )
    if case.get("kernels", True):
        from axolotl.monkeypatch.lora_kernels import apply_lora_kernel_patches, patch_self_attn_lora
        from axolotl.utils.dict import DictDefault

        told = DictDefault(base_model=folder, lora_mlp_kernel=True, lora_qkv_kernel=True, lora_o_kernel=True)
        patch_self_attn_lora(told)
    if case.get("dora"):
        made = peft.LoraConfig
        peft.LoraConfig = lambda **options: made(**options, use_dora=True)
    model, config = kinds.build(case, False, device, result)
    for name, module in model.named_modules():
        if "norm" in name or (any(part in name for part in ("embed_tokens", "lm_head")) and hasattr(module, "weight")):
            module.to(torch.bfloat16)
    result["adapted_peak"] = torch.cuda.max_memory_allocated()
    if case.get("kernels", True):
        apply_lora_kernel_patches(model=model, cfg=told)
    if case.get("cce"):
        model.get_base_model().forward = _cut_loss.__get__(model.get_base_model())
    return model, config


def _cut_loss(self: Any, input_ids: Any = None, labels: Any = None, num_items_in_batch: Any = None, **more: Any) -> Any:
    from cut_cross_entropy import linear_cross_entropy
    from transformers.modeling_outputs import CausalLMOutputWithPast

    states = self.model(input_ids=input_ids, **more)[0]
    kept = {} if num_items_in_batch is None else {"reduction": "sum"}
    loss = linear_cross_entropy(states, self.lm_head.weight.to(states.dtype), labels, shift=True, impl="cce", **kept)
    return CausalLMOutputWithPast(loss=loss if num_items_in_batch is None else loss / num_items_in_batch)


def unsloth(kinds: Any, case: dict[str, Any], result: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Unsloth's model, its config and its tokenizer; the weights were saved by a process of their own before."""
    import torch
    from unsloth import FastLanguageModel

    folder = Path(tempfile.mkdtemp())
    subprocess.run([sys.executable, __file__, "--save", case["model"], str(folder)], check=True)
    torch.cuda.reset_peak_memory_stats()
    model, words = FastLanguageModel.from_pretrained(str(folder), max_seq_length=case["seq"], load_in_4bit=True)
    result["load_peak"] = torch.cuda.max_memory_allocated()
    model = FastLanguageModel.get_peft_model(
        model, r=case.get("r", 16), target_modules=case["targets"], lora_alpha=16, lora_dropout=case["dropout"],
        bias="none", use_gradient_checkpointing=case["gc"], random_state=3407,
    )  # fmt: skip
    return model, model.config, words


def unsloth_trainer(case: dict[str, Any], model: Any, words: Any, callback: Any) -> Any:
    """trl's SFTTrainer as Unsloth replaces it."""
    import random

    import trl
    from datasets import Dataset

    share = [1, 0.3, 0.7, 0.5] if case.get("padded") else [1.0]
    counts = [max(16, int(case["seq"] * share[place % len(share)])) for place in range(64)]
    rows = Dataset.from_dict({"text": [" ".join(f"w{random.randrange(500)}" for _ in range(n)) for n in counts]})
    more: dict[str, Any] = {}
    if case.get("eval"):
        more = {"eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": case["eval"]}
    arguments = trl.SFTConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=case["bs"], max_steps=3, logging_steps=1,
        gradient_accumulation_steps=case.get("accum", 1), optim=case["optim"], report_to=[], save_strategy="no",
        max_length=case["seq"], dataset_text_field="text", learning_rate=1e-4, bf16=True, **more,
    )  # fmt: skip
    return trl.SFTTrainer(
        model=model, processing_class=words, train_dataset=rows, args=arguments, callbacks=[callback],
        eval_dataset=rows.select(range(case.get("eval_rows", 16))) if case.get("eval") else None,
    )  # fmt: skip


def measured(case: dict[str, Any], architectures: dict[str, Any]) -> dict[str, Any]:
    """One case, in this process."""
    if case["engine"] == "unsloth":
        import unsloth as _  # noqa: F401
    sys.path.insert(0, str(HERE))
    import measure_kinds as kinds

    kinds.ARCHITECTURES.update(architectures)
    words: list[Any] = []
    if case["engine"] == "unsloth":

        def build(case: dict[str, Any], dry: bool, device: Any, result: dict[str, Any]) -> tuple[Any, Any]:
            model, config, tokenizer = unsloth(kinds, case, result)
            words.append(tokenizer)
            return model, config

        kinds.build = build
        kinds.trainer_of = lambda case, model, config, callback, dry: unsloth_trainer(case, model, words[0], callback)
        return kinds.one(case, False, None)
    plain = kinds.build

    def as_axolotl(case: dict[str, Any], dry: bool, device: Any, result: dict[str, Any]) -> tuple[Any, Any]:
        kinds.build = plain
        return axolotl(kinds, case, device, result)

    kinds.build = as_axolotl
    return kinds.one(case, False, None)


def save(name: str, folder: str, architectures: dict[str, Any]) -> None:
    """Random weights of a model, and a tokenizer of a token a word."""
    sys.path.insert(0, str(HERE))
    import measure_kinds as kinds
    import torch
    import transformers

    with torch.device("cuda"):
        config = transformers.AutoConfig.for_model(**architectures[name])
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    kinds.tokenizer().save_pretrained(folder)


def main() -> int:
    """Measure; returns 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", type=Path, nargs="?")
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--place", type=int, help="measure this one case, in this process")
    parser.add_argument("--save", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    source = options.cases or Path(os.environ["CASES"])
    truth = json.loads(source.read_text(encoding="utf-8"))
    if options.save:
        save(*options.save, truth["architectures"])
        return 0
    os.environ["CASES"] = str(source)
    if options.place is not None:
        found = measured(truth["cases"][options.place]["case"], truth["architectures"])
        (options.out / f"{options.place}.json").write_text(json.dumps(found), encoding="utf-8")
        return 0
    for place, entry in enumerate(truth["cases"]):
        told = dict(os.environ)
        if entry["case"].get("expandable"):
            told["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
        command = [sys.executable, __file__, str(source), "--out", str(options.out), "--place", str(place)]
        subprocess.run(command, env=told, check=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
