"""What a batch teaches, judged by itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from qlora_doctor.facts import BatchFacts
from qlora_doctor.probes.batch import BatchLook, look_at_batches
from qlora_doctor.watching.arguments import row_limit
from qlora_doctor.watching.scaling import constant_factor, scale_facts

TOKENIZER = SimpleNamespace(pad_token_id=0, eos_token_id=2, bos_token_id=1, decode=lambda ids: " ".join(map(str, ids)))


def batch(rows: list[list[int]], labels: list[list[int]] | None = None, mask: list[list[int]] | None = None) -> Any:
    made = {"input_ids": torch.tensor(rows)}
    if labels is not None:
        made["labels"] = torch.tensor(labels)
    if mask is not None:
        made["attention_mask"] = torch.tensor(mask)
    return made


def look(*batches: Any, tokenizer: Any = TOKENIZER, config: Any = None) -> BatchFacts:
    return look_at_batches(batches, tokenizer, config)


def test_labels_that_are_the_ids() -> None:
    ids = [[1, 5, 6, 7, 2]]
    facts = look(batch(ids, ids))
    assert (facts.trained_tokens, facts.trained_ratio, facts.labels_shifted) == (5, 1.0, False)
    assert (facts.rows_fully_trained, facts.ends_trained, facts.labels_other_ratio) == (1, 1, 0.0)


@pytest.mark.parametrize("last", [-100, 2])
def test_labels_that_are_shifted(last: int) -> None:
    assert look(batch([[1, 5, 6, 7]], [[5, 6, 7, last]])).labels_shifted is True


def test_repeated_tokens_say_nothing_of_a_shift() -> None:
    same = [[5, 5, 5, 5]]
    assert look(batch(same, same)).labels_shifted is False


def test_padding_by_the_mask() -> None:
    facts = look(batch([[5, 6, 2, 0, 0, 0]], [[5, 6, 2, 0, 0, 0]], [[1, 1, 1, 0, 0, 0]]))
    assert (facts.labels_on_padding, facts.labels_on_padding_ratio, facts.tokens) == (3, 0.5, 3)


def test_padding_without_a_mask() -> None:
    facts = look(batch([[5, 6, 2, 0, 0, 0]], [[5, 6, 2, -100, -100, -100]]))
    assert (facts.labels_on_padding, facts.padding_ratio) == (0, 0.5)


def test_the_first_padding_token_may_be_the_end() -> None:
    """Padding is the end token: the first of the run ends the text, the others are padding."""
    tokenizer = SimpleNamespace(pad_token_id=2, eos_token_id=2, bos_token_id=1, decode=str)
    facts = look(batch([[5, 6, 2, 2, 2]], [[5, 6, 2, -100, -100]]), tokenizer=tokenizer)
    assert facts.pad_is_eos and facts.labels_on_padding == 0 and facts.ends_trained == 1
    masked = look(batch([[5, 6, 2, 2, 2]], [[5, 6, -100, -100, -100]]), tokenizer=tokenizer)
    assert (masked.ends_trained, masked.ends_untrained) == (0, 1)


def test_prompts_that_are_masked() -> None:
    facts = look(batch([[1, 5, 6, 7, 8, 2], [1, 5, 6, 7, 8, 2]], [[-100] * 3 + [7, 8, 2], [-100] * 6]))
    assert (facts.trained_ratio, facts.rows_untrained, facts.duplicate_rows) == (0.25, 1, 1)
    assert facts.text == "1 5 6‹7 8 2›"


def test_placeholders_and_media() -> None:
    config = SimpleNamespace(image_token_id=9, pad_token_id=0)
    ids = [[5, 9, 9, 6]]
    bare = look(batch(ids, ids), tokenizer=None, config=config)
    assert (bare.placeholders, bare.labels_on_placeholders, bare.media_given) == (2, 2, False)
    given = look(batch(ids, [[5, -100, -100, 6]]) | {"pixel_values": torch.zeros(1)}, tokenizer=None, config=config)
    assert (given.labels_on_placeholders, given.media_given) == (0, True)


def test_two_begin_tokens() -> None:
    assert look(batch([[1, 1, 5], [1, 5, 6]])).two_bos_rows == 1


def test_without_labels_nothing_is_said_of_them() -> None:
    facts = look(batch([[1, 5, 6]]))
    assert facts.trained_tokens is None and facts.labels_shifted is None and facts.rows == 1
    assert look({"pixel_values": torch.zeros(1)}).batches == 0


def test_class_labels_are_no_token_labels() -> None:
    facts = look({"input_ids": torch.tensor([[1, 5, 6]]), "labels": torch.tensor([1])})
    assert facts.trained_tokens is None


@pytest.mark.parametrize(
    ("backward", "weighted", "plain", "micro_batches", "summed", "twice"),
    [
        (2.0, 2.0, 2.1, 8, False, False),
        (16.5, 2.0, 2.1, 8, True, False),
        (0.26, 2.0, 2.1, 8, False, True),
        (6.0, 2.0, 2.1, 8, None, None),  # a loss of another kind: nobody knows
        (9.0, 2.0, 2.0, 1, False, False),
        (4.1, 2.0, 2.0, 2, True, False),
        (2.5, 1.03, 2.5, 2, False, False),  # a short row of high loss beside a long one: a mean of means is no sum
    ],
)
def test_what_the_losses_of_an_update_add_up_to(
    backward: float, weighted: float, plain: float, micro_batches: int, summed: bool | None, twice: bool | None
) -> None:
    known = scale_facts(backward, weighted, plain, micro_batches)
    assert (known["sums_over_accumulation"], known["divides_twice"]) == (summed, twice)


def test_rows_of_just_the_length_that_rows_are_cut_at() -> None:
    """A row that ends in the end token just there was not cut; one that is shorter neither."""
    rows = batch([[1, 5, 6, 7], [1, 5, 6, 2], [5, 6, 0, 0]], None, [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]])
    at_four = BatchLook(TOKENIZER, limit=4)
    at_four.look(rows)
    facts = at_four.facts()
    assert facts is not None and (facts.limit, facts.rows_cut, facts.rows) == (4, 1, 3)
    assert look(rows).rows_cut is None


def test_the_length_that_a_trainer_cuts_at() -> None:
    assert row_limit(SimpleNamespace(max_length=512, packing=False)) == 512
    assert row_limit(SimpleNamespace(max_length=512, packing=True)) is None
    assert row_limit(SimpleNamespace(max_length=None, max_seq_length=256)) == 256 and row_limit(None) is None


@pytest.mark.parametrize(
    ("backward", "mean", "factor"),
    [
        ([16.0, 15.2], [2.0, 1.9], 8.0),
        ([2.0, 1.9], [2.0, 1.9], 1.0),
        ([4.0, 3.9], [2.0, 1.9], None),  # another part was added
        ([16.0, 16.0], [2.0, 2.0], None),  # losses that do not differ
        ([16.0], [2.0], None),
        ([16.0, float("nan")], [2.0, 1.9], None),
    ],
)
def test_a_factor_shows_where_losses_differ(backward: list[float], mean: list[float], factor: float | None) -> None:
    found = constant_factor(backward, mean)
    assert found == (pytest.approx(factor) if factor is not None else None)


def test_a_loss_that_is_summed_and_not_shifted() -> None:
    known = scale_facts(12.52, 6.31, 6.31, 2, unshifted=6.26, whole=True)
    assert known["unshifted_loss"] and known["sums_over_accumulation"]
    assert not scale_facts(12.62, 6.31, 6.31, 2, unshifted=6.26, whole=True)["unshifted_loss"]


def test_rows_without_any_end() -> None:
    """A mark of a template, or a line behind it, is an end; rows of one length are cut, or blocks of a longer text."""

    def missing(rows: list[list[int]], tokenizer: Any = TOKENIZER) -> int | None:
        widest = max(map(len, rows))
        ids = [row + [0] * (widest - len(row)) for row in rows]
        labels = [row + [-100] * (widest - len(row)) for row in rows]
        return look(
            batch(ids, labels, [[1] * len(r) + [0] * (widest - len(r)) for r in rows]), tokenizer=tokenizer
        ).ends_missing

    open_ended = [[5, 6, 7], [5, 6, 7, 8], [6, 7, 8, 9, 5], [7] * 6]
    assert missing(open_ended) == 4 and missing([[*row, 2] for row in open_ended]) == 0
    assert missing([row[:3] for row in open_ended]) is None
    chat = SimpleNamespace(**vars(TOKENIZER), added_tokens_decoder={40: "<|im_end|>"})
    assert missing([[*row, 40, 10] for row in open_ended], chat) == 0
    assert missing([[*row[:2], 40, *row, 9, 9] for row in open_ended], chat) == 4
    blind = SimpleNamespace(**{**vars(TOKENIZER), "pad_token_id": 2})
    assert (
        look(batch([[5, 6, 2, 2], [5, 6, 7, 2]], [[5, 6, -100, -100], [5, 6, 7, -100]]), tokenizer=blind).ends_missing
        is None
    )
