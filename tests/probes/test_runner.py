"""The child process: events in order, and every way in which it can end early."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qlora_doctor.core.report import StageRecord
from qlora_doctor.facts import AdapterFacts, Facts, LoadFacts, MemoryFacts, ModelFacts
from qlora_doctor.setup.setup import Setup
from qlora_doctor.worker import process as module
from qlora_doctor.worker.events import End, Event, Learned, Progress, Start, decode, encode
from qlora_doctor.worker.job import Job
from qlora_doctor.worker.options import RunOptions
from qlora_doctor.worker.runner import run_stages
from tests.probes.conftest import make_setup

HERE = Path(__file__).resolve()


def of_kind(events: list[Event], kind: type) -> list[Event]:
    return [event for event in events if isinstance(event, kind)]


def records(events: list[Event]) -> dict[str, StageRecord]:
    return {event.record.name: event.record for event in events if isinstance(event, End)}


def learned(events: list[Event]) -> dict[str, object]:
    return {event.subject: event.value for event in events if isinstance(event, Learned)}


@pytest.fixture
def child_runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """``child_runs(code)``: the child does this in the place of stage ``load``; torch is not imported."""

    def use(code: str, stage: str = "load") -> None:
        lines = [
            "import sys; sys.path[:] = [p for p in sys.path if p] + [PARENT]",
            "from qlora_doctor.facts import LoadFacts",
            "from qlora_doctor.worker import worker",
            "def planted(run):",
            textwrap.indent(textwrap.dedent(code).strip(), "    "),
            f"worker.STAGES[{stage!r}] = planted",
            "worker.main()",
        ]
        # The runner fills in the parent folder with str.format.
        plant = "\n".join(lines).replace("{", "{{").replace("}", "}}").replace("PARENT", "{parent!r}")
        monkeypatch.setattr(module, "_ENTRY", plant)

    yield use


def job(setup: Setup, *stages: str, facts: Facts | None = None, **options: Any) -> Job:
    return Job(setup=setup, stages=stages, facts=facts or Facts(), options=RunOptions(**options))


def run(*stages: str, timeout: float | None = 60, facts: Facts | None = None, **options: Any) -> list[Event]:
    return list(run_stages(job(make_setup("nowhere"), *stages, timeout=timeout, facts=facts, **options)))


@pytest.mark.parametrize(
    "event",
    [
        Start(name="load"),
        Progress(text="Loading", done=1, total=2, unit="bytes"),
        Learned(subject="adapter", value=AdapterFacts(attached=True, matched_modules=["a"])),
        End(record=StageRecord(name="load", status="failed", reason="Why.", remedy="Do.", seconds=1.0)),
    ],
)
def test_events_survive_the_pipe(event: Event) -> None:
    line = encode(event)
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    assert decode(line) == event


def test_unknown_facts_are_no_event() -> None:
    with pytest.raises(ValueError, match="no facts called"):
        decode(b'{"kind": "facts", "subject": "nonsense", "value": {}}')


def test_the_parent_imports_nothing_heavy() -> None:
    code = "import sys, qlora_doctor.worker.runner; print('torch' in sys.modules or 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=HERE.parents[2], check=True)
    assert done.stdout.strip() == "False"


def test_all_stages_of_a_healthy_setup(tiny_llama: Path) -> None:
    pytest.importorskip("bitsandbytes")
    stages = ("structure", "memory", "data", "load", "step")
    before = {f.name: f.stat().st_mtime_ns for f in tiny_llama.iterdir()}
    events = list(run_stages(job(make_setup(tiny_llama), *stages, device="cpu", timeout=120, offline=True)))
    ended = records(events)
    assert tuple(ended) == stages
    assert [e.name for e in of_kind(events, Start)] == list(stages)  # type: ignore[union-attr]
    assert {n: r.status for n, r in ended.items() if n != "memory"} == {
        "structure": "done",
        "data": "skipped",
        "load": "done",
        "step": "done",
    }
    assert ended["data"].reason and ended["data"].remedy
    facts = Facts(**learned(events))  # type: ignore[arg-type]
    assert facts.model and facts.adapter and facts.quantization and facts.load and facts.step
    assert facts.load.differences == [], "the load is what structure predicted"
    assert facts.step.changed_base_tensors == [] and facts.step.optimizer is not None
    assert {f.name: f.stat().st_mtime_ns for f in tiny_llama.iterdir()} == before


def test_libraries_that_print_do_not_reach_the_events(child_runs: object, capfd: pytest.CaptureFixture[str]) -> None:
    child_runs(  # type: ignore[operator]
        """
        import os, sys
        print('{"kind": "start", "name": "planted"}')
        os.system("echo from a grandchild")
        os.write(1, b"raw")
        run.learn("load", LoadFacts(device="cpu"))
        """
    )
    events = [event for event in run("load") if not isinstance(event, Progress)]  # what is imported
    assert [type(e) for e in events] == [Start, Learned, End]
    assert capfd.readouterr().out == "" and records(events)["load"].status == "done"


def test_stderr_is_shown_with_debug_alone(child_runs: object, capfd: pytest.CaptureFixture[str]) -> None:
    child_runs("import sys; print('a library speaks', file=sys.stderr)")  # type: ignore[operator]
    run("load")
    assert "a library speaks" not in capfd.readouterr().err
    run("load", debug=True)
    assert "a library speaks" in capfd.readouterr().err


def test_killed_child(child_runs: object) -> None:
    child_runs(  # type: ignore[operator]
        """
        import os
        run.learn("load", LoadFacts(device="cpu", bytes_read=7))
        run.progress("Loading the base")
        os.kill(os.getpid(), 9)
        """
    )
    events = run("load", "step")
    ended = records(events)
    assert ended["load"].status == "failed" and "SIGKILL" in (ended["load"].reason or "")
    assert "loading the base" in (ended["load"].reason or "")
    assert ended["step"].status == "skipped" and "load" in (ended["step"].reason or "")
    load = learned(events)["load"]
    assert isinstance(load, LoadFacts) and load.bytes_read == 7, "what was learned before is kept"
    assert load.failure is not None and load.failure.kind == "killed"


def test_child_killed_for_want_of_memory(child_runs: object, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter([3, 4])
    monkeypatch.setattr(module, "_oom_kills", lambda: next(counts))
    child_runs("import os; os.kill(os.getpid(), 9)")  # type: ignore[operator]
    events = run("load")
    load = learned(events)["load"]
    assert isinstance(load, LoadFacts) and load.failure is not None and load.failure.kind == "host-out-of-memory"
    assert "out of host memory" in (records(events)["load"].reason or "")


def test_crashed_child(child_runs: object) -> None:
    child_runs("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")  # type: ignore[operator]
    assert "SIGSEGV" in (records(run("load"))["load"].reason or "")


def test_child_that_exits(child_runs: object) -> None:
    child_runs("import os, sys; print('last words', file=sys.stderr, flush=True); os._exit(41)")  # type: ignore[operator]
    record = records(run("load"))["load"]
    assert record.status == "failed" and "exit code 41" in (record.reason or "")
    assert "last words" in (record.remedy or "")


def test_child_that_dies_before_anything() -> None:
    original = module._ENTRY
    module._ENTRY = "raise SystemExit(3)  # {parent!r}"
    try:
        ended = records(run("structure", "load"))
    finally:
        module._ENTRY = original
    assert ended["structure"].status == "failed" and ended["load"].status == "skipped"


def test_hanging_child(child_runs: object, time_is_up: Callable[[str], None], tmp_path: Path) -> None:
    time_is_up("Sleeping")
    woken = tmp_path / "woken"
    code = f"import time; run.progress('Sleeping'); time.sleep(600); open({str(woken)!r}, 'w').close()"
    child_runs(code)  # type: ignore[operator]
    events = run("load", "step", timeout=600)
    assert not woken.exists()
    record = records(events)["load"]
    assert record.status == "failed" and "longer than 600 s" in (record.reason or "")
    assert record.remedy is not None and "--timeout" in record.remedy
    load = learned(events)["load"]
    assert isinstance(load, LoadFacts) and load.failure is not None and load.failure.kind == "timeout"


def test_a_prediction_outlives_the_search_for_savings(child_runs: object, time_is_up: Callable[[str], None]) -> None:
    time_is_up("Predicting what changes would save")
    child_runs(
        """
        import time
        from qlora_doctor.facts import MemoryFacts
        peak = {"peak_allocated_bytes": 1, "peak_reserved_bytes": 2**30}
        run.tell_base(MemoryFacts(predicted=peak, card="L4", card_bytes=2**34))
        run.progress("Predicting what changes would save")
        time.sleep(600)
        """,
        "memory",
    )  # type: ignore[operator]
    events = run("memory", timeout=600)
    told = [event.text for event in events if isinstance(event, Progress) and event.known]
    assert told == ["predicted peak 1 GiB reserved of 16 GiB on L4"]
    memory, record = learned(events)["memory"], records(events)["memory"]
    assert isinstance(memory, MemoryFacts) and memory.predicted is not None and memory.savings is None
    assert record.status == "failed" and "predicting what changes would save" in (record.reason or "")


def test_hanging_structure_says_so_of_the_model(child_runs: object, time_is_up: Callable[[str], None]) -> None:
    time_is_up("Sleeping")
    child_runs("import time; run.progress('Sleeping'); time.sleep(600)", "structure")  # type: ignore[operator]
    model = learned(run("structure", timeout=600))["model"]
    assert isinstance(model, ModelFacts) and model.build_error_kind == "timeout"


def test_exception_nobody_foresaw(child_runs: object) -> None:
    pytest.importorskip("torch")
    child_runs("raise ZeroDivisionError('planted')")  # type: ignore[operator]
    record = records(run("load"))["load"]
    assert record.status == "failed" and record.reason == "Stage load failed: planted."


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return not Path(f"/proc/{pid}/stat").exists() or Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


def wait_until_gone(pid: int) -> bool:
    for _ in range(600):  # a bound that only a process that stays reaches
        if not alive(pid):
            return True
        time.sleep(0.1)
    return False


def test_closing_the_iterator_ends_the_child_and_what_it_started(child_runs: object) -> None:
    child_runs(  # type: ignore[operator]
        """
        import subprocess, time, os
        other = subprocess.Popen(["sleep", "600"])
        run.progress(str(os.getpid()), other.pid)
        time.sleep(600)
        """
    )
    events = run_stages(job(make_setup("nowhere"), "load"))
    told = next(event for event in events if isinstance(event, Progress) and event.text.isdecimal())
    assert told.done is not None
    events.close()  # type: ignore[attr-defined]
    assert wait_until_gone(int(told.text)) and wait_until_gone(told.done)


def test_an_interruption_of_the_parent_ends_the_child(child_runs: object, tmp_path: Path) -> None:
    """Ctrl-C reaches the parent alone; the child must not outlive it, nor leave files behind."""
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import sys
            sys.path.insert(0, {str(HERE.parents[2])!r})
            from qlora_doctor.worker import process, runner
            from qlora_doctor.worker.job import Job
            from tests.probes.conftest import make_setup
            process._ENTRY = '''
            import sys; sys.path.append({{parent!r}})
            from qlora_doctor.worker import worker
            def planted(run):
                import os, tempfile, time
                tempfile.mkdtemp()
                run.progress(str(os.getpid()))
                time.sleep(600)
            worker.STAGES["load"] = planted
            worker.main()
            '''.replace("\\n            ", "\\n")
            for event in runner.run_stages(Job(setup=make_setup("nowhere"), stages=("load",))):
                print(getattr(event, "text", ""), flush=True)
            """
        )
    )
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    environment = {**os.environ, "TMPDIR": str(scratch)}
    parent = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    assert parent.stdout is not None
    line = b""
    while not line.strip().isdigit():
        line = parent.stdout.readline()
    assert list(scratch.iterdir())
    parent.send_signal(signal.SIGINT)
    _, stderr = parent.communicate(timeout=300)
    assert b"KeyboardInterrupt" in stderr
    assert wait_until_gone(int(line)) and list(scratch.iterdir()) == []


def test_a_parent_that_is_killed_takes_the_child_along(tmp_path: Path) -> None:
    code = textwrap.dedent(
        """
        import os, subprocess, sys
        from qlora_doctor.worker import process, runner
        from qlora_doctor.worker.job import Job
        from tests.probes.conftest import make_setup
        process._ENTRY = "import sys; sys.path.append({parent!r})\\n" + '''
        from qlora_doctor.worker import worker
        def planted(run):
            import os, time
            run.progress(str(os.getpid()))
            time.sleep(600)
        worker.STAGES["load"] = planted
        worker.main()
        '''
        for event in runner.run_stages(Job(setup=make_setup("nowhere"), stages=("load",))):
            print(getattr(event, "text", ""), flush=True)
        """
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=HERE.parents[2])
    assert parent.stdout is not None
    line = b""
    while not line.strip().isdigit():
        line = parent.stdout.readline()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert wait_until_gone(int(line))


def test_missing_folder_ends_in_a_sentence(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    events = list(
        run_stages(job(make_setup(tmp_path / "none"), "structure", "load", "step", device="cpu", offline=True))
    )
    ended = records(events)
    assert ended["structure"].status == "failed" and "There is no folder" in (ended["structure"].reason or "")
    assert ended["load"].status == "skipped" == ended["step"].status


def test_unknown_device_ends_in_a_sentence(tiny_llama: Path) -> None:
    pytest.importorskip("bitsandbytes")
    events = list(run_stages(job(make_setup(tiny_llama), "load", device="abacus", offline=True)))
    assert records(events)["load"].reason == "There is no device called 'abacus'."


def test_a_large_model_waits_to_be_asked_for_on_a_cpu(tiny_llama: Path) -> None:
    pytest.importorskip("bitsandbytes")
    known = Facts(model=ModelFacts(total_parameters=7_000_000_000))
    options: dict[str, Any] = {"device": "cpu", "offline": True, "facts": known}
    ended = records(list(run_stages(job(make_setup(tiny_llama), "load", "step", **options))))
    assert ended["load"].status == "skipped" and "7.0 billion" in (ended["load"].reason or "")
    assert ended["load"].remedy == "--stage load" and ended["step"].remedy == "--stage step"
    asked = list(run_stages(job(make_setup(tiny_llama), "load", stages=("load",), **options)))
    assert records(asked)["load"].status == "done"


def test_adapter_that_does_not_attach_leaves_nothing_to_train(tiny_llama: Path) -> None:
    pytest.importorskip("bitsandbytes")
    setup = make_setup(tiny_llama, lora={"target_modules": ["nothing"]})
    ended = records(list(run_stages(job(setup, "structure", "load", "step", device="cpu", offline=True))))
    assert ended["structure"].status == "done" == ended["load"].status
    assert ended["step"].status == "skipped" and "no-match" in (ended["step"].reason or "")
