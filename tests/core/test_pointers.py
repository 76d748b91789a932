"""JSON pointers: every step comes back as it was."""

from __future__ import annotations

import pytest

from qlora_doctor.core.pointers import dotted, escaped, join_pointer, split_pointer


@pytest.mark.parametrize("steps", [[], ["a"], ["a", "b"], ["a/b", "c~d"], ["~1", "~0", ""]])
def test_there_and_back(steps: list[str]) -> None:
    assert split_pointer(join_pointer(steps)) == steps


def test_spelling() -> None:
    """The examples of RFC 6901, section 5."""
    assert join_pointer(["a/b"]) == "/a~1b" and join_pointer(["m~n"]) == "/m~0n"
    assert escaped("~1") == "~01" and dotted("/lora/target~1modules") == "lora.target/modules"
