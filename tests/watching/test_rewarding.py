"""Reward functions of a script, called on made-up completions: what is told of those that fail, and of no other."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qlora_doctor.watching.first_batches.completing import completions_for, matching
from qlora_doctor.watching.first_batches.request import RunData
from qlora_doctor.watching.first_batches.rewarding import reward_facts
from qlora_doctor.watching.first_batches.running import run_to_first_batches

ROWS = [{"prompt": f"What is {i} and {i}?", "answer": f"It adds up. #### {2 * i}"} for i in range(4)]
TALKS = [{"prompt": [{"role": "user", "content": row["prompt"]}], "answer": row["answer"]} for row in ROWS]
FORM = re.compile(r"^<reasoning>\n.*?\n</reasoning>\n<final>\n\d+\n</final>\n$", re.DOTALL)


class Trainer:
    """Calls its functions with what trl's GRPOTrainer and RLOOTrainer call them with."""

    def __init__(self, *functions: Callable[..., Any], weights: list[float] | None = None) -> None:
        self.reward_funcs = list(functions)
        self.reward_processing_classes = [None] * len(functions)
        self.reward_func_names = [str(function) for function in functions]
        self.reward_weights = weights

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, ids: Any) -> None:
        columns = {name: [row[name] for row in inputs] for name in inputs[0] if name != "prompt"}
        for function in self.reward_funcs:
            function(prompts=prompts, completions=completions, completion_ids=ids, trainer_state=None, **columns)


def looked_at(trainer: Trainer, rows: Any = ROWS, asked: Any = ()) -> dict[str, Any]:
    return reward_facts(
        trainer, rows, None, lambda function: "reward", lambda error: f"{type(error).__name__}: {error}", asked
    )


def exact(completions: list[str], answer: list[str], **_: Any) -> list[float]:
    return [
        float(each.strip() == right.split("####")[-1].strip()) for each, right in zip(completions, answer, strict=True)
    ]


def wrong_type(completions: list[Any], answer: list[str], **_: Any) -> list[float]:
    return [float(each == int(right.split("####")[-1])) for each, right in zip(completions, answer, strict=True)]


def in_form(completions: list[str], **_: Any) -> list[float]:
    return [float(FORM.match(each) is not None) for each in completions]


def other_column(completions: list[str], solution: list[str], **_: Any) -> list[float]:
    return [0.0 for _ in completions]


def taken_apart(completions: list[str], **_: Any) -> list[float]:
    return [float(each.split()[0] == "I") for each in completions]


def once(completions: list[str], **_: Any) -> list[float]:
    return [1.0]


def bare(completions: list[str], **_: Any) -> float:
    return 1.0


def texts(completions: list[str], **_: Any) -> list[str]:
    return ["1.0" for _ in completions]


def nothing(completions: list[str], **_: Any) -> list[None]:
    return [None for _ in completions]


def always(completions: list[str], **_: Any) -> list[float]:
    return [1.0 for _ in completions]


def penalty(completions: list[str], **_: Any) -> list[float]:
    return [-0.5 if "delve" in each else 0.0 for each in completions]


def of_text(completions: list[str], **_: Any) -> list[float]:
    return [float(len(each.split())) for each in completions]


def of_talk(completions: list[Any], **_: Any) -> list[float]:
    return [float("Final Answer: " in each[0]["content"]) for each in completions]


async def waits(completions: list[str], **_: Any) -> list[float]:
    return [float(len(each)) for each in completions]


@pytest.mark.parametrize(
    ("function", "field", "said"),
    [
        (other_column, "reward_raises", "missing 1 required positional argument: 'solution'"),
        (taken_apart, "reward_raises_on", "first on '': IndexError"),
        (once, "reward_counts", "returns 1 for "),
        (bare, "reward_unusable", "returns float 1.0, no list"),
        (texts, "reward_unusable", "returns str '1.0' as a reward"),
        (nothing, "reward_unscored", "reward"),
    ],
)
def test_a_function_that_fails_is_told_by_what_it_did(function: Any, field: str, said: str) -> None:
    found = looked_at(Trainer(function))
    assert said in found.pop(field)
    others = {name: value for name, value in found.items() if isinstance(value, str)}
    assert set(others.values()) == {"none"} and "reward_spread" not in found


@pytest.mark.parametrize("function", [always, wrong_type])
def test_a_reward_that_tells_nothing_apart(function: Any) -> None:
    assert looked_at(Trainer(function))["reward_spread"] == 0
    assert looked_at(Trainer(function, exact))["reward_spread"] > 0  # one of them is enough
    assert looked_at(Trainer(function, exact, weights=[1.0, 0.0]))["reward_spread"] == 0


@pytest.mark.parametrize(
    ("function", "rows"), [(exact, ROWS), (in_form, ROWS), (penalty, ROWS), (waits, ROWS), (of_talk, TALKS)]
)
def test_healthy_functions_tell_completions_apart(function: Any, rows: Any) -> None:
    found = looked_at(Trainer(function), rows)
    assert found["reward_spread"] > 0
    assert {value for value in found.values() if isinstance(value, str)} == {"none"}


def test_a_completion_of_messages_is_a_list() -> None:
    assert "'list' object has no attribute 'split'" in looked_at(Trainer(of_text), TALKS)["reward_raises"]


def test_nothing_is_said_of_what_needs_more_than_is_here() -> None:
    asked: list[str] = []

    def judge(completions: list[str], **_: Any) -> list[float]:
        asked.append("judge.example")
        return [0.0 for _ in completions]

    def offline(completions: list[str], **_: Any) -> list[float]:
        raise ConnectionError("judge.example")

    assert "reward_spread" not in looked_at(Trainer(judge), asked=asked)
    assert looked_at(Trainer(offline)) == {}
    assert looked_at(Trainer()) == {}
    assert looked_at(Trainer(exact), [{"input_ids": [1]}]) == {}


@pytest.mark.parametrize(
    "pattern",
    [r"#### (-?[\d,.]+)", r"<answer>(.*?)</answer>", r"^\\boxed\{[^}]+\}$", r"(?:A|B)\s*=\s*(\w+)\n\1", r"[^a1]+z{2}"],
)
def test_a_text_is_made_that_a_pattern_matches(pattern: str) -> None:
    made = matching(pattern, "12")
    assert made is not None and re.search(pattern, made, re.DOTALL)


def test_what_is_no_pattern_makes_no_text() -> None:
    assert matching("answer", "12") is None and matching("([", "12") is None
    assert completions_for(ROWS[0], [exact]) == completions_for(ROWS[0], [exact])


SCRIPT = """
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from trl import GRPOConfig, GRPOTrainer

model = AutoModelForCausalLM.from_pretrained({model!r}, quantization_config=BitsAndBytesConfig(load_in_4bit=True))
data = Dataset.from_list([{{"prompt": f"What is {{i}}?", "answer": str(i)}} for i in range(12)])

def accuracy(completions, answer, **kwargs):
    return [float(c.strip() == a) for c, a in zip(completions, answer)]

def other(completions, **kwargs):
    return [float(c == s) for c, s in zip(completions, kwargs["solution"])]

args = GRPOConfig("out", num_generations=4, per_device_train_batch_size=4, report_to="none")
tokenizer = AutoTokenizer.from_pretrained({model!r})
GRPOTrainer(model, reward_funcs=[accuracy, other], args=args, train_dataset=data, processing_class=tokenizer,
            peft_config=LoraConfig(target_modules=["q_proj"])).train()
"""


@pytest.mark.slow
def test_the_functions_of_a_script_are_called(tiny_llama: Path, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    script = tmp_path / "train.py"
    script.write_text(SCRIPT.format(model=str(tiny_llama)), encoding="utf-8")
    outcome = run_to_first_batches(RunData(script=str(script)), lambda *given: None)
    assert outcome.data is not None, outcome.reason
    assert outcome.data.reward_functions == ["accuracy (train.py:10)", "other (train.py:13)"]
    assert outcome.data.reward_raises == "other (train.py:13): KeyError: 'solution' in other (train.py:14)"
