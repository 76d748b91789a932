"""Traces of one setup that outlive the process: what a second question on the same model needs, without torch.

A trace is for a batch and a length, and :mod:`.tapes_by_size` makes that of any other of a few. What decides a trace
beside them (model, adapter, precision, trainer, versions) is the caller's key; cards of one kind share traces.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Hashable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..core.files import write_whole
from .folded_tapes import FoldedTapes, document_of, folded_of, takes
from .tape import Kernel, Tape

if TYPE_CHECKING:
    from ..setup.setup import Setup
    from .folded import Folded

Size = tuple[int, int]
"""Batch and sequence."""


class NotKept(LookupError):
    """A trace is needed that is not kept, and nobody is here to make it."""


@dataclass(frozen=True)
class Outline:
    """What a prediction needs to know of a setup beside its tapes.

    Attributes:
        batch, sequence: the setup's own.
        head: elements of an attention head.
        limit: positions that the model has; None where its config sets no end.
        assumptions: what was taken as given because nothing says it; one sentence each.
        versions: of the packages that were traced; None where they are those that are installed.
        kinds: of run beyond plain fine-tuning on one card, as in ``predict.MARGINS``.
    """

    batch: int
    sequence: int
    optim: str
    checkpointing: bool
    head: int
    limit: int | None
    assumptions: tuple[str, ...] = ()
    versions: dict[str, str] | None = None
    kinds: tuple[str, ...] = ()


@dataclass
class Traces:
    """The outline and the tapes of one setup; tapes by what was traced, kind of card, batch and length."""

    outline: Outline | None = None
    tapes: dict[str, dict[Size, Tape]] = field(default_factory=dict)
    cures: dict[str, Any] = field(default_factory=dict)
    """Cures that were found, by what they were asked for."""
    pieces: dict[str, list[Folded]] = field(default_factory=dict)
    """Folded tapes by name (:func:`.folded_tapes.tape_key`), for any rank."""
    rank: int | None = None
    """That of the adapter, which tapes and cures are of; never written."""
    folded: FoldedTapes | None = None
    """The folded tapes of the setup, these or those that come with the package; never written."""

    def of(self, what: str, kind: Hashable) -> dict[Size, Tape]:
        """The tapes of steps or evaluations on machines of one kind; what is put in is kept."""
        return self.tapes.setdefault(f"{what} r {self.rank} {kind}", {})

    def write(self, path: Path) -> None:
        """Write the file whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(path, encode(self))

    @classmethod
    def read(cls, path: Path | None, rank: int | None = None) -> Traces:
        """What the file holds; empty where there is none, or none that can be read."""
        try:
            found = cls() if path is None else decode(path.read_bytes())
        except (OSError, ValueError, TypeError, KeyError, zlib.error):
            found = cls()
        found.rank = rank
        return found


def encode(traces: Traces) -> bytes:
    """A digest and the compressed tapes: those of one course share all but their sizes."""
    courses: list[dict[str, Any]] = []
    places: dict[str, int] = {}
    tapes = []
    for group, sizes in traces.tapes.items():
        for (batch, sequence), tape in sizes.items():
            course = _course(tape)
            key = hashlib.sha256(json.dumps(course).encode()).hexdigest()
            if key not in places:
                places[key] = len(courses)
                courses.append(course)
            shapes = [kernel.shape for kernel in tape.kernels]
            tapes.append([group, batch, sequence, places[key], tape.sizes, shapes])
    outline = None if traces.outline is None else asdict(traces.outline)
    document = json.dumps(
        {
            "outline": outline,
            "courses": courses,
            "tapes": tapes,
            "cures": traces.cures,
            "folded": {key: [document_of(each) for each in pieces] for key, pieces in traces.pieces.items()},
        },
        separators=(",", ":"),
    )
    content = zlib.compress(document.encode(), 6)
    return hashlib.sha256(content).hexdigest().encode() + b"\n" + content


def decode(entry: bytes) -> Traces:
    """The traces of a file.

    Raises:
        ValueError, TypeError, KeyError, zlib.error: it holds none.
    """
    digest, _, content = entry.partition(b"\n")
    if hashlib.sha256(content).hexdigest().encode() != digest:
        raise ValueError("the file is damaged")
    document = json.loads(zlib.decompress(content))
    outline = document["outline"]
    if outline is not None:
        listed = {name: tuple(outline[name]) for name in ("assumptions", "kinds")}
        outline = Outline(**outline | listed)
    pieces = {key: [folded_of(each) for each in documents] for key, documents in document["folded"].items()}
    traces = Traces(outline, cures=document["cures"], pieces=pieces)
    for group, batch, sequence, place, sizes, shapes in document["tapes"]:
        traces.tapes.setdefault(group, {})[batch, sequence] = _tape(document["courses"][place], sizes, shapes)
    return traces


def _course(tape: Tape) -> dict[str, Any]:
    """All of a tape but its sizes."""
    return {
        "events": tape.events,
        "categories": tape.categories,
        "rules": [kernel.rule for kernel in tape.kernels],
        "phases": tape.phases,
        "step_start": tape.step_start,
        "workspaces": tape.workspaces,
        "emptied": tape.emptied,
        "streams": sorted(tape.streams.items()),
    }


def _tape(course: dict[str, Any], sizes: list[int], shapes: list[list[int]]) -> Tape:
    return Tape(
        events=course["events"],
        sizes=sizes,
        categories=course["categories"],
        kernels=[Kernel(rule, tuple(shape)) for rule, shape in zip(course["rules"], shapes, strict=True)],
        phases=[(place, name) for place, name in course["phases"]],
        step_start=course["step_start"],
        workspaces=course["workspaces"],
        emptied=course["emptied"],
        streams=dict(course["streams"]),
    )


def folded_for(setup: Setup, traces: Traces) -> FoldedTapes | None:
    """The folded tapes that are kept, as those of this setup; None where they cannot be."""
    from ..setup.resolved import Taken

    values = Taken(setup)
    rank, optim = setup.lora.r, str(values["training.optim"])
    if traces.outline is None or not takes(rank, optim):
        return None
    precision = values.precision
    accumulation = values["training.gradient_accumulation_steps"]
    return FoldedTapes(
        traces.outline, lambda key: traces.pieces.get(key, ()), cast(int, rank), optim, precision, accumulation
    )
