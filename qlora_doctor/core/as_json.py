"""A model as JSON values, without its serializer."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, SerializerFunctionWrapHandler, model_serializer
from pydantic_core import to_jsonable_python


class Sparse(BaseModel):
    """A model of which a document holds the fields that were given, and no others."""

    @model_serializer(mode="wrap")
    def _fields_given(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in whole(self).items() if name in self.model_fields_set}


def as_json(model: BaseModel) -> dict[str, Any]:
    """What ``model.model_dump(mode="json")`` gives, of a model without serializers of its own but :class:`Sparse`'s.

    pydantic builds a serializer at the first dump; for a Setup that is a tenth of the time that a config check takes
    beyond its imports.
    """
    return to_jsonable_python(_unfolded(model))  # type: ignore[no-any-return]


def _unfolded(value: Any) -> Any:
    if isinstance(value, BaseModel):
        given = value.model_fields_set if isinstance(value, Sparse) else value.__dict__.keys()
        return {name: _unfolded(inner) for name, inner in value.__dict__.items() if name in given}
    if isinstance(value, dict):
        return {key: _unfolded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_unfolded(inner) for inner in value]
    return value
