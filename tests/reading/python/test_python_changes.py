"""What a script does with the model and the tokenizer that it loaded: read where a replay can make it, else listed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qlora_doctor.probes.config.conclude import conclude
from qlora_doctor.reading.dialects import read_setup
from qlora_doctor.run.checking import check
from qlora_doctor.setup.setup import Setup

HEAD = """\
import torch
from datasets import load_dataset
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, Trainer, TrainingArguments

tokenizer = AutoTokenizer.from_pretrained("my/model")
model = AutoModelForCausalLM.from_pretrained("my/model", quantization_config=BitsAndBytesConfig(load_in_4bit=True))
"""
ATTACH = "model = prepare_model_for_kbit_training(model)\nmodel = get_peft_model(model, LoraConfig(r=8))\n"
TRAIN = """\
trainer = Trainer(model=model, args=TrainingArguments(output_dir="o", learning_rate=1e-4), train_dataset=data)
trainer.train()
model.half()
for p in model.parameters():
    p.data = p.data * 0
"""


def read(tmp_path: Path, before: str = "", after: str = "", train: str = TRAIN) -> Setup:
    path = tmp_path / "train.py"
    path.write_text(HEAD + before + ATTACH + after + train)
    return read_setup(path)


def changes(setup: Setup) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in change.model_dump(exclude={"place"}).items() if v not in (None, [])}
        for change in setup.changes
    ]


def kinds(setup: Setup) -> list[tuple[str, int | None]]:
    return [(each.kind, each.place.line if each.place is not None else None) for each in setup.not_followed]


BEFORE: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "config": (
        "model.config.pad_token_id = tokenizer.pad_token_id\nmodel.config.use_cache = False\n"
        "model.config.pretraining_tp = 1\n",
        [
            {"kind": "config", "when": "loaded", "name": "pad_token_id", "of_tokenizer": "pad_token_id"},
            {"kind": "config", "when": "loaded", "name": "pretraining_tp", "value": 1},
        ],
    ),
    "pad token": (
        "tokenizer.pad_token = tokenizer.eos_token\ntokenizer.padding_side = 'right'\n",
        [
            {"kind": "tokenizer", "when": "loaded", "name": "pad_token", "of_tokenizer": "eos_token"},
            {"kind": "tokenizer", "when": "loaded", "name": "padding_side", "value": "right"},
        ],
    ),
    "pad token where there is none": (
        "if tokenizer.pad_token is None:\n    tokenizer.pad_token = '<pad>'\n",
        [
            {
                "kind": "tokenizer",
                "when": "loaded",
                "name": "pad_token",
                "value": "<pad>",
                "if_none": "pad_token",
            }
        ],
    ),
    "tokens": (
        "tokenizer.add_special_tokens({'pad_token': '<p>'})\ntokenizer.add_tokens(['<x>'])\n"
        "model.resize_token_embeddings(len(tokenizer))\n",
        [
            {"kind": "resize", "when": "loaded", "of_tokenizer": "len"},
            {"kind": "add-special-tokens", "when": "loaded", "value": {"pad_token": "<p>"}},
            {"kind": "add-tokens", "when": "loaded", "value": ["<x>"]},
        ],
    ),
}
CAST = {"kind": "cast", "when": "attached"}
AFTER: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "trainable parameters": (
        "for p in model.parameters():\n    if p.requires_grad:\n        p.data = p.data.to(torch.bfloat16)\n",
        [{**CAST, "value": "bfloat16", "over": "parameters", "tests": [["requires_grad"]]}],
    ),
    "norms by name, counted besides": (
        "n = 0\nfor name, param in model.named_parameters():\n    n += param.numel()\n    print(name)\n"
        "    if 'norm' in name or 'ln' in name:\n        param.data = param.data.float()\n",
        [{**CAST, "value": "float32", "over": "parameters", "tests": [["named", "norm", "ln"]]}],
    ),
    "one-dimensional ones": (
        "for param in model.parameters():\n    param.requires_grad = False\n    if param.ndim == 1:\n"
        "        param.data = param.data.to(torch.float32)\n",
        [
            {"kind": "requires-grad", "when": "attached", "value": False, "over": "parameters"},
            {**CAST, "value": "float32", "over": "parameters", "tests": [["ndim", "1"]]},
        ],
    ),
    "modules under a switch": (
        "BF16 = True\nfor name, module in model.named_modules():\n    if isinstance(module, LoraLayer):\n"
        "        if BF16:\n            module = module.to(torch.bfloat16)\n"
        "    if 'norm' in name:\n        module.float()\n"
        "    if 'lm_head' in name and hasattr(module, 'weight'):\n"
        "        if BF16 and module.weight.dtype == torch.float32:\n"
        "            module = module.to(torch.bfloat16)\n",
        [
            {**CAST, "value": "bfloat16", "over": "modules", "tests": [["instance", "LoraLayer"]]},
            {**CAST, "value": "float32", "over": "modules", "tests": [["named", "norm"]]},
            {
                **CAST,
                "value": "bfloat16",
                "over": "modules",
                "tests": [["named", "lm_head"], ["has", "weight"], ["dtype", "float32"]],
            },
        ],
    ),
    "whole model": ("model.to(torch.bfloat16)\n", [{**CAST, "value": "bfloat16", "over": "model"}]),
    "a name that is bound anew": ("for p in model.parameters():\n    p = p.to(torch.float32)\n", []),
    "only looked at": (
        "def count(m):\n    return sum(p.numel() for p in m.parameters() if p.requires_grad)\nprint(count(model))\n"
        "for n, p in model.named_parameters():\n    if p.requires_grad:\n        print(n, p.dtype)\n",
        [],
    ),
}


@pytest.mark.parametrize("name", BEFORE)
def test_changes_of_what_was_loaded(name: str, tmp_path: Path) -> None:
    code, expected = BEFORE[name]
    setup = read(tmp_path, before=code)
    assert changes(setup) == expected
    assert kinds(setup) == []
    assert all(change.place is not None and change.place.line for change in setup.changes)


@pytest.mark.parametrize("name", AFTER)
def test_changes_of_what_was_attached(name: str, tmp_path: Path) -> None:
    code, expected = AFTER[name]
    setup = read(tmp_path, after=code)
    assert changes(setup) == expected
    assert kinds(setup) == []


LINE = len((HEAD + ATTACH).split("\n"))
CLASS = """\
class Mine(Trainer):
    def compute_loss(self, model, inputs, **more):
        return model(**inputs).loss * 2
"""
LOOP = """\
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
scheduler = get_scheduler(optimizer)
loader = torch.utils.data.DataLoader(data, batch_size=3, shuffle=True)
for epoch in range(2):
    for batch in loader:
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        scheduler.step()
"""
NOT_FOLLOWED: dict[str, tuple[str, str, list[tuple[str, int]]]] = {
    "compute_loss": (
        CLASS,
        TRAIN.replace("Trainer(", "Mine("),
        [("overridden-method", LINE + 1), ("loss-ignores-count", LINE + 1)],
    ),
    "a class that does not train": (CLASS, TRAIN, []),
    "own loop": ("", LOOP, [("training-loop", LINE + 3), ("scheduler-by-hand", LINE + 8)]),
    "collator": (
        "def collate(rows):\n    return rows\n",
        TRAIN.replace("(model=model,", "(model=model, data_collator=collate,"),
        [("collator", LINE + 2)],
    ),
    "optimizer and loss": (
        "o = torch.optim.AdamW(model.parameters(), lr=1)\n",
        TRAIN.replace("(model=model,", "(model=model, optimizers=(o, None), compute_loss_func=f,"),
        [("optimizer", LINE + 1), ("loss", LINE + 1)],
    ),
    "nothing in particular": ("", TRAIN.replace("(model=model,", "(model=model, optimizers=(None, None),"), []),
    "patches": (
        "torch.nn.Linear.forward = print\nmodel.lm_head = torch.nn.Identity()\n"
        "model.model.layers[0].forward = lambda x: x\ntorch.backends.cuda.matmul.allow_tf32 = True\n",
        TRAIN,
        [("monkey-patch", LINE), ("module-replaced", LINE + 1), ("monkey-patch", LINE + 2)],
    ),
    "hook": ("model.register_forward_hook(print)\n", TRAIN, [("hook", LINE)]),
    "loop that is not understood": (
        "for p in model.parameters():\n    p.data = p.data * 2\n",
        TRAIN,
        [("loop-over-model", LINE)],
    ),
    "code that was not read": (
        "from elsewhere import prepare_it\nprepare_it(model)\n",
        TRAIN,
        [("given-to-unread-code", LINE + 1)],
    ),
    "cast under a condition": ("if unseen():\n    model.half()\n", TRAIN, [("cast", LINE + 1)]),
    "callback": (
        "class C(TrainerCallback):\n    def on_step_end(self, a, s, c, model=None, **k):\n"
        "        for p in model.parameters():\n            p.requires_grad = False\n"
        "class L(TrainerCallback):\n    def on_log(self, *a, **k):\n        print(a)\n",
        TRAIN.replace("(model=model,", "(model=model, callbacks=[C(), L()],"),
        [("callback", LINE)],
    ),
}


@pytest.mark.parametrize("name", NOT_FOLLOWED)
def test_what_is_not_followed_is_listed(name: str, tmp_path: Path) -> None:
    code, train, expected = NOT_FOLLOWED[name]
    setup = read(tmp_path, after=code, train=train)
    assert kinds(setup) == expected
    told = conclude(setup, None).not_followed or []
    assert [(each.kind, each.line) for each in told] == expected


def test_every_report_lists_them(tmp_path: Path) -> None:
    from qlora_doctor.reporters import html, markdown, text
    from qlora_doctor.reporters.verdict import verdict

    read(tmp_path, train=LOOP)
    report = check(tmp_path / "train.py", stages=("config",))
    assert report.facts.config is not None
    assert [each.kind for each in report.facts.config.not_followed or []] == ["training-loop", "scheduler-by-hand"]
    shown = text.render(report)
    assert f"train.py:{LINE + 3} not followed: A training loop of its own." in shown
    assert "2 statements not followed" in shown.splitlines()[-1]
    for other in (html.render(report), markdown.render(report)):
        assert "A training loop of its own." in other
    assert verdict(report).level != "pass"


def test_a_loop_of_its_own_tells_its_rate_and_its_batch(tmp_path: Path) -> None:
    setup = read(tmp_path, train=LOOP)
    assert (setup.training.learning_rate, setup.training.per_device_train_batch_size) == (3e-4, 3)
    assert setup.training.optim == "adamw_torch"
    facts = conclude(setup, None)
    assert (facts.loop_in_eval_mode, facts.gradient_checkpointing) == (True, True)
    healthy = conclude(read(tmp_path, train="model.train()\n" + LOOP), None)
    assert healthy.loop_in_eval_mode is False
    inside = conclude(read(tmp_path, train=LOOP.replace("    for batch", "    model.train()\n    for batch")), None)
    assert inside.loop_in_eval_mode is False
    elsewhere = LOOP + "\nclass Other:\n    def train(self):\n        self.model.train()\n"
    assert conclude(read(tmp_path, train=elsewhere), None).loop_in_eval_mode is None
    unseen = conclude(read(tmp_path, after="from x import y\ny(model)\n", train=LOOP), None)
    assert unseen.loop_in_eval_mode is None


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ("", "none"),
        (
            "for p in model.parameters():\n    if p.requires_grad:\n        p.data = p.data.to(torch.bfloat16)\n",
            "bfloat16",
        ),
        ("for n, m in model.named_modules():\n    if isinstance(m, LoraLayer):\n        m.half()\n", "float16"),
        ("for n, p in model.named_parameters():\n    if 'norm' in n:\n        p.data = p.data.half()\n", "none"),
        ("model.bfloat16()\nmodel.float()\n", "float32"),
        ("from x import y\ny(model)\n", None),
    ],
)
def test_what_the_adapter_is_cast_to(after: str, expected: str | None, tmp_path: Path) -> None:
    assert conclude(read(tmp_path, after=after), None).adapter_cast == expected


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("model.get_input_embeddings().register_forward_hook(lambda m, i, o: o)", "hook"),
        ("model.model.layers[0].mlp.down_proj.weight.zero_()", "module-replaced"),
        ("model.lm_head.weight.requires_grad = ask()", "requires-grad"),
        ("model.lm_head.weight.requires_grad = True", None),
        ("model.get_submodule('model.layers.0').requires_grad_(False)", "requires-grad"),
        ("print(model.model.layers[0].self_attn.q_proj.weight.shape)", None),
        ("model.generation_config.pad_token_id = 0", None),
    ],
)
def test_what_is_done_to_a_part_of_the_model(statement: str, kind: str | None, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "from peft import LoraConfig, get_peft_model\n"
        "from transformers import AutoModelForCausalLM, Trainer, TrainingArguments\n"
        f"model = AutoModelForCausalLM.from_pretrained('my/model')\n{statement}\n"
        "model = get_peft_model(model, LoraConfig(r=8))\n"
        "Trainer(model=model, args=TrainingArguments(output_dir='out')).train()\n"
    )
    assert [each.kind for each in read_setup(script).not_followed] == ([kind] if kind is not None else [])


@pytest.mark.parametrize(
    ("statement", "tests"),
    [
        ("model.lm_head.weight.requires_grad = True", ["under", "lm_head.weight"]),
        ("model.lm_head.requires_grad_(True)", ["under", "lm_head"]),
        ("for p in model.lm_head.parameters():\n    p.requires_grad = True", ["under", "lm_head"]),
        ("[p.requires_grad_() for n, p in model.named_parameters() if 'norm' in n]", ["named", "norm"]),
        (
            "[p.requires_grad_() for n, p in model.named_parameters() if any(k in n for k in ('a', 'b'))]",
            ["named", "a", "b"],
        ),
    ],
)
def test_a_thaw_in_few_words_is_replayed(statement: str, tests: list[str], tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "from peft import LoraConfig, get_peft_model\n"
        "from transformers import AutoModelForCausalLM, Trainer, TrainingArguments\n"
        "model = AutoModelForCausalLM.from_pretrained('my/model')\n"
        f"model = get_peft_model(model, LoraConfig(r=8))\n{statement}\n"
        "Trainer(model=model, args=TrainingArguments(output_dir='out')).train()\n"
    )
    setup = read_setup(script)
    assert setup.not_followed == []
    (change,) = setup.changes
    assert (change.kind, change.when, change.value, change.tests) == ("requires-grad", "attached", True, [tests])


LOADED = """\
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
model = get_peft_model(AutoModelForCausalLM.from_pretrained('my/model'), LoraConfig(r=8))
"""
ELSEWHERE = {
    "another framework's trainer": ("import lightning as L\nL.Trainer().fit(Module(model), loader)\n", "trainer", 5),
    "a learner": ("learner = Learner(model)\nlearner.fit(3)\n", "trainer", 5),
    "a step of its own": (
        "def step(b):\n    model(**b).loss.backward()\nEngine(step).run(loader)\n",
        "training-loop",
        5,
    ),
    "some of the parameters": (
        "for p in filter(lambda p: p.requires_grad, model.parameters()):\n    p.data = p.data.half()\n",
        "loop-over-model",
        4,
    ),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_trains_or_changes_the_model_elsewhere_is_listed(name: str, tmp_path: Path) -> None:
    code, kind, line = ELSEWHERE[name]
    script = tmp_path / "train.py"
    script.write_text(LOADED + code)
    setup = read_setup(script)
    assert (kind, line) in kinds(setup)
    assert setup.training.trainer is None or setup.is_unknown("training.learning_rate")


def test_a_switch_that_a_test_decides_is_replayed(tmp_path: Path) -> None:
    setup = read(tmp_path, after='for n, p in model.named_parameters():\n    p.requires_grad = "lora_A" in n\n')
    made = [(each.value, each.tests) for each in setup.changes if each.kind == "requires-grad"]
    assert made == [(True, [["named", "lora_A"]]), (False, [["not", "named", "lora_A"]])]
    assert not setup.not_followed


def test_samples_of_a_class_of_the_script_are_named(tmp_path: Path) -> None:
    setup = read(tmp_path, train=TRAIN.replace("train_dataset=data", 'train_dataset=Faq("/srv/faq.jsonl", tokenizer)'))
    (named,) = [each for each in setup.named_data if each.role == "train"]
    assert named.name == "/srv/faq.jsonl" and (named.key or "").startswith("Faq (line ")
