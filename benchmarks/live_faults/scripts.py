"""Six healthy trainings as people write them, and faults planted in each by replacing text.

A fault says which rules may tell it: one of them has to. Its healthy twin is the same script without it.
"""

# ruff: noqa: E501

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

MODEL = """\
import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

torch.manual_seed(0)
tokenizer = AutoTokenizer.from_pretrained("base")
quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                                  bnb_4bit_compute_dtype=torch.bfloat16)
model = AutoModelForCausalLM.from_pretrained("base", quantization_config=quantization, device_map={"": "cpu"})
model = prepare_model_for_kbit_training(model, gradient_checkpointing_kwargs={"use_reentrant": False})
peft_config = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.05, target_modules="all-linear", task_type="CAUSAL_LM")
"""
DATA = """\
texts = [line.rstrip("\\n") for line in open("rows.txt")]
train_texts, held_out = texts[:-16], texts[-16:]


def collate(rows):
    batch = tokenizer([row + tokenizer.eos_token for row in rows], padding=True, truncation=True, max_length=64,
                      return_tensors="pt")
    batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    return dict(batch)


"""
LOOP = """
from torch.utils.data import DataLoader
from transformers import get_linear_schedule_with_warmup

model = get_peft_model(model, peft_config)
loader = DataLoader(train_texts, batch_size=2, shuffle=True, collate_fn=collate)
evaluation = DataLoader(held_out, batch_size=4, collate_fn=collate)
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
scheduler = get_linear_schedule_with_warmup(optimizer, 2, 20)
accumulation_steps = 2
done = 0
for epoch in range(2):
    model.train()
    for number, batch in enumerate(loader, start=1):
        loss = model(**batch).loss / accumulation_steps
        loss.backward()
        if number % accumulation_steps == 0:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            done += 1
        if number == 20:
            break
    model.eval()
    with torch.no_grad():
        print("evaluation", sum(model(**batch).loss.item() for batch in evaluation) / len(evaluation))
model.save_pretrained("out")
"""
ACCELERATE = """
from accelerate import Accelerator
from torch.utils.data import DataLoader
from transformers import get_linear_schedule_with_warmup

model = get_peft_model(model, peft_config)
accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
loader = DataLoader(train_texts, batch_size=2, shuffle=True, collate_fn=collate)
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
scheduler = get_linear_schedule_with_warmup(optimizer, 2, 20)
model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
done = 0
model.train()
for batch in loader:
    with accelerator.accumulate(model):
        loss = model(**batch).loss
        accelerator.backward(loss)
        if accelerator.sync_gradients:
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            done += 1
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    if done == 12:
        break
accelerator.unwrap_model(model).save_pretrained("out")
"""
RANKS = """
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

dist.init_process_group("gloo")
rank = dist.get_rank()
model = get_peft_model(model, peft_config)
parallel = DistributedDataParallel(model)
train_texts = train_texts[:32]
sampler = DistributedSampler(train_texts, shuffle=True)
loader = DataLoader(train_texts, batch_size=2, sampler=sampler, collate_fn=collate)
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
parallel.train()
for epoch in range(2):
    sampler.set_epoch(epoch)
    for number, batch in enumerate(loader, start=1):
        parallel(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
if rank == 0:
    model.save_pretrained("out")
dist.barrier()
dist.destroy_process_group()
"""
TRAINER = """
from datasets import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

model = get_peft_model(model, peft_config)
train_set = Dataset.from_dict({"text": train_texts})
held_set = Dataset.from_dict({"text": held_out})
arguments = TrainingArguments(output_dir="out", max_steps=12, per_device_train_batch_size=2, learning_rate=1e-3,
                              gradient_accumulation_steps=2, warmup_steps=2, logging_steps=1, eval_strategy="steps",
                              eval_steps=6, save_steps=6, report_to="none", use_cpu=True, bf16=True,
                              remove_unused_columns=False, disable_tqdm=True)
trainer = Trainer(model=model, args=arguments, train_dataset=train_set, eval_dataset=held_set,
                  data_collator=lambda rows: collate([row["text"] for row in rows]))
trainer.train()
trainer.save_model("out/final")
"""
SFT = """
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

train_set = Dataset.from_dict({"prompt": [f"Say: {text}" for text in train_texts],
                               "completion": [f" {text}" for text in train_texts]})
arguments = SFTConfig(output_dir="out", max_steps=12, per_device_train_batch_size=2, learning_rate=1e-3, max_length=64,
                      gradient_accumulation_steps=2, warmup_steps=2, logging_steps=1, report_to="none", use_cpu=True,
                      bf16=True, save_strategy="no", disable_tqdm=True)
trainer = SFTTrainer(model=model, args=arguments, train_dataset=train_set, processing_class=tokenizer,
                     peft_config=peft_config)
trainer.train()
trainer.save_model("out/final")
"""
DPO = """
from datasets import Dataset
from trl import DPOConfig, DPOTrainer

train_set = Dataset.from_dict({"prompt": [f"Say: {text}" for text in train_texts],
                               "chosen": [f" {text}" for text in train_texts],
                               "rejected": [f" {text[::-1]}" for text in train_texts]})
arguments = DPOConfig(output_dir="out", max_steps=8, per_device_train_batch_size=2, learning_rate=1e-3, max_length=64,
                      gradient_accumulation_steps=2, warmup_steps=2, logging_steps=1, report_to="none", use_cpu=True,
                      bf16=True, save_strategy="no", disable_tqdm=True, beta=0.1)
trainer = DPOTrainer(model=model, args=arguments, train_dataset=train_set, processing_class=tokenizer,
                     peft_config=peft_config)
trainer.train()
trainer.save_model("out/final")
"""
KINDS = {
    "trainer": MODEL + DATA + TRAINER,
    "sft": MODEL + DATA + SFT,
    "dpo": MODEL + DATA + DPO,
    "accelerate": MODEL + DATA + ACCELERATE,
    "loop": MODEL + DATA + LOOP,
    "ranks": MODEL + DATA + RANKS,
}


@dataclass(frozen=True)
class Fault:
    """A fault in one of the scripts.

    Attributes:
        name: what is wrong, in words.
        kind: the script that it is planted in.
        changes: text that is replaced, in order.
        rules: one of them has to be told.
        healthy: replacements that both the fault and its healthy twin begin with.
    """

    name: str
    kind: str
    changes: Sequence[tuple[str, str]]
    rules: Sequence[str]
    healthy: Sequence[tuple[str, str]] = field(default=())

    def script(self) -> str:
        """The script with the fault."""
        return replaced(self.twin(), self.changes)

    def twin(self) -> str:
        """The script without it."""
        return replaced(KINDS[self.kind], self.healthy)


def replaced(text: str, changes: Sequence[tuple[str, str]]) -> str:
    """The text with each replacement made once.

    Raises:
        ValueError: what is to be replaced is not there.
    """
    for old, new in changes:
        if old not in text:
            raise ValueError(f"not in the script: {old}")
        text = text.replace(old, new, 1)
    return text


_STEP = "            optimizer.step()\n            scheduler.step()\n            optimizer.zero_grad()\n"
_LOSS = "        loss = model(**batch).loss / accumulation_steps\n        loss.backward()\n"
_OPTIMIZER = "optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)\n"
_TRAIN = "trainer.train()\n"


def _callback(event: str, body: str) -> tuple[str, str]:
    code = f"class Own(TrainerCallback):\n    def {event}(self, args, state, control, model=None, **kwargs):\n"
    return (_TRAIN, code + f"        {body}\n\ntrainer.add_callback(Own())\n{_TRAIN}")


def _compute_loss(body: str) -> list[tuple[str, str]]:
    code = (
        "def _plain(model, inputs, return_outputs, factor=1):\n"
        "    outputs = model(**inputs)\n"
        "    return (factor * outputs.loss, outputs) if return_outputs else factor * outputs.loss\n\n\n"
        "class Own(Trainer):\n"
        "    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):\n"
        f"        {body}\n\n"
    )
    return [("trainer = Trainer(", code + "trainer = Own(")]


HEALTHY: dict[str, tuple[str, Sequence[tuple[str, str]]]] = {
    "batches of one, and no accumulation": ("loop", [("batch_size=2, shuffle", "batch_size=1, shuffle"), ("accumulation_steps = 2", "accumulation_steps = 1")]),
    "one update and no more": ("loop", [("range(2)", "range(1)"), ("if number == 20", "if number == 2"), ("optimizer, 2, 20", "optimizer, 0, 10")]),
    "bfloat16 autocast": ("loop", [("        loss = model(**batch).loss / acc", "        with torch.autocast('cpu', dtype=torch.bfloat16):\n            loss = model(**batch).loss / acc")]),
    "rows padded on the left, with their mask": ("loop", [('AutoTokenizer.from_pretrained("base")\n', 'AutoTokenizer.from_pretrained("base", padding_side="left")\n')]),
    "workers of the loader": ("loop", [("shuffle=True, collate_fn", "shuffle=True, num_workers=2, collate_fn")]),
    "evaluation rows sorted by length": ("loop", [("texts[-16:]\n", "sorted(texts[-16:], key=len)\n")]),
    "a pass without gradients before the training": ("loop", [("for epoch in", "model.train()\nwith torch.no_grad():\n    for batch in evaluation:\n        model(**batch)\nfor epoch in")]),
    "one length, and no padding": ("accelerate", [('padding=True, truncation=True, max_length=64', 'padding="max_length", truncation=True, max_length=16')]),
    "an evaluation with every step": ("trainer", [("eval_steps=6", "eval_steps=1")]),
    "a resume": ("trainer", [(_TRAIN, "trainer.train()\narguments.max_steps = 16\ntrainer.train(resume_from_checkpoint='out/checkpoint-12')\n")]),
    "batches of one": ("trainer", [("per_device_train_batch_size=2", "per_device_train_batch_size=1")]),
    "packed rows": ("sft", [("bf16=True, save", "bf16=True, packing=True, packing_strategy='wrapped', save")]),
    "no accumulation, and a loss of all tokens": ("sft", [("gradient_accumulation_steps=2", "gradient_accumulation_steps=1, completion_only_loss=False")]),
    "batches of one pair": ("dpo", [("per_device_train_batch_size=2", "per_device_train_batch_size=1")]),
    "accumulation by hand": ("ranks", [("        parallel(**batch).loss.backward()\n", "        if number % 2:\n            with parallel.no_sync():\n                (parallel(**batch).loss / 2).backward()\n            continue\n        (parallel(**batch).loss / 2).backward()\n")]),
}  # fmt: skip
"""Healthy in another way: the kind of the script, and what is replaced in it."""

FAULTS = [
    # -- a loop of one's own
    Fault("the evaluation leaves its mode on", "loop",
          [("for epoch in range(2):\n    model.train()\n", "model.train()\nfor epoch in range(2):\n")], ["QD740"]),
    Fault("gradients are cleared between backward and step", "loop",
          [(_STEP, "            optimizer.zero_grad()\n            optimizer.step()\n            scheduler.step()\n")],
          ["QD446"]),
    Fault("the scheduler never steps", "loop", [("            scheduler.step()\n", "")], ["QD725"]),
    Fault("the scheduler steps with every micro-batch", "loop",
          [("            scheduler.step()\n", ""), ("        loss.backward()\n", "        loss.backward()\n        scheduler.step()\n")],
          ["QD744"]),
    Fault("the schedule is over in the middle of the run", "loop",
          [("get_linear_schedule_with_warmup(optimizer, 2, 20)", "get_linear_schedule_with_warmup(optimizer, 2, 8)")],
          ["QD715"]),
    Fault("the loss becomes NaN after some steps", "loop",
          [("        loss.backward()\n", "        loss = loss * float('nan') if done >= 6 else loss\n        loss.backward()\n")],
          ["QD704", "QD755", "QD408"]),
    Fault("the adapter is merged before it trains", "loop",
          [("loader = Data", "model.merge_adapter()\nloader = Data")], ["QD326"]),
    Fault("the adapter is switched off", "loop",
          [("loader = Data", "model.base_model.disable_adapter_layers()\nloader = Data")], ["QD325", "QD432", "QD405", "QD404"]),
    Fault("the adapter is switched off before the loop", "loop",
          [("accumulation_steps = 2\n", "accumulation_steps = 2\nmodel.base_model.disable_adapter_layers()\nfor p in model.parameters():\n    if p.is_floating_point() and 'lora_' in str(id(p)):\n        p.requires_grad_(True)\n")],
          ["QD325", "QD432", "QD405", "QD404", "QD323"]),
    Fault("half of the adapter is frozen in the middle of the run", "loop",
          [("            done += 1\n", "            done += 1\n            if done == 5:\n                for name, p in model.named_parameters():\n                    if 'layers.0' in name:\n                        p.requires_grad_(False)\n")],
          ["QD732"]),
    Fault("another adapter is set after the optimizer was made", "loop",
          [("scheduler = get", "model.add_adapter('second', peft_config)\nmodel.set_adapter('second')\nscheduler = get")],
          ["QD440", "QD416"]),
    Fault("the loss is rebuilt from its number", "loop",
          [("        loss.backward()\n", "        loss = torch.tensor(loss.item(), requires_grad=True)\n        loss.backward()\n")],
          ["QD405", "QD404", "QD733"]),
    Fault("a hook on the tensors takes their gradients away", "loop",
          [("accumulation_steps = 2\n", "accumulation_steps = 2\nfor p in model.parameters():\n    if p.requires_grad:\n        p.register_hook(lambda gradient: gradient * 0)\n")],
          ["QD406"]),
    Fault("labels are shifted by the collator", "loop",
          [('    return dict(batch)\n', '    batch["labels"] = torch.cat([batch["labels"][:, 1:], batch["labels"].new_full((len(rows), 1), -100)], 1)\n    return dict(batch)\n')],
          ["QD630"]),
    Fault("the collator drops the mask of rows padded on the left", "loop",
          [('    return dict(batch)\n', '    batch.pop("attention_mask")\n    return dict(batch)\n'),
           ("torch.manual_seed(0)\n", "torch.manual_seed(0)\n"),
           ('AutoTokenizer.from_pretrained("base")\n', 'AutoTokenizer.from_pretrained("base")\ntokenizer.padding_side = "left"\n')],
          ["QD443"]),
    Fault("adapters in bfloat16 with a rate too small for them", "loop",
          [("loader = Data", "for p in model.parameters():\n    if p.requires_grad:\n        p.data = p.data.to(torch.bfloat16)\nloader = Data"),
           ("lr=1e-3", "lr=1e-6"), ("optimizer, 2, 20", "optimizer, 0, 20"), ("        loss = model", "        with torch.autocast('cpu', dtype=torch.bfloat16):\n            loss = model")],
          ["QD430", "QD455", "QD412"]),
    Fault("checkpointing is switched off by the loop", "loop",
          [("accumulation_steps = 2\n", "accumulation_steps = 2\nmodel.gradient_checkpointing_disable()\n")], ["QD741"]),
    Fault("reentrant checkpointing without a gradient at the inputs", "loop",
          [('model = prepare_model_for_kbit_training(model, gradient_checkpointing_kwargs={"use_reentrant": False})',
            'model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})'),
           ("loader = Data", "model.disable_input_require_grads()\nloader = Data")],
          ["QD403", "QD402", "QD404"]),
    Fault("the embeddings train and are not saved", "loop",
          [("loader = Data", "model.get_input_embeddings().weight.requires_grad_(True)\nloader = Data")], ["QD329"]),
    Fault("weights of an average are copied back every step", "loop",
          [("accumulation_steps = 2\n", "accumulation_steps = 2\naverage = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}\n"),
           ("            done += 1\n", "            done += 1\n            for n, p in model.named_parameters():\n                if n in average:\n                    p.data.copy_(average[n])\n")],
          ["QD411", "QD735"]),
    Fault("two batches out of three are left out of the backward", "loop",
          [("        loss.backward()\n", "        if number % 2:\n            loss.backward()\n")], ["QD453"]),
    Fault("the scaler overflows in every step", "loop",
          [("done = 0\n", "done = 0\nscaler = torch.amp.GradScaler('cpu', init_scale=2.0**40, backoff_factor=1.0 - 1e-9)\n"),
           ("        loss = model(**batch).loss / accumulation_steps\n        loss.backward()\n",
            "        with torch.autocast('cpu', dtype=torch.float16):\n            loss = model(**batch).loss / accumulation_steps\n        scaler.scale(loss).backward()\n"),
           ("            torch.nn.utils.clip", "            scaler.unscale_(optimizer)\n            torch.nn.utils.clip"),
           ("            optimizer.step()\n", "            scaler.step(optimizer)\n            scaler.update()\n")],
          ["QD407", "QD737"]),
    Fault("evaluated on what it trains on", "loop",
          [("evaluation = DataLoader(held_out", "evaluation = DataLoader(train_texts[:16]")], ["QD738"]),
    Fault("the same batch over and over", "loop",
          [("    for number, batch in enumerate(loader, start=1):\n", "    first = next(iter(loader))\n    for number, batch in enumerate([first] * 20, start=1):\n")],
          ["QD739", "QD637"]),
    Fault("sorted rows are not shuffled", "loop",
          [("train_texts, held_out = texts[:-16], texts[-16:]", "train_texts, held_out = sorted(texts[:-16], key=len), texts[-16:]"), ("shuffle=True, ", "")],
          ["QD457"]),
    Fault("the optimizer is made of the model before its adapter", "loop",
          [(_OPTIMIZER, ""), ("model = get_peft_model", "optimizer = torch.optim.AdamW([p for p in model.parameters() if p.is_floating_point()], lr=1e-3)\nmodel = get_peft_model")],
          ["QD440", "QD416", "QD460"]),
    # -- accelerate
    Fault("the loss goes backward past accelerate", "accelerate",
          [("accelerator.backward(loss)", "loss.backward()")], ["QD742"]),
    Fault("accelerate is told to accumulate and never asked to", "accelerate",
          [("with accelerator.accumulate(model):", "if True:")], ["QD453"]),
    Fault("the scheduler is not prepared and steps with every micro-batch", "accelerate",
          [("model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)", "model, optimizer, loader = accelerator.prepare(model, optimizer, loader)")],
          ["QD744"]),
    Fault("the optimizer is not prepared and steps with every micro-batch", "accelerate",
          [("model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)", "model, loader, scheduler = accelerator.prepare(model, loader, scheduler)")],
          ["QD453", "QD743"]),
    Fault("forward without gradients", "accelerate",
          [("        loss = model(**batch).loss\n", "        with torch.no_grad():\n            loss = model(**batch).loss\n")], ["QD404"]),
    # -- ranks
    Fault("every rank goes through all rows in the same order", "ranks",
          [("sampler = DistributedSampler(train_texts, shuffle=True)", "sampler = torch.utils.data.RandomSampler(train_texts, generator=torch.Generator().manual_seed(0))"), ("    sampler.set_epoch(epoch)\n", "")],
          ["QD821"]),
    Fault("the sampler's epoch is never set", "ranks", [("    sampler.set_epoch(epoch)\n", "")], ["QD731"]),
    Fault("gradients are never synchronized", "ranks",
          [("        parallel(**batch).loss.backward()\n", "        with parallel.no_sync():\n            parallel(**batch).loss.backward()\n")], ["QD820"]),
    Fault("each rank has a rate of its own", "ranks", [("lr=1e-3", "lr=1e-3 * (rank + 1)")], ["QD820"]),
    Fault("one rank trains other tensors", "ranks",
          [("parallel.train()", "if rank == 1:\n    next(p for p in model.parameters() if p.requires_grad).requires_grad_(False)\nparallel.train()")],
          ["QD750", "QD820"]),
    Fault("clipping before the gradients of accumulation are synchronized", "ranks",
          [("        parallel(**batch).loss.backward()\n", "        model(**batch).loss.backward()\n")], ["QD820"]),
    # -- Trainer
    Fault("a loss of one's own that is eight times too large", "trainer",
          _compute_loss("return _plain(model, inputs, return_outputs, 8)"), ["QD742", "QD458"]),
    Fault("a loss of one's own without the number of items", "trainer",
          _compute_loss("return _plain(model, inputs, return_outputs)"), ["QD742"]),
    Fault("a loss of one's own detached", "trainer",
          _compute_loss("loss = model(**inputs)[0].detach().requires_grad_(); return (loss, {}) if return_outputs else loss"), ["QD405", "QD404", "QD733"]),
    Fault("a loss of one's own leaves evaluation mode on", "trainer", _compute_loss("model.eval(); return _plain(model, inputs, return_outputs)"), ["QD740"]),
    Fault("a callback freezes the adapter in the middle", "trainer",
          [_callback("on_step_end", "[p.requires_grad_(False) for n, p in model.named_parameters() if 'layers.0' in n] if state.global_step == 6 else None")],
          ["QD732"]),
    Fault("a callback switches the adapter off in the middle", "trainer",
          [_callback("on_step_end", "model.base_model.disable_adapter_layers() if state.global_step == 6 else None")], ["QD733"]),
    Fault("evaluated on what it trains on, by Trainer", "trainer", [("eval_dataset=held_set", "eval_dataset=train_set")], ["QD738"]),
    Fault("an optimizer of one's own without decay", "trainer",
          [("held_set,\n", "held_set,\n                  optimizers=(torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.0), None),\n"),
           ("report_to=", "weight_decay=0.1, report_to=")], ["QD745"]),
    Fault("an optimizer of one's own with another rate", "trainer",
          [("held_set,\n", "held_set,\n                  optimizers=(torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-5), None),\n")],
          ["QD728"]),
    Fault("a resume without the optimizer's state", "trainer",
          [(_TRAIN, "import os\ntrainer.train()\nos.remove('out/checkpoint-6/optimizer.pt')\nos.remove('out/checkpoint-6/scheduler.pt')\nmodel.base_model.enable_adapter_layers()\ntrainer.train(resume_from_checkpoint='out/checkpoint-6')\n")],
          ["QD747"], [(_TRAIN, "trainer.train()\n")]),
    Fault("a resume at the end of the run", "trainer",
          [(_TRAIN, "trainer.train()\ntrainer.train(resume_from_checkpoint='out/checkpoint-12')\n")], ["QD746"]),
    Fault("a collator that trains on padding", "trainer",
          [('batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)', 'batch["input_ids"].clone()')], ["QD631"]),
    Fault("the base's weights are tied to the optimizer", "trainer",
          [(_TRAIN, "model.get_base_model().model.norm.weight.requires_grad_(True)\n" + _TRAIN)], ["QD329"]),
    # -- TRL
    Fault("all rows are cut before their completion", "sft", [("1e-3, max_length=64", "1e-3, max_length=8")], ["QD465"]),
    Fault("a rate a thousand times too large", "sft", [("learning_rate=1e-3", "learning_rate=10.0")], ["QD121"]),
    Fault("chosen and rejected are the same", "dpo", [('text[::-1]}"', 'text}"')], ["QD637", "QD716", "QD701"]),
    Fault("a beta of zero", "dpo", [("beta=0.1", "beta=0.0")], ["QD406", "QD716", "QD701"]),
]  # fmt: skip
