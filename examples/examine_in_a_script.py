"""A gate inside a training script: look at the objects that are about to train, and stop if they would waste the run.

The small model is made on the spot, so that this runs anywhere; put your own loading code in its place.
"""

import tempfile
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

import qlora_doctor
from qlora_doctor.cli import example

with tempfile.TemporaryDirectory() as folder:
    made = example.make(Path(folder))
    model = AutoModelForCausalLM.from_pretrained(
        made.folder / "model",
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        ),
        device_map={"": 0 if torch.cuda.is_available() else "cpu"},
    )
model = prepare_model_for_kbit_training(model)
model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-4)
ids = torch.randint(0, model.config.vocab_size, (2, 64), device=model.device)

report = qlora_doctor.examine(model, optimizer, {"input_ids": ids, "labels": ids})

for finding in report.findings:
    print(f"{finding.severity}: {finding.message}")
if report.exit_code:
    raise SystemExit("This run would waste your GPU-days.")
print("Go: model, optimizer and gradients are as they were before the look.")
