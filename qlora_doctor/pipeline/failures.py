"""Exceptions of the libraries → StageError: the kind, one sentence, the remedy."""

from __future__ import annotations

import errno
import re
from typing import Any

from ..core.errors import StageError

# What the messages of safetensors, torch and transformers say, most telling first. The kinds are those of
# facts.load.LoadFailure.
_SIGNS: tuple[tuple[str, str], ...] = (
    ("remote-code", r"trust_remote_code|contains custom code"),
    ("out-of-memory", r"CUDA out of memory|HIP out of memory|XPU out of memory"),
    ("host-out-of-memory", r"DefaultCPUAllocator: (can't|not enough)|Cannot allocate memory"),
    ("disk", r"No space left on device"),
    ("truncated", r"MetadataIncompleteBuffer|incomplete metadata|file not fully covered|unexpected (EOF|end of file)"),
    ("corrupt", r"HeaderTooLarge|HeaderTooSmall|InvalidHeader|invalid UTF-8|PytorchStreamReader|not a ZIP archive"),
    ("wrong-shape", r"size mismatch|mismatched sizes|ignore_mismatched_sizes|shapes? .* (mismatch|does not match)"),
    ("pickle-only", r"weights_only|Weights only load failed|UnpicklingError"),
    ("missing-file", r"no file named|does not appear to have a|No such file|couldn't find|Can't load the model"),
    ("needs-gpu", r"must be \w+ on CPU|not compiled with CUDA|[Nn]o (CUDA )?GPUs? (was |were )?(found|available)"),
    ("dtype-mismatch", r"expected .* (scalar type|dtype)|must have the same dtype"),
)
_REMEDIES = {
    "remote-code": "Read the code in the model's folder, then pass --trust-remote-code to run it.",
    "out-of-memory": "Free the card, or try a smaller model, batch or sequence.",
    "host-out-of-memory": "Free host memory, or run this stage on a machine with more of it.",
    "disk": "Free disk space.",
    "truncated": "Download or copy the file again: it ends before its header says.",
    "corrupt": "Download or copy the file again: it is damaged.",
    "wrong-shape": "config.json and the weights belong to different models; take both from the same place.",
    "pickle-only": "Convert the checkpoint to safetensors: a pickle can run code.",
    "needs-gpu": "Run this stage on a machine with a GPU.",
    "missing-file": "Complete the folder: every file that the index names has to be in it.",
}


def as_stage_error(error: BaseException, doing: str) -> StageError:
    """What went wrong while ``doing`` something ("loading the base"), for a user.

    A StageError comes back as it is.
    """
    if isinstance(error, StageError):
        return error
    kind = kind_of(error)
    text = first_sentence(error)
    return StageError(f"{doing[:1].upper()}{doing[1:]} failed: {text}", kind=kind, remedy=_REMEDIES.get(kind))


def kind_of(error: BaseException) -> str:
    """The kind of a library's exception, as in ``facts.load.LoadFailure``; ``other`` where it is none of them."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, MemoryError):
        return "host-out-of-memory"
    if type(error).__name__ == "OutOfMemoryError":
        return "out-of-memory"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "disk"
    if isinstance(error, FileNotFoundError):
        return "missing-file"
    text = _full_text(error)
    for kind, pattern in _SIGNS:
        if re.search(pattern, text):
            return kind
    if type(error).__name__ == "SafetensorError":
        return "corrupt"
    return "other"


def first_sentence(error: BaseException, limit: int = 300) -> str:
    """The first lines of an exception's message, on one line and of bearable length."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, KeyError):  # its message is the key alone
        text = f"{text} is not known."
    text = text if len(text) <= limit else text[: limit - 1].rsplit(" ", 1)[0] + " …"
    return text if text.endswith((".", "…", "!", "?")) else text + "."


def _full_text(error: BaseException) -> str:
    seen: list[Any] = []
    current: BaseException | None = error
    while current is not None and current not in seen:
        seen.append(current)
        current = current.__cause__ or current.__context__
    return "\n".join(f"{type(e).__name__}: {e}" for e in seen)
