"""A rule from the text of its page: strict YAML front matter, checked as it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from .rule import PageError, Rule, split_page


def parse_page(text: str, path: Path) -> Rule:
    """A rule from the text of its page.

    Raises:
        PageError: the front matter is not as a page's must be, or ``when`` is not allowed.
    """
    try:
        rule = Rule.model_validate({**yaml.load(split_page(text, path)[0], Loader=_Loader), "path": path})
        _ = rule.condition
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "front matter"
        raise PageError(f"{path.name}: {place}: {first['msg']}.") from error
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise PageError(f"{path.name}: {' '.join(str(error).split())}") from error
    return rule


_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):  # type: ignore[misc]
    """YAML's safe loader, the C one where there is one; a key that stands twice is an error."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """A mapping without repeated keys."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if repeated := [key for key in keys if keys.count(key) > 1]:
            raise ValueError(f"The key {repeated[0]!r} stands twice.")
        return dict(super().construct_mapping(node, deep=deep))
