"""From a symptom in a user's words to the rules that may explain it: BM25 over the words of the pages."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .load import load_rules
from .rule import Rule

# Robertson & Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009): k1 in 1.2…2, b = 0.75.
_K1 = 1.5
_B = 0.75
_STOP_WORDS = """
a an and are as at be been but by can do does doing for from get gets had has have how i if in into is it its just me my
of on or so some that the their them then there this to up was we were what when which while why will with you your
after any all am than too very really keep keeps seems look looks like go goes going
"""
_STOP = frozenset(_STOP_WORDS.split())
_SYNONYMS = {
    "out of memory": "oom",
    "gpu memory": "vram",
    "gpu": "cuda card",
    "explode": "diverge diverges blows spikes",
    "decrease": "drop drops down fall falls",
    "learn": "improve improves learning",
    "unchanged": "flat stuck constant same",
    "learning-rate": "lr rate",
    "4-bit": "4bit 4 four",
    "quantized": "quantised quantisation",
    "fail": "crash crashes dies error",
    "parameters": "params param weights",
    "high": "huge large big",
    "slow": "slower slowly",
}
_SAME = {word: common for common, words in _SYNONYMS.items() for word in words.split()}
_FRAME_WORDS = """
attributeerror typeerror valueerror keyerror runtimeerror importerror indexerror assertionerror attribut object argument
keyword unexpect got fail
"""
_FRAME = frozenset(_FRAME_WORDS.split())
"""Words, as ``tokens`` gives them, that errors of all kinds use: they say little about which one it is."""
_FRAME_WEIGHT = 0.25
_LEAST_COVERED = 0.3
"""Share of a question's weight that a page has to hold, so that it is not named for a word or two."""
_ENDINGS = (
    *("ization", "isation", "ations", "ation", "ings", "ing", "ized", "ised", "ies"),
    *("ers", "ed", "er", "es", "ly", "s", "e"),
)
_TELLING = 5
"""Words of a symptom below which it may be in a message by chance."""
_PYTHONS_OWN = {
    "list index out of range", "got an unexpected keyword argument", "missing 1 required positional argument",
    "too many values to unpack (expected 2)",
}  # fmt: skip
"""Symptoms that are Python's own words, for whatever went wrong."""


@dataclass(frozen=True)
class Match:
    """A rule that a symptom points to.

    Attributes:
        score: relevance; only its order means something.
        symptom: the page's own wording that is nearest.
    """

    rule: Rule
    score: float
    symptom: str


def search_symptoms(text: str, limit: int = 5) -> list[Match]:
    """Rules that may explain a symptom, the likeliest first; empty where no page has a good part of its words.

    Args:
        text: a sentence, or a piece of an error message.
    """
    pages = load_rules()
    words = list(dict.fromkeys(tokens(text)))
    documents = [_document(rule) for rule in pages]
    weights = _weights(words, documents)
    scores = _bm25(words, documents, weights)
    whole = sum(weights.values())
    matches = [
        Match(rule, score + closeness, symptom)
        for rule, document, score in zip(pages, documents, scores, strict=True)
        if sum(weights[word] for word in words if word in document) > _LEAST_COVERED * whole
        for closeness, symptom in [_nearest(words, rule)]
    ]
    matches.sort(key=lambda match: (-match.score, match.rule.id))
    return [match for match in matches[:limit] if match.score > 0.25 * matches[0].score]


def rule_of_message(message: str) -> Rule | None:
    """The one rule of which a symptom is an error's message: word for word, whatever stands in between."""
    said = _plain_words(message)
    found = {
        rule.id: (len(words), rule)
        for rule in load_rules()
        for symptom in rule.symptoms
        if symptom not in _PYTHONS_OWN and len(words := _plain_words(symptom)) >= _TELLING and _in_order(words, said)
    }
    most = max((length for length, _ in found.values()), default=0)
    longest = [rule for length, rule in found.values() if length == most]
    return longest[0] if len(longest) == 1 else None


def _plain_words(text: str) -> list[str]:
    return re.findall(r"[\w']+", text.lower())


def _in_order(words: Sequence[str], said: Sequence[str]) -> bool:
    rest = iter(said)
    return all(word in rest for word in words)


def _weights(words: Sequence[str], documents: Sequence[Counter[str]]) -> dict[str, float]:
    """What each word tells: more where few pages have it, most where none has, little of an error's frame."""
    told = {}
    for word in words:
        holding = sum(word in document for document in documents)
        rarity = math.log(1 + (len(documents) - holding + 0.5) / (holding + 0.5))
        told[word] = rarity * (_FRAME_WEIGHT if word in _FRAME else 1)
    return told


def tokens(text: str) -> list[str]:
    """Words of a text, brought to one form: lower case, common synonyms, endings cut, identifiers also in parts."""
    words: list[str] = []
    for word in re.findall(r"[a-z0-9_]+(?:-bit)?", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", text).casefold()):
        parts = [part for part in word.split("_") if part]
        words += [word, *parts] if len(parts) > 1 else parts
    same = [form for word in words for form in _SAME.get(word, word).split()]
    return [_stem(word) for word in same if word not in _STOP]


def _stem(word: str) -> str:
    """The word without its ending. Crude, but the same for pages and questions, which is all that matters."""
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


def _document(rule: Rule) -> Counter[str]:
    """Weighted words of a page; symptoms are what a user is most likely to say."""
    fields = (
        (3, " ".join(rule.symptoms)),
        (2, f"{rule.name} {rule.title} {' '.join(rule.failures)}"),
        (1, f"{re.sub(r'{[{%].*?[%}]}', ' ', rule.message)} {' '.join(rule.tags)}"),
        (1, rule.sections.get("What it checks", "") + rule.sections.get("Why it matters", "")),
    )
    counts: Counter[str] = Counter()
    for weight, text in fields:
        for word, count in Counter(tokens(text)).items():
            counts[word] += weight * count
    return counts


def _bm25(words: Sequence[str], documents: Sequence[Counter[str]], weights: Mapping[str, float]) -> list[float]:
    lengths = [sum(document.values()) for document in documents]
    mean = sum(lengths) / max(len(lengths), 1) or 1.0
    scores = [0.0] * len(documents)
    for word in words:
        for index, document in enumerate(documents):
            count = document[word]
            scores[index] += weights[word] * count * (_K1 + 1) / (count + _K1 * (1 - _B + _B * lengths[index] / mean))
    return scores


def _nearest(words: Sequence[str], rule: Rule) -> tuple[float, str]:
    """How much of the question the best single symptom covers (a bonus of 0…3), and that symptom."""
    wanted = set(words)

    def covered(symptom: str) -> float:
        own = set(tokens(symptom))
        return 3 * len(wanted & own) / max(len(wanted | own), 1)

    return max((covered(symptom), symptom) for symptom in rule.symptoms)
