"""trl's methods beside supervised fine-tuning: their trainers, rows of their data, and the loss they start at."""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..core.errors import StageError
from ..setup.setup import ONLINE, SUPERVISED, Setup
from .batches import Batches, no_tokenizer, rows_of_a_step, sequence_length
from .inputs import token_rows
from .samples import read_samples

Row = dict[str, Any]
Words = Callable[[int], str]
"""So many words of text; each is one token of :func:`word_tokenizer`."""
_COMPLETION = 8
"""Tokens that a method generates in a step at most."""
_PROMPT = 32
"""Tokens of a made-up prompt at most that is to be completed."""


@dataclass(frozen=True)
class Method:
    """A method of trl.

    Attributes:
        trainer: class, looked for in each of ``modules``; ``arguments`` is the class of its arguments.
        row: a made-up row of its data, by length in tokens and place.
        columns: of a row as the trainer reads it; those that a file does not have are left out.
        generates: the policy writes the answers itself, and their rewards are made up here.
        fixed: arguments that make the trainer this method.
    """

    trainer: str
    arguments: str
    row: Callable[[int, int, Words], Row]
    modules: tuple[str, ...] = ("trl",)
    columns: tuple[str, ...] = ("prompt", "chosen", "rejected")
    generates: bool = False
    fixed: tuple[tuple[str, Any], ...] = ()


def _pair(length: int, place: int, words: Words) -> Row:
    """A prompt of half the length, and two answers that fill the rest."""
    half = length // 2
    return {"prompt": words(half), "chosen": " " + words(length - half), "rejected": " " + words(length - half)}


def _pair_without_prompt(length: int, place: int, words: Words) -> Row:
    # The trainer adds the token that ends a text, and drops rows that are longer than max_length.
    return {"chosen": words(length - 1), "rejected": words(length - 1)}


def _labelled(length: int, place: int, words: Words) -> Row:
    """A prompt and an answer; every second one is desirable."""
    half = length // 2
    return {"prompt": words(half), "completion": " " + words(length - half), "label": place % 2 == 0}


def _prompt(length: int, place: int, words: Words) -> Row:
    return {"prompt": words(length)}


def _odds(module: str) -> tuple[str, ...]:
    """Where a trainer is that trl moved out of its front room in 2026."""
    return "trl", f"trl.experimental.{module}"


_LABELLED = ("prompt", "completion", "label", "chosen", "rejected")
METHODS = {
    "dpo": Method("DPOTrainer", "DPOConfig", _pair),
    "ipo": Method("DPOTrainer", "DPOConfig", _pair, fixed=(("loss_type", "ipo"),)),
    "kto": Method("KTOTrainer", "KTOConfig", _labelled, _odds("kto"), _LABELLED),
    "reward": Method("RewardTrainer", "RewardConfig", _pair_without_prompt),
    "orpo": Method("ORPOTrainer", "ORPOConfig", _pair, _odds("orpo")),
    "cpo": Method("CPOTrainer", "CPOConfig", _pair, _odds("cpo")),
    "simpo": Method("CPOTrainer", "CPOConfig", _pair, _odds("cpo"), fixed=(("loss_type", "simpo"),)),
    "grpo": Method("GRPOTrainer", "GRPOConfig", _prompt, columns=("prompt",), generates=True),
    "rloo": Method("RLOOTrainer", "RLOOConfig", _prompt, columns=("prompt",), generates=True),
}
"""By the names that configs have for them."""


def method_of(setup: Setup) -> Method | None:
    """The method that the setup trains by, where trl's own trainer of it is stepped; None for any other."""
    return METHODS.get(str(setup.training.method))


_WANTS = {
    "ppo": "a value model and a reward model beside the policy",
    "rm": "a head of one value on the language model itself",
    **dict.fromkeys(("embedding", "reranker", "generative_reranker"), "texts that are compared with each other"),
    "prm": "a label for each step of an answer",
    **dict.fromkeys(("gkd", "gold", "minillm", "iw-opd", "distillation"), "a teacher model"),
    **dict.fromkeys(ONLINE, "a judge or a reward model of its own answers"),
}
"""What a trainer has beside what is built here, by method."""


def why_not_stepped(setup: Setup) -> str | None:
    """Why no step of the setup's method is taken, one sentence; None where its trainer, or one of supervised
    fine-tuning, is stepped."""
    method = setup.training.method
    if method is None and setup.training.num_generations is not None and setup.is_unknown("training.method"):
        return f"No step is taken: {setup.origins['training.method'].note}"
    if method in SUPERVISED or method in METHODS:
        return None
    wants = _WANTS.get(str(method))
    reason = f"it wants {wants}" if wants is not None else "its trainer is none of those that are built here"
    return f"No step of {method} is taken, and one of supervised fine-tuning would say nothing of it: {reason}."


def classes_of_method(method: Method, setup: Setup) -> tuple[Any, Any]:
    """The trainer's class and that of its arguments.

    Raises:
        StageError: the installed trl has no such trainer, or there is no trl.
    """
    for module in method.modules:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # "trl.experimental may change"
                found = importlib.import_module(module)
                return getattr(found, method.trainer), getattr(found, method.arguments)
        except (ImportError, AttributeError):
            continue
    raise StageError(
        f"The setup trains with {method.trainer} of trl, which is not installed.",
        remedy="pip install 'qlora-doctor[trl]'",
        place=setup.place("training.method") or setup.place("training.trainer"),
    )


def method_batches(setup: Setup, method: Method, model: Any, tokenizer: Any, *, steps: int, synthetic: bool) -> Batches:
    """Rows for some steps of a method, which its trainer tokenises: the config's own, or made up.

    Args:
        model: the (PEFT) model, for its vocabulary.
        tokenizer: the model's own; None where there is none.

    Raises:
        StageError: the data cannot be read, or there is no tokenizer to read it with.
    """
    from datasets import Dataset

    needed = rows_of_a_step(setup) * steps
    length = sequence_length(setup, model.config)
    if setup.data.train and not synthetic:
        if tokenizer is None:
            raise no_tokenizer(setup)
        samples = read_samples(setup, max(needed, 64))
        rows = [{name: row[name] for name in method.columns if name in row} for row in samples.rows]
        return Batches(Dataset.from_list(rows), None, "file", tokenizer, length, samples, method=setup.training.method)
    length = min(length, _PROMPT) if method.generates else length
    made, words = word_tokenizer(model)
    rows = [method.row(length, place, words) for place in range(max(needed, 2))]
    return Batches(Dataset.from_list(rows), None, "synthetic", made, length, method=setup.training.method)


def arguments_of_method(method: Method, arguments: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    """The trainer's arguments as a probe's run takes them: few tokens are generated, and by the model itself."""
    chosen = {**arguments, **dict(method.fixed)}
    for name in ("model_init_kwargs", "log_completions"):
        chosen.pop(name, None)
    if not method.generates:
        return chosen
    if chosen.pop("use_vllm", None):
        notes.append("training.use_vllm was left out: the model generates by itself.")
    asked = chosen.get("max_completion_length")
    chosen["max_completion_length"] = min(_COMPLETION, asked) if asked else _COMPLETION
    notes.append(
        f"The step generates {chosen['max_completion_length']} tokens an answer, and the rewards of them are made up."
    )
    return chosen


def options_of_method(method: Method, arguments: dict[str, Any]) -> dict[str, Any]:
    """What the trainer takes beside model, arguments and data: rewards that differ from answer to answer."""
    if not method.generates:
        return {}
    weights = arguments.get("reward_weights")
    return {"reward_funcs": [made_up_rewards] * (len(weights) if isinstance(weights, list) and weights else 1)}


def made_up_rewards(completions: list[Any], **_: Any) -> list[float]:
    """A reward for each answer; every second one is the better."""
    return [float(place % 2) for place in range(len(completions))]


def start_of_loss(trainer: Any, method: Method) -> float | None:
    """What the loss is before the first update where policy and reference are the same; None where nothing fixes it.

    With equal log-probabilities every difference is zero: ``DPOTrainer._compute_loss`` and ``KTOTrainer._compute_loss``
    of trl 1.16 (sigmoid: ln 2, hinge: 1, IPO: (1 / 2β)², KTO: half of each answer's weight).
    """
    args = trainer.args
    kinds = getattr(args, "loss_type", None)
    kinds = [kinds] if isinstance(kinds, str) else kinds
    unlike = getattr(args, "use_weighting", False) or getattr(args, "loss_weights", None)
    # What was computed beforehand was computed in other batches, whose padding rounds otherwise.
    unlike = unlike or getattr(args, "precompute_ref_log_probs", False)
    if not kinds or len(kinds) != 1 or unlike or getattr(trainer, "aux_loss_enabled", False):
        return None
    kind, beta = kinds[0], getattr(args, "beta", None)
    if method.trainer == "DPOTrainer" and not getattr(args, "reference_free", False):
        # Other divergences than the reverse KL shift what is compared.
        if str(getattr(args, "f_divergence_type", "reverse_kl")).rpartition(".")[2].lower() != "reverse_kl":
            return None
        if kind in ("sigmoid", "robust"):
            return math.log(2)
        if kind == "hinge":
            return 1.0
        return (1 / (2 * beta)) ** 2 if kind == "ipo" and beta else None
    if method.trainer == "KTOTrainer" and kind in ("kto", "apo_zero_unpaired"):
        weights = {getattr(args, "desirable_weight", 1.0), getattr(args, "undesirable_weight", 1.0)}
        return weights.pop() / 2 if len(weights) == 1 else None
    return None


def word_tokenizer(model: Any = None) -> tuple[Any, Words]:
    """A tokenizer that makes one token of each word, and random words of it.

    Args:
        model: the words are ids that its embedding has and that mean nothing special to it; None: one word alone.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3}
    numbers = [4] if model is None else sorted(set(token_rows(model, 1, 2048)[0].tolist()) - set(words.values()))
    words |= {f"w{number}": number for number in numbers}
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    generator = torch.Generator().manual_seed(0)

    def draw(count: int) -> str:
        places = torch.randint(0, len(numbers), (count,), generator=generator).tolist()
        return " ".join(f"w{numbers[place]}" for place in places)

    return tokenizer, draw
