"""Which warnings of the libraries are worth a finding."""

from __future__ import annotations

import logging

import pytest

from qlora_doctor.probes.observing.overheard import Overhearing
from qlora_doctor.watching.warned import telling


def test_a_key_that_matches_nothing_is_worth_one() -> None:
    said = "The following rank_pattern keys did not match any targeted module and were ignored: ['layers.9.q']."
    passing = "`use_cache=True` is incompatible with gradient checkpointing. Setting `use_cache=False`."
    assert telling([passing, said]) == [said]


def test_a_record_that_nobody_else_wants_is_printed_as_before(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("bitsandbytes.planted")
    listening = Overhearing()
    kept = logging.getLogger().handlers[:]
    logging.getLogger().handlers[:] = []  # pytest listens there
    try:
        logger.warning("nobody handles this %s", "one")
        logger.warning("its arguments do not fit", 1)
    finally:
        logging.getLogger().handlers[:] = kept
        listening.close()
    assert listening.heard == ["nobody handles this one"]
    assert "nobody handles this one" in capsys.readouterr().err
