"""What the child tells the parent while stages run: one JSON object a line, typed on both sides."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from ..core.report import StageRecord
from ..core.text import cleaned
from ..facts import Fact, subject_types


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    job: int = 0
    """Number of the event's job."""


class Start(_Event):
    """A stage begins."""

    kind: Literal["start"] = "start"
    name: str


class Progress(_Event):
    """Something moved within a stage."""

    kind: Literal["progress"] = "progress"
    text: str
    done: int | None = None
    total: int | None = None
    unit: str | None = None
    known: bool = False
    """True where it tells a result before the stage has ended, which is shown however soon it comes."""
    waits: bool = False
    """True where nothing moves until another job ends; until the next event, time does not count."""


class Learned(_Event):
    """Facts of one subject, whole: they replace what was known of it."""

    kind: Literal["facts"] = "facts"
    subject: str
    value: Any
    """In the parent the typed facts, on the wire their JSON."""


class End(_Event):
    """A stage ended."""

    kind: Literal["end"] = "end"
    record: StageRecord
    lasting: bool = False
    """True where the same setup on the same machine would end the same way again."""


class Finished(_Event):
    """The job's last stage ended."""

    kind: Literal["finished"] = "finished"
    spent: bool = False
    """True where the child does no further job."""


Event = Start | Progress | Learned | End | Finished
_WIRE: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="kind")])


def encode(event: Event, job: int | None = None) -> bytes:
    """One line; ``job`` says whose it is where the event does not."""
    changes: dict[str, Any] = {} if job is None else {"job": job}
    if isinstance(event, Learned) and isinstance(event.value, Fact):
        changes["value"] = event.value.model_dump(mode="json")
    if changes:
        event = event.model_copy(update=changes)
    try:
        return event.model_dump_json().encode() + b"\n"
    except ValueError:  # text from a model or its data that is no text
        return cleaned(event).model_dump_json().encode() + b"\n"


def decode(line: bytes) -> Event:
    """The event of a line, its facts typed.

    Raises:
        ValueError: the line is no event.
    """
    event = _WIRE.validate_json(line)
    if isinstance(event, Learned):
        annotation = subject_types().get(event.subject)
        if annotation is None:
            raise ValueError(f"there are no facts called {event.subject!r}")
        value = TypeAdapter(annotation).validate_python(event.value)
        return event.model_copy(update={"value": value})
    return event
