"""Several jobs, few workers: what one job does to its worker is no other job's business."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from qlora_doctor.worker import process
from qlora_doctor.worker.events import End, Event, Finished, Progress
from qlora_doctor.worker.job import Job
from qlora_doctor.worker.options import RunOptions
from qlora_doctor.worker.pool import Pool
from tests.probes.conftest import make_setup
from tests.probes.test_runner import wait_until_gone

HERE = Path(__file__).resolve()


def plant(monkeypatch: pytest.MonkeyPatch, code: str, stage: str = "structure") -> None:
    """The workers do this in the place of a stage; ``n`` is the job's number, and torch is not imported."""
    lines = [
        "import sys; sys.path[:] = [p for p in sys.path if p] + [PARENT]",
        "import os, signal, time",
        "from qlora_doctor.worker import worker",
        "def planted(run):",
        "    n = run.job.number",
        textwrap.indent(textwrap.dedent(code).strip(), "    "),
        f"worker.STAGES[{stage!r}] = planted",
        "worker.main()",
    ]
    entry = "\n".join(lines).replace("{", "{{").replace("}", "}}").replace("PARENT", "{parent!r}")
    monkeypatch.setattr(process, "_ENTRY", entry)


def run(pool: Pool, jobs: int, stage: str = "structure") -> list[Event]:
    """All events of jobs 0…, begun as there is room."""
    events: list[Event] = []
    waiting = list(range(jobs))
    try:
        while waiting or pool.at_work:
            while waiting and pool.has_room:
                pool.begin(Job(number=waiting.pop(0), setup=make_setup("nowhere"), stages=(stage,)))
            event = pool.next()
            if event is not None:
                events.append(event)
    finally:
        pool.close()
    return events


def statuses(events: list[Event]) -> dict[int, str]:
    return {event.job: event.record.status for event in events if isinstance(event, End)}


def workers(events: list[Event]) -> dict[int, str]:
    return {event.job: event.text for event in events if isinstance(event, Progress) and event.text.isdigit()}


def test_a_worker_serves_many_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, "run.progress(str(os.getpid()))")
    events = run(Pool(2, RunOptions(timeout=60)), 6)
    assert statuses(events) == dict.fromkeys(range(6), "done")
    assert 1 <= len(set(workers(events).values())) <= 2
    assert [event.job for event in events if isinstance(event, Finished)] != []
    assert all(wait_until_gone(int(pid)) for pid in workers(events).values())


@pytest.mark.parametrize(
    "end", ["os.kill(os.getpid(), 9)", "os.kill(os.getpid(), signal.SIGSEGV)", "os._exit(7)", "time.sleep(600)"]
)
def test_what_ends_a_worker_ends_its_job_alone(
    monkeypatch: pytest.MonkeyPatch, time_is_up: Callable[[str], None], end: str
) -> None:
    plant(monkeypatch, f"run.progress(str(os.getpid()))\nif n == 1: run.progress('The end'); {end}")
    if "sleep" in end:
        time_is_up("The end")
    events = run(Pool(2, RunOptions(timeout=600)), 5)
    assert statuses(events) == {0: "done", 1: "failed", 2: "done", 3: "done", 4: "done"}
    assert sum(isinstance(event, Finished) for event in events) == 5
    assert all(wait_until_gone(int(pid)) for pid in workers(events).values())


def test_an_idle_worker_that_is_killed_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, "run.progress(str(os.getpid()))")
    pool = Pool(1, RunOptions(timeout=60))
    try:
        for number in range(2):
            pool.begin(Job(number=number, setup=make_setup("nowhere"), stages=("structure",)))
            events = []
            while (event := pool.next()) is not None and not isinstance(event, Finished):
                events.append(event)
            if number == 0:
                os.kill(int(workers(events)[0]), signal.SIGKILL)
                assert wait_until_gone(int(workers(events)[0]))
        assert statuses(events) == {1: "done"}, "nobody's job was killed"
    finally:
        pool.close()


def test_a_worker_that_dies_unseen_costs_no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parent is told late, and gives a job to a worker that is no more: another does it."""
    plant(monkeypatch, "run.progress(str(os.getpid()))")
    monkeypatch.setattr(process.WorkerProcess, "lives", True)
    pool = Pool(1, RunOptions(timeout=60))
    try:
        pids = set()
        for number in range(3):
            pool.begin(Job(number=number, setup=make_setup("nowhere"), stages=("structure",)))
            events = []
            while (event := pool.next()) is not None and not isinstance(event, Finished):
                events.append(event)
            assert statuses(events) == {number: "done"}
            pid = int(workers(events)[number])
            pids.add(pid)
            os.kill(pid, signal.SIGKILL)
            assert wait_until_gone(pid)
        assert len(pids) == 3
    finally:
        pool.close()


def test_real_stages_take_turns_and_begin_in_a_clean_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two workers, one device: never two at once, and no worker that has run a real stage runs another."""
    pytest.importorskip("torch")
    log = tmp_path / "log"
    plant(
        monkeypatch,
        f"""
        run.take_turn("cpu")
        with open({str(log)!r}, "a") as f: print("in", file=f)
        time.sleep(0.3)
        with open({str(log)!r}, "a") as f: print("out", file=f)
        run.progress(str(os.getpid()))
        """,
        "load",
    )
    events = run(Pool(2, RunOptions(timeout=60)), 4, "load")
    assert statuses(events) == dict.fromkeys(range(4), "done")
    assert log.read_text().split() == ["in", "out"] * 4
    pids = {event.text for event in events if isinstance(event, Progress) and event.text.isdigit()}
    assert len(pids) == 4


def test_waiting_for_a_device_is_no_time_of_the_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One job has the device until the other has waited for a second: that second is no time of the other."""
    go = tmp_path / "go"
    plant(
        monkeypatch,
        f"""
        run.take_turn("cpu")
        run.progress("has it")
        while not os.path.exists({str(go)!r}): time.sleep(0.01)
        """,
        "load",
    )
    pool = Pool(2, RunOptions(timeout=600))
    jobs = [Job(number=number, setup=make_setup("nowhere"), stages=("load",)) for number in range(2)]
    events: list[Event] = []
    try:
        pool.begin(jobs[0])
        while not isinstance(event := pool.next(), Progress) or event.text != "has it":
            assert event is not None
        began = time.monotonic()
        pool.begin(jobs[1])
        while (event := pool.next()) is not None:
            if isinstance(event, Progress) and event.waits:
                time.sleep(1)
                go.touch()
            events.append(event)
            if isinstance(event, End) and event.job == 1:
                whole = time.monotonic() - began
    finally:
        pool.close()
    assert statuses(events) == {0: "done", 1: "done"}
    assert sum(isinstance(event, Progress) and event.waits for event in events) == 1
    (seconds,) = (event.record.seconds for event in events if isinstance(event, End) and event.job == 1)
    assert seconds is not None and seconds < whole - 1


def test_ctrl_c_in_a_pool_ends_all_and_tells_what_is_known(tmp_path: Path, tiny_llama: Path) -> None:
    """The whole command: reports of what was begun, exit code 3, no process and no file left."""
    pytest.importorskip("bitsandbytes")
    script = tmp_path / "main.py"
    pids = tmp_path / "pids"
    script.write_text(
        textwrap.dedent(
            f"""
            import sys
            sys.path.insert(0, {str(HERE.parents[2])!r})
            from qlora_doctor.worker import process
            process._ENTRY = '''
            import sys; sys.path.append({{parent!r}})
            from qlora_doctor.worker import worker
            def planted(run):
                import os, time
                with open({str(pids)!r}, "a") as f: f.write(str(os.getpid()) + chr(10))
                time.sleep(600)
            worker.STAGES["structure"] = planted
            worker.main()
            '''.replace("\\n            ", "\\n")
            from qlora_doctor.cli import main
            sys.exit(main(sys.argv[1:]))
            """
        )
    )
    configs = []
    for rank in (2, 4, 8):
        path = tmp_path / f"r{rank}.json"
        path.write_text(f'{{"model": "{tiny_llama}", "lora": {{"r": {rank}}}}}')
        configs.append(str(path))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    command = [sys.executable, str(script), "check", *configs, "--stage", "config,structure", "--jobs", "2"]
    parent = subprocess.Popen(
        [*command, "-o", f"json={tmp_path}/{{name}}.out"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(scratch)},
    )
    for _ in range(3000):
        if pids.exists() and len(pids.read_text().split()) == 2:
            break
        time.sleep(0.1)
    parent.send_signal(signal.SIGINT)
    out, err = parent.communicate(timeout=300)
    assert parent.returncode == 3, err.decode()
    assert all(wait_until_gone(int(pid)) for pid in pids.read_text().split())
    assert list(scratch.iterdir()) == []
    text = out.decode()
    assert text.count("The check was interrupted.") == 3 and "3 configs · 3 incomplete" in text
    assert len(list(tmp_path.glob("*.out"))) == 3


def test_a_worker_that_cannot_read_its_job_ends() -> None:
    """Else the parent, of another version for example, would wait for it for ever."""
    command = [sys.executable, "-c", "from qlora_doctor.worker.worker import main; main()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as worker:
        assert worker.stdin is not None and worker.stdout is not None
        worker.stdin.write(b'{"setup": 1}\n')
        worker.stdin.flush()
        said = worker.stdout.read()
        assert worker.wait() == 1 and b"validation error" in said
