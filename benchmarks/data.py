"""10,000 rows of 1,000 tokens judged, against tokenizing them: stage data of each form, its imports left out.

data.py [--rows N] [--tokens N]

Every row is looked at: the sample, 256 rows otherwise, is set to all of them. Tokenizing is one call of the same fast
tokenizer for all rows' text, no chat template rendered. Seconds are the processor's, on one core. What a user waits for
is the sample's time, recorded beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
RESULT = Path(__file__).parent / "results" / "data.json"
LIMIT = 2.0
"""At most so many times the time of tokenizing alone."""
MARKS = {"<|im_start|>": 0, "<|im_end|>": 1, "<|pad|>": 2}


def make_tokenizer(folder: Path, words: list[str]) -> Any:
    """A byte-level BPE of 32,000 tokens trained on words, as large models have, with a chat template."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    from tests.models import CHAT_TEMPLATE

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        (" ".join(words[i : i + 50]) for i in range(0, len(words), 50)), 32000, special_tokens=list(MARKS)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, eos_token="<|im_end|>", pad_token="<|pad|>")
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    LlamaConfig(vocab_size=max(32000, len(tokenizer)), max_position_embeddings=4096).save_pretrained(folder)
    return tokenizer


def make_words(count: int) -> list[str]:
    """Words of a made-up language, frequent ones short, as text has them."""
    chosen = random.Random(0)
    letters = "etaoinshrdlu"
    lexicon = ["".join(chosen.choices(letters, k=chosen.randint(2, 9))) for _ in range(20000)]
    weights = [1 / (rank + 1) for rank in range(len(lexicon))]
    return chosen.choices(lexicon, weights, k=count)


def make_rows(words: list[str], rows: int, each: int) -> list[dict[str, Any]]:
    """Conversations of two turns."""
    chosen = random.Random(1)
    found = []
    for number in range(rows):
        start = chosen.randrange(len(words) - each)
        part = words[start : start + each]
        found.append(
            {
                "messages": [
                    {"role": "user", "content": f"{number} " + " ".join(part[: each // 4])},
                    {"role": "assistant", "content": " ".join(part[each // 4 :])},
                ]
            }
        )
    return found


def configs(model: str) -> dict[str, tuple[str, dict[str, Any]]]:
    lora = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"}
    return {
        "trl": ("native.json", {
            "model": model, "lora": lora, "training": {"trainer": "trl", "max_length": 2048},
            "data": {"train": "rows.jsonl"},
        }),
        "axolotl": ("qlora.yml", {
            "base_model": model, "adapter": "qlora", "load_in_4bit": True, "lora_r": 8, "sequence_len": 2048,
            "micro_batch_size": 2, "datasets": [{"path": "rows.jsonl", "type": "chat_template"}],
        }),
        "llamafactory": ("lf.json", {
            "model_name_or_path": model, "stage": "sft", "finetuning_type": "lora", "quantization_bit": 4,
            "do_train": True, "dataset": "mine", "dataset_dir": ".", "template": "chatml", "cutoff_len": 2048,
            "output_dir": "out",
        }),
    }  # fmt: skip


def timed(do: Callable[[], Any]) -> tuple[float, Any]:
    began = time.process_time()  # of this process alone: the machine may have others at work
    value = do()
    return time.process_time() - began, value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--tokens", type=int, default=1_000)
    asked = parser.parse_args()
    from qlora_doctor.pipeline.forms import files
    from qlora_doctor.probes.data import followed, look, prepared, samples, seen
    from qlora_doctor.reading import read_setup

    result: dict[str, Any] = {"rows": asked.rows, "tokens": asked.tokens, "limit": LIMIT, "seconds": {}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = make_words(400_000)
        tokenizer = make_tokenizer(folder / "model", words)
        each = round(asked.tokens * 2000 / len(tokenizer(" ".join(words[:2000]))["input_ids"]))
        rows = make_rows(words, asked.rows, each)
        (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
        tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
        info = {"file_name": "rows.jsonl", "formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": tags}
        (folder / "dataset_info.json").write_text(json.dumps({"mine": info}))
        texts = ["\n".join(turn["content"] for turn in row["messages"]) for row in rows]
        tokenizer(texts[:200])
        plain, ids = timed(lambda: tokenizer(texts)["input_ids"])
        result["mean_tokens"] = sum(map(len, ids)) / len(ids)
        result["seconds"]["tokenizing"] = plain
        whole, sample = files.WHOLE, seen.ROWS
        see_data = look.see_data

        def looked_at(rows: int) -> None:
            for module in (followed, look, prepared, samples, seen):
                module.ROWS = rows

        for kind, (file, config) in configs(str(folder / "model")).items():
            (folder / file).write_text(json.dumps(config))
            setup = read_setup(folder / file)
            see_data(setup, lambda *given: None)  # imports
            looked_at(sample)
            short, _ = timed(lambda setup=setup: see_data(setup, lambda *given: None))
            looked_at(asked.rows)
            files.WHOLE = 1 << 30
            long, found = timed(lambda setup=setup: see_data(setup, lambda *given: None))
            looked_at(sample)
            files.WHOLE = whole
            facts = found.data
            assert facts.failure is None and facts.rows_seen == asked.rows, (kind, facts.failure, facts.rows_seen)
            result["seconds"][kind] = {"all_rows": long, "sample": short, "ratio": long / plain}
            print(
                f"{kind}: all rows {long:.1f} s, {long / plain:.2f} × tokenizing ({plain:.1f} s); sample {short:.2f} s"
            )
    result["machine"] = {"processor": platform.processor() or platform.machine(), "python": platform.python_version()}
    result["packages"] = {each: version(each) for each in ("transformers", "tokenizers", "datasets", "trl")}
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
