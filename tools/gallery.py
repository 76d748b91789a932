"""The gallery of reports under ``reports/examples``: setups, what was seen of them, and the pages.

``python tools/gallery.py`` judges the recorded facts by today's rules and writes the pages anew; it needs nothing heavy
and takes seconds. ``python tools/gallery.py --record [NAME…]`` looks at the setups again first: structure, memory and
data on the CPU, on bundled architectures and the demo's small model. Of one report nothing can be recorded here: the
tutorial's, which was measured on an H200 (``benchmarks/results/tutorial``).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the checkout's own package, whatever is installed

from qlora_doctor.core.report import Report  # noqa: E402
from qlora_doctor.reporters import html  # noqa: E402
from qlora_doctor.reporters.html.index import render_index  # noqa: E402
from qlora_doctor.run.checking import run_check  # noqa: E402
from qlora_doctor.run.outputs import write_file  # noqa: E402
from qlora_doctor.run.session import CheckOptions  # noqa: E402

GALLERY = ROOT / "reports" / "examples"
PLANNED = ((1, 2, 3, 4, 6, 8, 16), (512, 1024, 1536, 2048, 4096, 8192))
"""Batches and sequences of the plans."""
PLAN_FACTS = ("plans", "plan_traces", "plan_verified_ratio", "plan_notes", "sufficient_cards")


@dataclass(frozen=True)
class Example:
    """One page of the gallery.

    Attributes:
        setup, recorded: paths relative to ``folder``, where they are read, so that the page names them so.
        plan: record the batch × sequence table as well.
    """

    name: str
    setup: str
    recorded: str
    stages: tuple[str, ...] = ("config", "structure", "memory")
    plan: bool = False
    folder: Path = GALLERY / "setups"
    record: bool = True


def _example(name: str, **more: bool | tuple[str, ...]) -> Example:
    return Example(name, f"{name}.yaml", f"../facts/{name}.json", **more)  # type: ignore[arg-type]


EXAMPLES = (
    _example("llama-3.1-8b", plan=True),
    _example("falcon-7b"),
    _example("mixtral-8x7b"),
    _example("out-of-memory", plan=True),
    _example("masked-data", stages=("config", "structure", "data")),
    Example(
        "measured-on-h200",
        "tutorial/batch1.json",
        "results/tutorial/batch1.json",
        folder=ROOT / "benchmarks",
        record=False,
    ),
)


def pages() -> dict[str, str]:
    """Every page of the gallery by its file's name, made from the recorded facts."""
    reports = {example.name: judged(example) for example in EXAMPLES}
    reports |= {name: after_the_run(name) for name in AFTER}
    made = {f"{name}.html": html.render(report, index="index.html") for name, report in reports.items()}
    made["index.html"] = render_index(list(reports.values()), list(made))
    return made


def judged(example: Example) -> Report:
    """The recorded facts under today's rules; the moment is that of the recording."""
    with _inside(example.folder):
        recorded = Report.model_validate_json(Path(example.recorded).read_text(encoding="utf-8"))
        report = run_check(Path(example.setup), CheckOptions(facts=Path(example.recorded)))
    tool = report.tool.model_copy(update={"created": recorded.tool.created, "command": recorded.tool.command})
    return Report.model_validate_json(report.model_copy(update={"tool": tool}).model_dump_json())


AFTER = {"run-that-overfits": "course", "adapter": "stored"}
"""Pages of ``log`` and of ``adapter --load``, by their stage."""


def after_the_run(name: str) -> Report:
    """The recorded facts of a run's log, or of a stored adapter, under today's rules."""
    from qlora_doctor.run.checking import rules_of
    from qlora_doctor.run.observer import Observer
    from qlora_doctor.run.session import Session

    recorded = Report.model_validate_json((GALLERY / "facts" / f"{name}.json").read_text(encoding="utf-8"))
    options = CheckOptions()
    session = Session(rules_of(options), options, Observer())
    session.covers, session.facts = (AFTER[name],), recorded.facts
    for stage in recorded.stages:
        session.record(stage)
    session.judge()
    known = {"tool": recorded.tool, "setup": recorded.setup}
    return Report.model_validate_json(session.report().model_copy(update=known).model_dump_json())


def record_after_the_run() -> None:
    """Read a trained course of the tests; train a small adapter in 4-bit and measure the ways to serve it."""
    import tempfile

    from qlora_doctor.run.courses import judge_logs
    from qlora_doctor.run.stored import judge_stored
    from tests.stored.planting import watched_adapter

    with _inside(ROOT / "tests" / "courses" / "runs"):
        options = CheckOptions(command="qlora-doctor log overfits")
        _keep("run-that-overfits", judge_logs([Path("overfits")], options)[0])
    with tempfile.TemporaryDirectory() as place, _inside(Path(place)):
        watched_adapter(Path("base"), Path("outputs"))
        options = CheckOptions(command="qlora-doctor adapter outputs/adapter --base base --load", device="cpu")
        _keep("adapter", judge_stored(Path("outputs/adapter"), options, base=Path("base"), load=True))


def _keep(name: str, report: Report) -> None:
    kept = {each: getattr(report, each) for each in ("schema_version", "tool", "stages", "facts", "setup")}
    document = Report.model_construct(**kept).model_dump(mode="json", include=set(kept), exclude_none=True)
    text = json.dumps(_rounded(document), ensure_ascii=False, separators=(",", ":"))
    write_file(GALLERY / "facts" / f"{name}.json", text + "\n")


def record(example: Example) -> None:
    """Look at a setup and keep what was seen: facts and stages; findings are made from them."""
    from qlora_doctor.cli import example as demo

    with _inside(example.folder):
        if example.name == "masked-data":
            made = demo.make(GALLERY / "made")
            data = made.folder / "instructions.jsonl"
            for name, there in (("small-llama", made.folder / "model"), ("instructions.jsonl", data)):
                Path(name).unlink(missing_ok=True)
                Path(name).symlink_to(os.path.relpath(there, example.folder))
        command = f"qlora-doctor check {example.setup} --stage {','.join(example.stages)}"
        options = CheckOptions(stages=example.stages, offline=True, cache=False, command=command)
        report = run_check(Path(example.setup), options)
        if example.plan and report.facts.memory is not None:
            memory = report.facts.memory.model_copy(update=_planned(Path(example.setup)))
            report = report.model_copy(update={"facts": report.facts.model_copy(update={"memory": memory})})
        kept = {name: getattr(report, name) for name in ("schema_version", "tool", "stages", "facts")}
        document = Report.model_construct(**kept).model_dump(mode="json", include=set(kept), exclude_none=True)
        text = json.dumps(_rounded(document), ensure_ascii=False, separators=(",", ":"))
        write_file(Path(example.recorded), text + "\n")


def _rounded(value: object) -> object:
    """Six digits of a share say all that a page shows, and keep the recording small."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list) else value


def _planned(path: Path) -> dict[str, object]:
    """What ``plan`` finds of a setup, by the names of MemoryFacts."""
    from qlora_doctor.run.planning import run_plan
    from qlora_doctor.worker.job import PlanRequest

    batches, sequences = PLANNED
    memory = run_plan(path, PlanRequest(batches=batches, sequences=sequences), CheckOptions(offline=True)).facts.memory
    return {name: getattr(memory, name) for name in PLAN_FACTS}


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """Work in a folder: paths are shown as they are written."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def main(arguments: Sequence[str] | None = None) -> None:
    """Record where that is asked for, then write the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", nargs="*", metavar="NAME", help="look at these setups again; at all without a name")
    given = parser.parse_args(arguments)
    if given.record is not None:
        (GALLERY / "facts").mkdir(exist_ok=True)
        for example in EXAMPLES:
            if example.record and (not given.record or example.name in given.record):
                print(f"recording {example.name}", flush=True)
                record(example)
        if not given.record or set(AFTER) & set(given.record):
            record_after_the_run()
    for name, text in pages().items():
        print(f"{write_file(GALLERY / name, text).relative_to(ROOT)}: {len(text.encode()) / 1000:.0f} kB")


if __name__ == "__main__":
    main()
