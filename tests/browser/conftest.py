"""The reports as files that a browser can open."""

from __future__ import annotations

from pathlib import Path

import pytest

from qlora_doctor.reporters import render
from qlora_doctor.reporters.comparing import compare
from qlora_doctor.reporters.comparison import render as render_comparison
from qlora_doctor.reporters.html.index import render_index
from tests.reporters import fixtures


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Address of each report's HTML file by its name, those of an index and of comparisons, and the gallery."""
    folder: Path = tmp_path_factory.mktemp("reports")
    addresses = {}
    for name, make in fixtures.ALL.items():
        path = folder / f"{name}.html"
        path.write_text(render(make(), "html"), encoding="utf-8")
        addresses[name] = path.as_uri()
    several = [make() for make in fixtures.ALL.values()]
    index = render_index(several, [f"{name}.html" for name in fixtures.ALL], [f"{name}.yaml" for name in fixtures.ALL])
    comparison = render_comparison(compare(fixtures.healthy(), fixtures.broken()), "html")
    hostile = render_comparison(compare(fixtures.hostile(), fixtures.healthy()), "html")
    for name, text in {"index": index, "comparison": comparison, "hostile-comparison": hostile}.items():
        path = folder / f"{name}.html"
        path.write_text(text, encoding="utf-8")
        addresses[name] = path.as_uri()
    gallery = Path(__file__).resolve().parents[2] / "reports" / "examples"
    return addresses | {f"gallery/{path.stem}": path.as_uri() for path in gallery.glob("*.html")}
