"""The child process: reads jobs, runs their stages, tells events as they happen.

``python -m qlora_doctor.worker.worker``, started by ``process``. The pipe on stdout is moved to a descriptor of
its own before anything heavy is imported, and stdout then points to stderr: whatever libraries print cannot reach the
events.
"""

from __future__ import annotations

import contextlib
import gc
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.errors import StageError
from ..core.numbers import size
from ..core.report import StageRecord
from ..facts import Facts
from .events import End, Event, Finished, Learned, Progress, Start, encode
from .job import Job
from .turns import device_name, turn

_OF_THE_MACHINE = frozenset(
    ("out-of-memory", "host-out-of-memory", "disk", "timeout", "killed", "interrupted", "other", "none")
)
"""Kinds of failures that the next run may not meet: they are the machine's, or of an unknown cause."""


class Skipped(Exception):
    """A stage that this machine, or this setup, cannot serve: no failure."""

    def __init__(self, reason: str, remedy: str | None = None) -> None:
        super().__init__(reason)
        self.reason, self.remedy = reason, remedy


@dataclass
class Run:
    """What the stages of one job share."""

    job: Job
    send: Callable[[Event], None]
    facts: Facts
    loaded: Any = None
    """What stage ``load`` left: ``load.LoadSeen``."""
    ended: dict[str, StageRecord] = field(default_factory=dict)
    held: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    """What is given back when the job ends: its turn on a device."""
    on_device: bool = False
    """Whether a real stage ran: the process is then no longer as it was."""
    waited: float = 0.0
    """Seconds spent on other jobs' turns."""

    @property
    def setup(self) -> Any:
        """The setup, with leave to run the model's code from the command line alone: a config cannot give it itself."""
        setup = self.job.setup
        allowed = {"trust_remote_code": self.job.options.trust_remote_code}
        return setup.model_copy(update={"model": setup.model.model_copy(update=allowed)})

    def learn(self, subject: str, value: Any) -> None:
        """Facts are reported as soon as they are known."""
        self.facts = self.facts.model_copy(update={subject: value})
        self.send(Learned(subject=subject, value=value))

    def progress(self, text: str, done: int | None = None, total: int | None = None, unit: str | None = None) -> None:
        self.send(Progress(text=text, done=done, total=total, unit=unit))

    def tell_base(self, facts: Any) -> None:
        """The prediction of the setup as it is, while what changes would save is still being worked out."""
        self.learn("memory", facts)
        of = f" of {size(facts.card_bytes)} on {facts.card}" if facts.card_bytes else ""
        peak = size(facts.predicted.peak_reserved_bytes)
        self.send(Progress(text=f"predicted peak {peak} reserved{of}", known=True))

    @property
    def offline(self) -> bool:
        """Nothing may be downloaded."""
        return self.job.options.offline

    def asked_for(self, stage: str) -> bool:
        return stage in (self.job.options.stages or ())

    def take_turn(self, device: str) -> None:
        """Have the device to oneself until the job ends: two loads on one card would each tell of a full card."""
        self.on_device = True
        if self.job.turns is None:
            return
        began = time.perf_counter()

        def waits() -> None:
            text = f"Waiting for {device}, where another check is at work"
            self.send(Progress(text=text, waits=True))

        self.held.enter_context(turn(Path(self.job.turns), device_name(device), waits))
        self.waited += time.perf_counter() - began
        self.progress(f"working on {device}")


def structure(run: Run) -> None:
    from ..probes.structure.look import look_at_structure
    from ..probes.structure.uses import try_uses

    run.learn("script", try_uses(run.setup, run.facts.config, run.progress, offline=run.offline))
    seen = look_at_structure(run.setup, run.progress, offline=run.offline)
    for subject in ("model", "adapter", "quantization"):
        value = getattr(seen, subject)
        if value is not None:
            run.learn(subject, value)
    if seen.failure is not None and _is_out_of_reach(run, seen.failure):
        raise Skipped(seen.failure.message, seen.failure.remedy)
    if seen.failure is not None:
        raise seen.failure


def memory(run: Run) -> None:
    _without_a_model(run)
    adapter = run.facts.adapter
    if adapter is not None and adapter.failure not in (None, "none"):
        raise Skipped(f"There is nothing to train: PEFT refused the adapter ({adapter.failure}).")
    if run.job.plan is not None:
        from ..memory.plan_stage import look_at_plan

        facts = look_at_plan(run.setup, run.facts, run.job.plan, run.progress, run.tell_base, offline=run.offline)
    elif run.job.cure is not None:
        from ..memory.cure_stage import look_at_cure

        facts = look_at_cure(run.setup, run.facts, run.job.cure, run.progress, run.tell_base, offline=run.offline)
    else:
        from ..memory.stage import look_at_memory

        facts = look_at_memory(run.setup, run.facts, run.progress, run.tell_base, offline=run.offline)
    run.learn("memory", facts)
    if facts.prediction_failure is not None and facts.predicted is None:
        if facts.refusal is not None:
            raise StageError(facts.prediction_failure, remedy="Correct the setup; the same exception ends the run.")
        raise Skipped(facts.prediction_failure, "Measure it: --stage step on a machine with the card.")


def data(run: Run) -> None:
    from ..pipeline.forms import NotFollowedForm, is_followed
    from ..pipeline.forms.script import way_of
    from ..pipeline.own_code.finding import find_trainer
    from ..pipeline.samples import form_is_known
    from ..probes.data.look import see_data
    from ..setup.named import not_looked_at, why_not_looked_at

    if run.job.run_data is not None:
        _run_script(run)
        return
    if not is_followed(run.setup) and way_of(run.setup) is None:
        if not run.setup.data.train:
            why, remedy = why_not_looked_at(run.setup)
            raise Skipped(why, remedy or _run_data(run))
        _without_a_model(run)
    if not form_is_known(run.setup) and not is_followed(run.setup):
        raise Skipped(
            f"The samples are not looked at: what a trainer of {run.setup.training.method} takes is not known."
        )
    try:
        own = find_trainer(run.setup, run.job.options.trainer_python)
        seen = see_data(run.setup, run.progress, offline=run.offline, own=own)
    except NotFollowedForm as why:
        raise Skipped(not_looked_at(run.setup, str(why)), _run_data(run)) from why
    run.learn("data", seen.data)
    if seen.batch is not None:
        run.learn("batch", seen.batch)
    if seen.data.failure is not None:
        raise StageError(seen.data.failure, remedy="Correct the file, or what the config says under data.")


def _run_data(run: Run) -> str | None:
    """What would supply the samples of a script."""
    if run.setup.dialect != "python":
        return None
    return "--run-data runs the script up to its training, and looks at its own batches."


def _run_script(run: Run) -> None:
    """Stage data of a script that is run up to its training."""
    from ..watching.first_batches.running import run_to_first_batches

    assert run.job.run_data is not None
    outcome = run_to_first_batches(run.job.run_data, run.progress)
    if outcome.data is None:
        raise StageError(outcome.reason or "The script drew no batch.", remedy=outcome.remedy)
    run.learn("data", outcome.data)
    if outcome.batch is not None:
        run.learn("batch", outcome.batch)
    if outcome.data.failure is not None:
        raise StageError(outcome.data.failure, remedy=outcome.remedy)


def load(run: Run) -> None:
    from ..probes.load.look import look_at_load

    _without_a_model(run)
    device = _device(run)
    _not_too_slow(run, "load", device)
    run.take_turn(device)
    seen = look_at_load(run.setup, device, run.progress, facts=run.facts, offline=run.offline)
    if seen.error is not None and seen.error.kind == "missing-file" and _nothing_to_load(run):
        raise Skipped(seen.error.message, seen.error.remedy)
    run.learn("load", seen.facts)
    if seen.error is not None:
        raise seen.error
    run.loaded = seen


def step(run: Run) -> None:
    if run.loaded is None or run.loaded.base is None:
        record = run.ended.get("load")
        if record is not None and record.status == "failed":
            raise Skipped("There is no loaded base to train: stage load failed.")
        reason = record.reason if record is not None else None
        raise Skipped(reason or "Stage load did not run.", _remedy(record))
    refusal = run.facts.memory.refusal if run.facts.memory is not None else None
    if refusal is not None:
        raise Skipped(f"Stage memory found that a step stops: {refusal}")
    adapter = run.facts.adapter
    if adapter is not None and adapter.failure not in (None, "none"):
        raise Skipped(f"There is nothing to train: PEFT refused the adapter ({adapter.failure}).")
    if run.setup.model.adapter is not None and adapter is not None and adapter.stored_damage not in (None, "none"):
        raise Skipped("There is nothing to train: the file of the stored adapter cannot be read.")
    from ..pipeline.methods import why_not_stepped

    if (other := why_not_stepped(run.setup)) is not None:
        raise Skipped(other)
    _not_too_slow(run, "step", str(run.loaded.base.device))
    from ..probes.step.look import look_at_step

    seen = look_at_step(
        run.setup,
        run.loaded.base,
        run.loaded.timeline,
        run.progress,
        offline=run.offline,
        learn=lambda facts: run.learn("step", facts),
    )
    if seen.measured is not None:
        from ..probes.step.held_against import with_measured

        run.learn("memory", with_measured(run.facts, seen.measured))
    if seen.batch is not None:
        run.learn("batch", seen.batch)
    run.learn("step", seen.facts)
    if seen.error is not None:
        raise seen.error


STAGES: dict[str, Callable[[Run], None]] = {
    "structure": structure,
    "memory": memory,
    "data": data,
    "load": load,
    "step": step,
}


def run_job(job: Job, send: Callable[[Event], None]) -> bool:
    """Run the job's stages in their order; each reports when it begins and how it ended.

    Returns whether the process is still as it was before: torch's allocator, CUDA's context and what a trainer sets
    for the whole process outlive a real stage, and code that came with a model may have changed anything.
    """
    run = Run(job, send, job.facts, ended={record.name: record for record in job.ended})
    with run.held:
        for name in STAGES:
            if name not in job.stages:
                continue
            send(Start(name=name))
            if "torch" not in sys.modules:
                run.progress("importing torch and transformers")
            began, waited = time.perf_counter(), run.waited
            record, lasting = _run_stage(run, name)
            seconds = time.perf_counter() - began - (run.waited - waited)
            record = record.model_copy(update={"seconds": seconds})
            run.ended[name] = record
            send(End(record=record, lasting=lasting))
    return not (run.on_device or job.options.trust_remote_code)


def _run_stage(run: Run, name: str) -> tuple[StageRecord, bool]:
    """How the stage ended, and whether it would end so again."""
    try:
        STAGES[name](run)
    except Skipped as skipped:
        return StageRecord(name=name, status="skipped", reason=skipped.reason, remedy=skipped.remedy), True
    except StageError as error:
        record = StageRecord(name=name, status="failed", reason=error.message, remedy=error.remedy)
        return record, error.kind not in _OF_THE_MACHINE
    except Exception as raised:  # a fault of ours, or a library's that nobody foresaw: reported, not raised
        traceback.print_exc()
        from ..probes.failures import explain

        told = explain(raised, f"stage {name}")
        return StageRecord(name=name, status="failed", reason=told.message, remedy=told.remedy), False
    return StageRecord(name=name, status="done"), True


def _device(run: Run) -> str:
    """The device asked for, else CUDA where there is one.

    Raises:
        StageError: it is not there.
    """
    import torch

    asked = run.job.options.device
    if asked is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(asked)
    except RuntimeError as error:
        raise StageError(f"There is no device called {asked!r}.", remedy="Use cpu, cuda or cuda:N.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise StageError("There is no CUDA device that torch can use.", remedy="Use --device cpu.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise StageError(f"There is no {asked}: torch sees {torch.cuda.device_count()} CUDA devices.")
    return asked


def _not_too_slow(run: Run, stage: str, device: str) -> None:
    """On a CPU, leave out what would take much longer than a minute, unless it was asked for."""
    import torch

    from ..probes.resources import CPU_MINUTE, cpu_load_seconds, cpu_step_seconds

    elements = run.facts.model.total_parameters if run.facts.model is not None else None
    if torch.device(device).type != "cpu" or run.asked_for(stage) or elements is None:
        return
    if stage == "load":
        if run.asked_for("step"):
            return
        seconds = cpu_load_seconds(elements)
    else:
        from ..pipeline.batches import rows_of_a_step, sequence_length

        seconds = cpu_step_seconds(elements, rows_of_a_step(run.setup) * sequence_length(run.setup))
    if seconds > CPU_MINUTE:
        raise Skipped(
            f"Without a GPU it would take about {_minutes(seconds)} for {elements / 1e9:.1f} billion parameters.",
            f"--stage {stage}",
        )


def _minutes(seconds: float) -> str:
    minutes = seconds / 60
    return f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.0f} hours"


def _without_a_model(run: Run) -> None:
    """Leave out what needs the model where stage structure found none; it has said why."""
    built = run.ended.get("structure")
    if built is not None and built.status == "failed":
        raise Skipped(f"The model cannot be built: {built.reason}", built.remedy)
    if built is not None and built.status == "skipped":
        raise Skipped(built.reason or "Stage structure did not run.", built.remedy)


def _is_out_of_reach(run: Run, failure: StageError) -> bool:
    """Nothing is wrong with the setup: its model is not at hand, of a kind that no stage builds, or would run code that
    the user did not allow here."""
    config = run.facts.config
    if config is None:
        return False
    if failure.kind == "unsupported":
        return True
    not_at_hand = failure.kind == "missing-config" and config.model_kind == "hub"
    return not_at_hand or (failure.kind == "remote-code" and bool(config.trust_remote_code))


def _nothing_to_load(run: Run) -> bool:
    """An architecture without weights at hand is a legitimate setup: the real stages are then skipped."""
    if run.asked_for("load") or run.asked_for("step"):
        return False
    from ..pipeline import load_config

    try:
        architecture = load_config(run.setup, offline=True)
    except StageError:
        return False
    folder = architecture.folder
    return folder is None or not (any(folder.glob("*.safetensors*")) or any(folder.glob("*.bin")))


def _remedy(record: StageRecord | None) -> str | None:
    if record is None:
        return None
    return "--stage step" if record.remedy == "--stage load" else record.remedy


def _private_pipe() -> int:
    """Move the pipe on stdout aside; what is printed from now on goes to stderr."""
    pipe = os.dup(1)
    os.dup2(2, 1)
    return pipe


def _receive(jobs: queue.Queue[Job]) -> None:
    """Take jobs from stdin, a line each; it is open as long as the parent lives, and its end is the child's.

    A job that cannot be read ends the child too: the parent would wait for it for ever.
    """

    def read() -> None:
        rest = b""
        try:
            while piece := os.read(0, 1 << 16):
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    jobs.put(Job.of_line(line))
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(1)

    threading.Thread(target=read, daemon=True, name="parent").start()


def main() -> None:
    """Entry point of the child."""
    pipe = _private_pipe()
    jobs: queue.Queue[Job] = queue.Queue()
    _receive(jobs)
    lock = threading.Lock()

    def tell(number: int) -> Callable[[Event], None]:
        def send(event: Event) -> None:
            with lock:
                view = memoryview(encode(event, number))
                while view:
                    view = view[os.write(pipe, view) :]

        return send

    unchanged = True
    while unchanged:
        job = jobs.get()
        send = tell(job.number)
        unchanged = run_job(job, send)
        send(Finished(spent=not unchanged))
        gc.collect()  # models on meta are full of cycles
    sys.stderr.flush()
    os._exit(0)  # nothing is left to tell; tearing down torch and CUDA takes seconds


if __name__ == "__main__":
    main()
