"""The plain script: what a user runs without the doctor. Load in 4-bit, attach, two steps of the Trainer.

Prints one JSON object: seconds of load and steps, and on CUDA the peaks of each in bytes.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import ClassVar


def main(path: str) -> None:
    begun = time.perf_counter()
    import torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig, Trainer, TrainerCallback, TrainingArguments

    imported = time.perf_counter()
    config = json.loads(Path(path).read_text())
    folder = Path(path).parent / config["model"]
    training = dict(config["training"])
    sequence = training.pop("max_length", 512)
    cuda = torch.cuda.is_available()
    model = AutoModelForCausalLM.from_pretrained(
        folder if folder.exists() else config["model"],
        quantization_config=BitsAndBytesConfig(**config["quantization"]),
        device_map={"": 0 if cuda else "cpu"},
    )
    model = prepare_model_for_kbit_training(
        model,
        use_gradient_checkpointing=training.get("gradient_checkpointing", False),
        gradient_checkpointing_kwargs=training.get("gradient_checkpointing_kwargs"),
    )
    model = get_peft_model(model, LoraConfig(**config["lora"]))
    load_peak = torch.cuda.max_memory_allocated() if cuda else None
    loaded = time.perf_counter()

    class Peaks(TrainerCallback):
        steps: ClassVar[list[dict[str, float | int]]] = []

        def on_step_begin(self, *_: object, **__: object) -> None:
            if cuda:
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            self.begun = time.perf_counter()

        def on_step_end(self, *_: object, **__: object) -> None:
            record: dict[str, float | int] = {}
            if cuda:
                torch.cuda.synchronize()
                record["peak_allocated_bytes"] = torch.cuda.max_memory_allocated()
                record["peak_reserved_bytes"] = torch.cuda.max_memory_reserved()
            record["seconds"] = time.perf_counter() - self.begun
            self.steps.append(record)

    batch = training.get("per_device_train_batch_size", 8)
    ids = torch.randint(0, model.config.vocab_size, (2 * batch, sequence), generator=torch.Generator().manual_seed(0))
    rows = [{"input_ids": row, "labels": row, "attention_mask": torch.ones_like(row)} for row in ids]
    with tempfile.TemporaryDirectory() as output:
        arguments = TrainingArguments(
            output_dir=output,
            max_steps=2,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=not cuda,
            **training,
        )
        Trainer(model=model, args=arguments, train_dataset=rows, callbacks=[Peaks()]).train()
    done = time.perf_counter()
    print(
        json.dumps(
            {
                "import_seconds": imported - begun,
                "load_seconds": loaded - imported,
                "step_seconds": done - loaded,
                "load_peak_allocated_bytes": load_peak,
                "steps": Peaks.steps,
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1])
