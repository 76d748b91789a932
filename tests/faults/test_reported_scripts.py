"""Scripts with faults that people reported: each is told by its cause, and the same script without it is told nothing.

What is wrong is seen in the text alone, or by asking the installed libraries: their imports, their configurations, the
model without weights, the script's own functions on its rows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("trl")
pytest.importorskip("datasets")

from tests.faults.planting import check_here, found, told
from tests.models import make_data

HEAD = """\
import torch
from datasets import load_dataset
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
"""
LOAD = """
bnb_config = BitsAndBytesConfig(
    load_in_4bit=True,
    bnb_4bit_quant_type="nf4",
    bnb_4bit_use_double_quant=True,
    bnb_4bit_compute_dtype=torch.bfloat16,
)
model = AutoModelForCausalLM.from_pretrained("base", quantization_config=bnb_config, dtype=torch.bfloat16)
tokenizer = AutoTokenizer.from_pretrained("base")
peft_config = LoraConfig(
    r=8,
    lora_alpha=16,
    target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
    task_type="CAUSAL_LM",
)
"""
SFT = (
    HEAD
    + "from trl import SFTConfig, SFTTrainer\n"
    + LOAD
    + """
dataset = load_dataset("json", data_files="rows.jsonl", split="train")
args = SFTConfig(
    output_dir="out",
    learning_rate=2e-4,
    per_device_train_batch_size=2,
    bf16=True,
    max_length=64,
)
trainer = SFTTrainer(model=model, args=args, train_dataset=dataset, processing_class=tokenizer, peft_config=peft_config)
trainer.train()
trainer.save_model("out/adapter")
"""
)
PLAIN = (
    HEAD
    + "from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments\n"
    + LOAD
    + """
model = prepare_model_for_kbit_training(model)
model = get_peft_model(model, peft_config)


def tokenize(row):
    return tokenizer(f"{row['prompt']} {row['completion']}" + tokenizer.eos_token, truncation=True, max_length=64)


dataset = load_dataset("json", data_files="rows.jsonl", split="train")
dataset = dataset.map(tokenize, remove_columns=dataset.column_names)
args = TrainingArguments(
    output_dir="out",
    learning_rate=2e-4,
    per_device_train_batch_size=2,
    bf16=True,
    max_steps=100,
)
trainer = Trainer(
    model=model,
    args=args,
    train_dataset=dataset,
    eval_dataset=dataset,
    data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
)
trainer.train()
model.save_pretrained("out/adapter")
"""
)
ADALORA = (
    PLAIN.replace("peft_config = LoraConfig(\n    r=8,", "peft_config = AdaLoraConfig(\n    total_step=100,")
    .replace("import LoraConfig", "import AdaLoraConfig, LoHaConfig, LoraConfig")
    .replace("import DataCollator", "import TrainerCallback, DataCollator")
    .replace(
        "args = Tr",
        """

class Allocate(TrainerCallback):
    def on_optimizer_step(self, args, state, control, model=None, **kwargs):
        model.base_model.update_and_allocate(state.global_step)


args = Tr""",
    )
)
LOOP = (
    PLAIN[: PLAIN.index("args = ")]
    + """
from torch.utils.data import DataLoader

collate = DataCollatorForLanguageModeling(tokenizer, mlm=False)
loader = DataLoader(dataset, batch_size=2, shuffle=True, collate_fn=collate)
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4)
model.train()
for batch in loader:
    loss = model(**batch).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
model.save_pretrained("out/adapter")
"""
)
NAMES = 'target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],'
FIND = """
import bitsandbytes as bnb


def find_all_linear_names(model):
    cls = bnb.nn.Linear4bit
    names = set()
    for name, module in model.named_modules():
        if isinstance(module, cls):
            parts = name.split(".")
            names.add(parts[0] if len(parts) == 1 else parts[-1])
    if "lm_head" in names:
        names.remove("lm_head")
    return list(names)


modules = find_all_linear_names(model)
peft_config"""
ANSWERS = "    eval_strategy='steps',\n    eval_steps=50,\n    save_steps=50,\n    load_best_model_at_end=True,\n"
FORMER = "\n\ndef former(row):\n    return f\"Q: {row['prompt']} A: {row['completion']}\"\n\n\ndataset = load"
OLD_FORMER = FORMER.replace(
    "return f\"Q: {row['prompt']} A: {row['completion']}\"",
    "return [f\"Q: {row['prompt'][i]} A: {row['completion'][i]}\" for i in range(len(row[\"prompt\"]))]",
)
GIVEN_FORMER = ("peft_config=peft_config)", "peft_config=peft_config, formatting_func=former)")


FROM_PRETRAINED = 'AutoModelForCausalLM.from_pretrained("base", quantization_config=bnb_config, dtype=torch.bfloat16)'
FROM_CONFIG = 'AutoModelForCausalLM.from_config(AutoConfig.from_pretrained("base"))'
GRPO = (
    SFT.replace("SFTConfig", "GRPOConfig")
    .replace("rows.jsonl", "answers.jsonl")
    .replace("SFTTrainer", "GRPOTrainer")
    .replace("2e-4", "5e-6")
    .replace("    max_length=64,\n", "    num_generations=2,\n")
    .replace("peft_config=peft_config)", "peft_config=peft_config, reward_funcs=[exact])")
    .replace(
        "\ndataset = load",
        "\n\ndef exact(completions, answer, **kwargs):\n"
        "    scores = [float(c == a) for c, a in zip(completions, answer)]\n    return scores\n\n\ndataset = load",
    )
)
CALLED = (
    PLAIN.replace("import Data", "import TrainerCallback, Data")
    .replace("args=args", "args=args, callbacks=[Told()]")
    .replace(
        "\n\ndef tok",
        "\n\nclass Told(TrainerCallback):\n    def on_save(self, args, state, control, **kwargs):\n"
        "        print(state.global_step)\n\n\ndef tok",
    )
)
COUNTED = PLAIN.replace("= Trainer(", "= Counting(").replace(
    "\n\ndef tok",
    "\n\nclass Counting(Trainer):\n    def training_step(self, model, inputs, num_items_in_batch=None):\n"
    "        return super().training_step(model, inputs, num_items_in_batch)\n\n\ndef tok",
)
CLIP = "    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n"
STEP = "    optimizer.step()\n"
CLIPPED = LOOP.replace(STEP, CLIP + STEP)
EPOCHS = (
    LOOP.replace("import Data", "import get_linear_schedule_with_warmup, Data")
    .replace(
        "model.train()\n", "schedule = get_linear_schedule_with_warmup(optimizer, 2, 3 * len(loader))\nmodel.train()\n"
    )
    .replace("for batch in loader:\n", "for epoch in range(3):\n  for batch in loader:\n")
    .replace(STEP, STEP + "    schedule.step()\n")
    .replace("schedule", "scheduler")
    .replace("get_linear_scheduler", "get_linear_schedule")
)
ADAMW = "optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4)\n"
SUMMED = LOOP.replace("model.train()\n", "model.train()\ntotal = 0\n").replace(
    "    optimizer.zero_grad()\n", "    optimizer.zero_grad()\n    total += loss.item()\nprint(total / len(loader))\n"
)
EVALUATED = (
    LOOP.replace("for batch", "for epoch in range(2):\n    model.train()\n    for batch")
    .replace("    loss", "        loss")
    .replace("    optimizer.", "        optimizer.")
    .replace(
        "model.save",
        "    model.eval()\n    with torch.no_grad():\n        total = 0\n        for batch in loader:\n"
        "            out = model(**batch)\n            total += out.loss.item()\n    print(total)\nmodel.save",
    )
)
ATTACH = "model = get_peft_model(model, peft_config)\n"
THAWED = '[p.requires_grad_() for n, p in model.named_parameters() if any(k in n for k in "embed,norm".split(","))]\n'
PART = "for p in model.lm_head.parameters():\n    p.requires_grad = True\n"
RESIZED = ("model = prepare", "model.resize_token_embeddings(520)\nmodel = prepare")
LOSS = PLAIN.replace("= Trainer(", "= Own(").replace(
    "\n\ndef tok",
    "\n\nclass Own(Trainer):\n"
    "    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):\n"
    "        outputs = model(**inputs, num_items_in_batch=num_items_in_batch)\n"
    "        return (outputs.loss, outputs) if return_outputs else outputs.loss\n\n\ndef tok",
)
TEMPLATED = SFT.replace(
    "args = SFT",
    'def render(row):\n    turns = [{"role": "user", "content": row["prompt"]}, '
    '{"role": "assistant", "content": row["completion"]}]\n'
    '    return {"text": tokenizer.apply_chat_template(turns, tokenize=False)}\n\n\n'
    "dataset = dataset.map(render, remove_columns=dataset.column_names)\nargs = SFT",
)
SAVED = PLAIN.replace("model.save", "model.save_pretrained('out/adapter')\ntrainer.train()\nmodel.save")
MEASURED = PLAIN.replace(
    "args = Tr",
    """
def pick(logits, labels):
    return logits.argmax(-1)


def compute_metrics(p):
    preds, labels = p.predictions, p.label_ids
    right = (preds[:, :-1] == labels[:, 1:])[labels[:, 1:] != -100]
    return {"accuracy": float(right.mean())}


args = Tr""",
).replace("args=args,", "args=args, compute_metrics=compute_metrics, preprocess_logits_for_metrics=pick,")
INNER = """
base = AutoModelForCausalLM.from_pretrained("base", dtype=torch.bfloat16)
base = PeftModel.from_pretrained(base, "out/adapter")
"""
UNPACKED = "(input_ids=batch['input_ids'], labels=batch['labels'])"
FLOAT_STORAGE = [("bnb_4bit_quant_type", "bnb_4bit_quant_storage=torch.bfloat16,\n    bnb_4bit_quant_type")]
HEAD_LAYER = "torch.nn.Linear(64, 512, bias=False)"
LABELLED = (
    PLAIN.replace("return tokenizer(", "out = tokenizer(")
    .replace(
        "max_length=64)",
        "max_length=9 + len(row['completion']) % 7)\n    out['labels'] = out['input_ids'].copy()\n    return out",
    )
    .replace("DataCollatorForLanguageModeling(tokenizer, mlm=False)", "DataCollatorForSeq2Seq(tokenizer)")
    .replace("DataCollatorForLanguageModeling", "DataCollatorForSeq2Seq")
)


@dataclass(frozen=True)
class Reported:
    """A rule, the script without the fault, and what is replaced in it by what.

    Attributes:
        healthy: replacements that the script without the fault has as well.
        stages: what has to be looked at.
    """

    rule: str
    level: str
    script: str
    fault: Sequence[tuple[str, str]]
    healthy: Sequence[tuple[str, str]] = ()
    stages: tuple[str, ...] = ("config",)

    def __str__(self) -> str:
        return f"{self.rule}-{self.fault[0][1].strip()[:40]}"


STRUCTURE = ("config", "structure")
DATA = ("config", "data")
REPORTED = [
    # imports and configurations, as the installed libraries take them
    Reported("QD150", "error", PLAIN, [("prepare_model_for_kbit", "prepare_model_for_no_bits")], (), STRUCTURE),
    Reported("QD151", "error", SFT, [("bf16=True,", 'bf16=True,\n    optim="paged_adam",')], (), STRUCTURE),
    Reported("QD151", "error", SFT, [("compute_dtype=torch.bfloat16", 'compute_dtype="bf16"')], (), STRUCTURE),
    Reported("QD151", "error", SFT, [("quantization_config=bnb", "bnb_config=bnb")], (), STRUCTURE),
    Reported("QD335", "error", SFT, [("r=8,", 'r=8, init_lora_weights="pissa",')], FLOAT_STORAGE, STRUCTURE),
    # what of the adapter finds nothing
    Reported("QD261", "warning", SFT, [(NAMES, NAMES + ' rank_pattern={"^q_proj": 32},')], (), STRUCTURE),
    Reported("QD262", "warning", SFT, [(NAMES, NAMES + " layers_to_transform=[1, 2, 3],")], (), STRUCTURE),
    Reported(
        "QD303",
        "error",
        SFT,
        [("Linear4bit", "Linear8bitLt")],
        [("\npeft_config", FIND), (NAMES, "target_modules=modules,")],
        STRUCTURE,
    ),
    Reported(
        "QD268",
        "error",
        SFT,
        [("LlamaDecoderLayer", "MistralDecoderLayer")],
        [
            (
                "bf16=True,",
                "bf16=True,\n    fsdp='full_shard',\n"
                "    fsdp_config={'transformer_layer_cls_to_wrap': 'LlamaDecoderLayer'},",
            ),
            ("bnb_4bit_quant_type", "bnb_4bit_quant_storage=torch.bfloat16,\n    bnb_4bit_quant_type"),
        ],
        STRUCTURE,
    ),
    # order
    Reported(
        "QD125",
        "error",
        PLAIN,
        [("    return model\n", ""), ("model = adapted(model)", "adapted(model)")],
        [
            (
                "model = get_peft_model(model, peft_config)\n",
                "\n\ndef adapted(model):\n    model = get_peft_model(model, peft_config)\n    return model\n\n\n"
                "model = adapted(model)\n",
            )
        ],
    ),
    Reported("QD125", "error", PLAIN, [("model = get_peft_model(", "get_peft_model(")]),
    Reported(
        "QD351",
        "warning",
        PLAIN,
        [("peft_config)\n", 'peft_config)\nmodel = PeftModel.from_pretrained(model, "a", is_trainable=True)\n')],
    ),
    Reported("QD260", "error", PLAIN, [("\n\n\ndef tok", '\nmodel.add_adapter("new", peft_config)\n\n\ndef tok')]),
    Reported(
        "QD460",
        "error",
        SFT,
        [
            (
                "peft_config=peft_config)",
                "peft_config=peft_config, optimizers=(torch.optim.AdamW(model.parameters()), None))",
            )
        ],
    ),
    Reported("QD461", "error", SFT, [("\nbnb_config", "\ntorch.set_grad_enabled(False)\nbnb_config")]),
    Reported("QD263", "warning", SFT, [("r=8,", "r=8, init_lora_weights=False,")]),
    Reported("QD264", "warning", SFT, [("r=8,", 'r=8, init_lora_weights="eva",')]),
    Reported("QD266", "warning", SFT, [("trainer.save_model(", "trainer.model.merge_and_unload().save_pretrained(")]),
    Reported("QD267", "error", SFT, [("trainer.save_model(", "model.save_pretrained(")]),
    Reported(
        "QD467",
        "error",
        SFT,
        [('from_pretrained("base")', 'from_pretrained("Qwen/Qwen2.5-7B")')],
        [('from_pretrained("base", q', 'from_pretrained("mistralai/Mistral-7B-v0.1", q'), ("r=8", "r=8")],
    ),
    # what the trainer stops at, or does
    Reported(
        "QD152",
        "error",
        PLAIN,
        [
            (
                "load_best_model_at_end=True,",
                "load_best_model_at_end=True, metric_for_best_model='eval_loss', greater_is_better=True,",
            )
        ],
        [("max_steps=100,\n", "max_steps=100,\n" + ANSWERS)],
    ),
    Reported(
        "QD160",
        "error",
        PLAIN,
        [("load_best_model_at_end=True,", "load_best_model_at_end=True, metric_for_best_model='accuracy',")],
        [("max_steps=100,\n", "max_steps=100,\n" + ANSWERS)],
    ),
    Reported(
        "QD160",
        "error",
        PLAIN,
        [("eval_strategy='steps',", ""), ("load_best_model_at_end=True,", "")],
        [
            ("max_steps=100,\n", "max_steps=100,\n" + ANSWERS),
            ("trainer.train()", "trainer.add_callback(EarlyStoppingCallback(3))\ntrainer.train()"),
            ("import Data", "import EarlyStoppingCallback, Data"),
        ],
    ),
    Reported(
        "QD125", "error", SFT, [('split="train"', 'split="train", streaming=True')], [("tokenizer = ", "tokenizer = ")]
    ),
    Reported(
        "QD125",
        "error",
        SFT,
        [("batch_size=2", "batch_size=1")],
        [("SFTConfig", "KTOConfig"), ("SFTTrainer", "KTOTrainer"), ("2e-4", "5e-6")],
    ),
    Reported(
        "QD811",
        "error",
        SFT,
        [('"auto"', "8")],
        [
            (
                "bf16=True,",
                'bf16=True,\n    deepspeed={"zero_optimization": {}, "train_micro_batch_size_per_gpu": "auto"},',
            )
        ],
    ),
    Reported(
        "QD811",
        "error",
        SFT,
        [('"auto"', '"2"')],
        [("bf16=True,", 'deepspeed={"zero_optimization": {}, "train_micro_batch_size_per_gpu": "auto"},')],
    ),
    Reported("QD125", "error", SFT, [(', split="train")', ")")]),
    Reported("QD125", "error", SFT, [("bf16=True,", "bf16=True,\n    gradient_accumulation_steps=4 // 8,")]),
    # loops of the script's own
    Reported(
        "QD463",
        "error",
        LOOP,
        [("    optimizer.step()\n    optimizer.zero_grad()", "    optimizer.zero_grad()\n    optimizer.step()")],
    ),
    Reported("QD464", "error", LOOP, [("    optimizer.step()\n", "")]),
    # what is made, named or called in vain
    Reported("QD269", "error", SFT, [("quantization_config=bnb_config, ", "")]),
    Reported("QD270", "error", SFT, [(FROM_PRETRAINED, FROM_CONFIG), ("import Auto", "import AutoConfig, Auto")]),
    Reported("QD271", "error", SFT, [("trainer.train()", "trainer.train")]),
    Reported(
        "QD272",
        "error",
        PLAIN,
        [("(model, peft_config)", '(model, peft_config, adapter_name="support")')],
        [('("out/adapter")\n', '("out/adapter")\nfresh = PeftModel.from_pretrained(model.unload(), "out/adapter")\n')],
    ),
    Reported("QD275", "error", SFT, [("lora_alpha=16", "lora_alpha=0")]),
    Reported("QD276", "error", SFT, [("bf16=True,", "bf16=True,\n    num_train_epochs=0,")]),
    Reported("QD165", "warning", PLAIN, [("max_steps=100,", "max_steps=100,\n    do_eval=True,\n    eval_steps=10,")]),
    Reported("QD148", "error", SFT, [("learning_rate=2e-4", "learning_rate=2e-4,\n    lora_rank=8")]),
    Reported("QD125", "error", PLAIN, [("model = get_peft_model(model, peft_config)\n", "")]),
    Reported(
        "QD125",
        "error",
        PLAIN,
        [("\n\n\ndef tok", "\nmodel.resize_token_embeddings(600)\n\n\ndef tok")],
        [(NAMES, NAMES + ' modules_to_save=["embed_tokens", "lm_head"],')],
    ),
    Reported(
        "QD125", "error", PLAIN, [("args=args", "args=args, optimizers=(torch.optim.AdamW(model.parameters()),)")]
    ),
    Reported("QD125", "error", SFT, [("learning_rate=2e-4", 'learning_rate="2e-4"')]),
    Reported(
        "QD125",
        "error",
        SFT,
        [("model=model,", "model=model, ref_model=model,")],
        [("SFTConfig", "DPOConfig"), ("SFTTrainer", "DPOTrainer"), ("2e-4", "5e-6")],
    ),
    Reported(
        "QD125",
        "error",
        SFT,
        [(" num_labels=1,", "")],
        [
            ("SFTConfig", "RewardConfig"),
            ("SFTTrainer", "RewardTrainer"),
            ("AutoModelForCausalLM", "AutoModelForSequenceClassification"),
            ('"base", q', '"base", num_labels=1, q'),
            ("CAUSAL_LM", "SEQ_CLS"),
        ],
    ),
    # results that are lost, and switches that nothing reads
    Reported("QD125", "error", PLAIN, [("\nmodel.resize", "\nmodel = model.resize")], [RESIZED]),
    Reported("QD125", "error", PLAIN, [(ATTACH, ATTACH[:-1] + ".print_trainable_parameters()\n")]),
    Reported(
        "QD125", "error", SFT, [("LoraConfig(\n", "LoraConfig(\n    model,\n"), ('    task_type="CAUSAL_LM",\n', "")]
    ),
    Reported(
        "QD143",
        "error",
        PLAIN,
        [("merged = model.merge", "model.merge"), ("merged.save", "model.save")],
        [
            ("model.save_pretrained", 'merged = model.merge_and_unload()\nmerged.save_pretrained("m")\nprint'),
            ("quantization_config=bnb_config, ", ""),
            ("bnb_config = BitsAndBytesConfig", "print"),
            ("load_in_4bit=True,", ""),
        ],
    ),
    Reported(
        "QD141", "error", PLAIN, [("max_steps=100,", 'max_steps=100,\n    resume_from_checkpoint="out/checkpoint-50",')]
    ),
    Reported(
        "QD142",
        "error",
        SFT,
        [(" processing_class=tokenizer,", "")],
        [
            (
                "peft_config = Lora",
                'tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"\npeft_config = Lora',
            )
        ],
    ),
    Reported(
        "QD146",
        "error",
        PLAIN,
        [("eval_steps=50,", "eval_steps=50,\n    label_names=['label'],")],
        [("max_steps=100,", "max_steps=100,\n    eval_strategy='steps',\n    eval_steps=50,")],
    ),
    Reported(
        "QD125",
        "error",
        LOSS,
        [("(outputs.loss, outputs) if return_outputs else outputs.loss", "outputs.loss")],
        [("max_steps=100,", "max_steps=100,\n    eval_strategy='steps',\n    eval_steps=50,")],
    ),
    Reported("QD329", "error", PLAIN, [(ATTACH, ATTACH + THAWED)], (), STRUCTURE),
    Reported("QD329", "error", PLAIN, [(ATTACH, ATTACH + "model.lm_head.requires_grad_(True)\n")], (), STRUCTURE),
    Reported(
        "QD329",
        "error",
        PLAIN,
        [(' modules_to_save=["lm_head"],', "")],
        [(NAMES, NAMES + ' modules_to_save=["lm_head"],'), (ATTACH, ATTACH + PART)],
        STRUCTURE,
    ),
    # what a trainer is handed
    Reported("QD125", "error", PLAIN, [("\n\n\ndef tok", "\nmodel = torch.compile(model)\n\n\ndef tok")]),
    Reported("QD125", "error", PLAIN, [("\n\n\ndef tok", "\nmodel = torch.nn.DataParallel(model)\n\n\ndef tok")]),
    Reported(
        "QD125",
        "error",
        SFT,
        [("bf16=True,", "bf16=True, completion_only_loss=True,")],
        [("\ndataset = load", FORMER), GIVEN_FORMER],
    ),
    Reported("QD125", "error", GRPO, [("num_generations=2,", "num_generations=2, reward_weights=[1.0, 0.5],")]),
    Reported("QD125", "error", SFT, [("r=8,", "r=8.0,")]),
    Reported(
        "QD125",
        "error",
        SAVED,
        [("trainer.train()\nmodel", "trainer.train(resume_from_checkpoint='out/adapter')\nmodel")],
    ),
    Reported(
        "QD472",
        "error",
        PLAIN,
        [("model, peft_config)", "model, peft_config, adapter_name='mine')")],
        [("max_steps=100,\n", "max_steps=100,\n" + ANSWERS)],
    ),
    Reported("QD473", "warning", MEASURED, [("preds[:, :-1]", "preds"), ("labels[:, 1:]", "labels")]),
    Reported("QD474", "error", PLAIN, [(ATTACH, ATTACH + f"model.lm_head = {HEAD_LAYER}\n")]),
    Reported("QD474", "error", PLAIN, [(ATTACH, ATTACH + f"model.base_model.model.lm_head = {HEAD_LAYER}\n")]),
    Reported(
        "QD125",
        "error",
        PLAIN,
        [("eval_dataset=dataset", "eval_dataset=raw['validation']")],
        [
            (', split="train")', ")"),
            ("dataset = load", "raw = load"),
            ("\ndataset = data", "\ndataset = raw['train']\ndataset = data"),
        ],
    ),
    Reported("QD125", "error", SFT + INNER, [("from_pretrained(base,", "from_pretrained(base.model,")]),
    # functions of the script that a library calls
    Reported(
        "QD644",
        "error",
        GRPO,
        [
            ("completions, answer, ", "completions, solution, "),
            ("zip(completions, answer", "zip(completions, solution"),
        ],
        (),
        DATA,
    ),
    Reported("QD125", "error", GRPO, [("answer, **kwargs", "answer")]),
    Reported("QD125", "error", GRPO, [("return scores", "return sum(scores)")]),
    Reported("QD125", "error", GRPO, [("return scores", "print(scores)")]),
    Reported(
        "QD179", "error", GRPO, [("[float(c == a) for c, a in zip(completions, answer)]", "[1.0 for _ in answer]")]
    ),
    Reported("QD179", "error", GRPO, [("return scores", "return [0.5] * len(scores)")]),
    Reported("QD125", "error", CALLED, [("state, control, **kwargs", "state, control")]),
    Reported(
        "QD641", "error", COUNTED, [(", num_items_in_batch=None):", "):"), ("inputs, num_items_in_batch)", "inputs)")]
    ),
    # and loops
    Reported("QD273", "warning", CLIPPED, [(CLIP + STEP, STEP + CLIP)]),
    Reported("QD147", "warning", LOOP, [("    loss = model(", f"    {ADAMW}    loss = model(")]),
    Reported("QD149", "warning", EVALUATED, [("    model.train()\n    for batch", "    for batch")]),
    Reported("QD544", "warning", SUMMED, [("loss.item()", "loss")]),
    Reported("QD544", "warning", EVALUATED, [("    with torch.no_grad():\n", "    if True:\n"), (".item()", "")]),
    Reported("QD274", "error", EPOCHS, [("3 * len(loader)", "len(loader)")]),
    Reported("QD125", "error", LOOP, [("batch).loss\n", "batch).loss\n    loss = loss.detach()\n")]),
    Reported("QD125", "error", LOOP, [("    loss = model(", "    with torch.no_grad():\n        loss = model(")]),
    Reported(
        "QD125",
        "error",
        LOOP,
        [(UNPACKED, UNPACKED.replace(", labels=batch['labels']", ""))],
        [("(**batch)", UNPACKED)],
    ),
    # adapters
    Reported(
        "QD125",
        "error",
        PLAIN,
        [
            (
                "peft_config = LoraConfig(\n    r=8,\n    lora_alpha=16,",
                "peft_config = LoHaConfig(\n    r=8,\n    alpha=16,",
            )
        ],
    ),
    Reported("QD125", "error", ADALORA, [("total_step=100,", "")]),
    Reported(
        "QD125",
        "error",
        PLAIN,
        [("model = get_peft_model(model, peft_config)", "model.add_adapter(peft_config)")],
        [("trainer.train()", "trainer.train(resume_from_checkpoint='out/checkpoint-60')")],
    ),
    Reported(
        "QD151",
        "error",
        SFT,
        [("num_decay_steps", "steps")],
        [("bf16=True,", "lr_scheduler_type='warmup_stable_decay', lr_scheduler_kwargs={'num_decay_steps': 4},")],
        STRUCTURE,
    ),
    Reported("QD256", "warning", ADALORA, [("model.base_model.update_and_allocate(state.global_step)", "pass")]),
    Reported(
        "QD259",
        "error",
        PLAIN,
        [
            ("args = Tr", "weights = load_file('old/adapter_model.safetensors')\nargs = Tr"),
            ("trainer.train()", "model.load_state_dict(weights, strict=False)\ntrainer.train()"),
        ],
        [("import torch\n", "import torch\nfrom safetensors.torch import load_file\n")],
    ),
    # rows
    Reported(
        "QD277", "warning", TEMPLATED, [("tokenize=False", "tokenize=False, add_generation_prompt=True")], (), DATA
    ),
    # the script's functions on its rows
    Reported("QD601", "error", PLAIN, [("row['completion']", "row['answer']")], (), DATA),
    Reported("QD601", "error", PLAIN, [("(tokenizer, mlm=False)", "(tokenizer)")], (), DATA),
    Reported(
        "QD601",
        "error",
        PLAIN,
        [("remove_columns=dataset.column_names", ""), ("bf16=True,", "bf16=True, remove_unused_columns=False,")],
        (),
        DATA,
    ),
    Reported(
        "QD601",
        "error",
        PLAIN,
        [
            ("DataCollatorForLanguageModeling(tokenizer, mlm=False)", "DataCollatorWithPadding(tokenizer)"),
            ("import DataCollatorForLanguageModeling", "import DataCollatorWithPadding"),
        ],
        (),
        DATA,
    ),
    Reported("QD601", "error", SFT, [(FORMER, OLD_FORMER)], [("\ndataset = load", FORMER), GIVEN_FORMER], DATA),
    # the steps between the file and the trainer
    Reported(
        "QD601",
        "error",
        PLAIN,
        [("dataset = dataset.map(tokenize, remove_columns=dataset.column_names)\n", "")],
        (),
        DATA,
    ),
    *(
        Reported("QD601", "error", PLAIN, [("\ndataset = dataset.map", f"\ndataset = dataset.{step}.map")], (), DATA)
        for step in (
            "select(range(1000))",
            "train_test_split(test_size=200)['train']",
            "remove_columns(['idx'])",
            "rename_column('question', 'text')",
        )
    ),
    Reported("QD601", "error", PLAIN, [("(tokenize, ", "(tokenize, batched=True, ")], (), DATA),
    Reported(
        "QD601",
        "error",
        PLAIN,
        [
            (
                "tokenizer(f\"{row['prompt']} {row['completion']}\" + tokenizer.eos_token",
                "tokenizer([c for c in row['prompt']]",
            )
        ],
        (),
        DATA,
    ),
    Reported(
        "QD601",
        "error",
        SFT,
        [('{"text": row["prompt"]}', 'row["prompt"]')],
        [("args = SFT", 'dataset = dataset.map(lambda row: {"text": row["prompt"]})\nargs = SFT')],
        DATA,
    ),
    Reported(
        "QD601",
        "error",
        LABELLED,
        [
            ("DataCollatorForSeq2Seq(tokenizer)", "DataCollatorWithPadding(tokenizer)"),
            ("DataCollatorForSeq2Seq,", "DataCollatorWithPadding,"),
        ],
        (),
        DATA,
    ),
]


def replaced(text: str, replacements: Sequence[tuple[str, str]]) -> str:
    for old, new in replacements:
        assert old in text, old
        text = text.replace(old, new)
    return text


@pytest.mark.parametrize("case", REPORTED, ids=str)
def test_a_reported_fault_is_told_and_its_healthy_twin_is_not(
    case: Reported, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "base").symlink_to(tiny_llama, target_is_directory=True)
    rows = make_data(tmp_path / "rows.jsonl", "prompt-completion").read_text()
    (tmp_path / "answers.jsonl").write_text(rows.replace('"completion"', '"answer"'))
    script = tmp_path / "train.py"
    healthy = replaced(case.script, case.healthy)
    script.write_text(replaced(healthy, case.fault))
    report = check_here(script, monkeypatch, stages=case.stages)
    assert found(report, case.level) == {case.rule}, told(report)
    script.write_text(healthy)
    report = check_here(script, monkeypatch, stages=case.stages)
    assert not found(report, case.level), told(report)


@pytest.mark.parametrize(
    ("loads", "rule"),
    [
        ("PeftModel.from_pretrained(model, 'old', is_trainable=True)", None),
        ("get_peft_model(PeftModel.from_pretrained(model, 'old', is_trainable=True), peft_config)", "QD470"),
        ("get_peft_model(model, PeftConfig.from_pretrained('old'))", "QD323"),
        ("AutoPeftModelForCausalLM.from_pretrained('old', is_trainable=True, quantization_config=bnb_config)", None),
        ("AutoPeftModelForCausalLM.from_pretrained('old', quantization_config=bnb_config)", "QD323"),
    ],
)
def test_an_adapter_is_trained_on(
    loads: str, rule: str | None, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    (tmp_path / "base").symlink_to(tiny_llama, target_is_directory=True)
    make_data(tmp_path / "rows.jsonl", "prompt-completion")
    adapter = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_llama), LoraConfig(task_type="CAUSAL_LM"))
    adapter.peft_config["default"].base_model_name_or_path = "base"
    adapter.save_pretrained(tmp_path / "old")
    script = tmp_path / "train.py"
    text = PLAIN.replace("get_peft_model(model, peft_config)", loads)
    script.write_text(text.replace("import LoraConfig", "import AutoPeftModelForCausalLM, PeftConfig, LoraConfig"))
    report = check_here(script, monkeypatch, stages=STRUCTURE)
    assert found(report, "error") == ({rule} if rule else set()), told(report)


def test_what_is_attached_after_the_preparation_trains(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PEFT makes the adapter of the model's own ``add_adapter`` anew: prepare freezes nothing of it."""
    (tmp_path / "base").symlink_to(tiny_llama, target_is_directory=True)
    make_data(tmp_path / "rows.jsonl", "prompt-completion")
    script = tmp_path / "train.py"
    script.write_text(PLAIN.replace("model = prepare", "model.add_adapter(peft_config)\nmodel = prepare"))
    report = check_here(script, monkeypatch, stages=("config",))
    assert found(report, "warning") == {"QD351"}, told(report)


CLASSES = (
    PLAIN.replace("AutoModelForCausalLM", "AutoModelForSequenceClassification")
    .replace('"base", q', '"base", num_labels=5, q')
    .replace("CAUSAL_LM", "SEQ_CLS")
    .replace("DataCollatorForLanguageModeling(tokenizer, mlm=False)", "DataCollatorWithPadding(tokenizer)")
    .replace("import DataCollatorForLanguageModeling", "import DataCollatorWithPadding")
    .replace("f\"{row['prompt']} {row['completion']}\" + tokenizer.eos_token", 'row["text"]')
    .replace("remove_columns=dataset.column_names", 'remove_columns=["text"]')
)


def test_a_classifiers_column_label_is_its_labels(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers' Trainer leaves the column ``label`` to the collator, which calls it labels."""
    (tmp_path / "base").symlink_to(tiny_llama, target_is_directory=True)
    rows = [{"text": f"Row number {n}.", "label": n % 5} for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    script = tmp_path / "train.py"
    script.write_text(CLASSES)
    report = check_here(script, monkeypatch, stages=DATA)
    assert not found(report, "warning"), told(report)
    assert report.facts.batch is not None and report.facts.batch.classes_seen == 5
    script.write_text(CLASSES.replace("num_labels=5, ", ""))
    report = check_here(script, monkeypatch, stages=DATA)
    assert found(report, "error") == {"QD667"}, told(report)


@pytest.mark.parametrize(
    ("card", "level", "rule"), [("T4", "error", "QD153"), ("T4", "warning", "QD110"), ("A100", "error", None)]
)
def test_a_notebook_runs_on_the_card_that_it_asks_for(
    card: str, level: str, rule: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = SFT.replace("dtype=torch.bfloat16)\n", 'dtype=torch.bfloat16, attn_implementation="flash_attention_2")\n')
    cell = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None, "source": code}
    metadata = {"accelerator": "GPU", "colab": {"gpuType": card}}
    notebook = tmp_path / "train.ipynb"
    notebook.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 0, "metadata": metadata, "cells": [cell]}))
    report = check_here(notebook, monkeypatch, stages=("config",))
    told_here = found(report, level)
    assert (rule in told_here) if rule else not told_here, told(report)
