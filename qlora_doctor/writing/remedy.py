"""A remedy in native names → the same in the user's own file: its keys, its diff, or why the file cannot say it."""

from __future__ import annotations

from pathlib import Path

from ..core.report import PatchOperation, Remediation
from ..setup.setup import Setup
from .edit import apply_patch
from .express import express
from .patch import CannotEdit, NoEditor
from .repair import repair


def in_file(setup: Setup, remediation: Remediation, kind: str | None = None) -> Remediation:
    """The remedy with its patch and diff on the file that the setup was read from.

    A patch that brings along more than it says is no longer safe, nor one of a file whose keys' meaning is guessed.
    Where the file cannot be changed so, there is no patch, and the text says why.

    Args:
        setup: what the file means.
        remediation: with a patch in native pointers.
        kind: the repair of the keys themselves, in place of a patch.
    """
    safety = remediation.safety
    try:
        if kind is not None:
            operations = repair(setup, kind)
            if all(operation.op == "remove" for operation in operations) and safety == "safe":
                safety = "unsafe"  # what the key once asked for is lost for good
        else:
            expression = express(setup, remediation.patch)
            operations = list(expression.operations)
            if safety == "safe" and (expression.follows or setup.dialect == "custom"):
                safety = "unsafe"  # what a key of a home-made config means is a guess
        return remediation.model_copy(
            update={"patch": operations, "safety": safety, "diff": diff_of(setup, operations)}
        )
    except CannotEdit as error:
        says_why = kind is None and not isinstance(error, NoEditor)
        told = f"{remediation.text} --fix cannot write it: {error}." if says_why else remediation.text
        return remediation.model_copy(update={"patch": [], "safety": "display", "text": told})


def diff_of(setup: Setup, operations: list[PatchOperation]) -> str | None:
    """Operations on the file as a unified diff; None where they change nothing.

    Raises:
        CannotEdit: the text cannot be edited in place.
    """
    document = setup._document
    if document is None or setup.file is None:
        raise CannotEdit("there is no file")
    return unified(Path(setup.file).name, document.text, apply_patch(document.text, document.format, operations))


def unified(name: str, before: str, after: str) -> str | None:
    """Two texts of a file as a unified diff; None where they are the same."""
    import difflib  # lazy: a clean config has no diff
    import io

    old, new = io.StringIO(before).readlines(), io.StringIO(after).readlines()
    lines = difflib.unified_diff(old, new, f"a/{name}", f"b/{name}")
    text = "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)
    return text or None
