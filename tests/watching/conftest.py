"""A run sees the objects of its process; one test's are not the next one's."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def nothing_left_of_other_tests() -> Iterator[None]:
    """What is alive before a test is out of ``gc.get_objects``'s sight while it runs."""
    gc.freeze()
    yield
    gc.unfreeze()
