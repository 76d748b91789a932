"""The HTML report of a 70B setup in headless Chromium: its size, when it is interactive, and what all formats cost.

report.py [--runs N]

Two reports: Llama-3.1-70B as it is checked here (config, structure and memory; 80 layers), and the tests' 70B with
facts of every stage (gradients and quantization errors of 80 layers × 7 projections, and a plan). Times are from the
start of the navigation to a file, in milliseconds: best, median and worst of the runs; each run has a new context, so
nothing is cached. ``input_handled``: the first of the clicks that are sent from the moment the navigation is committed
reached its handler after the page's own script had run; ``frame_after_input``: the second frame after that was due;
``main_thread``: processor time of the page's main thread, which other work on the machine does not lengthen. A page of
one word is visited as well, to show what the browser itself takes. On a busy machine the best run is nearest to what
the page takes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

RESULT = Path(__file__).parent / "results" / "report.json"
LIMITS = {"bytes": 400_000, "interactive_ms": 200.0, "all_formats_seconds": 0.5}
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync")
SETUP: dict[str, Any] = {
    "model": "meta-llama/Llama-3.1-70B",
    "quantization": {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": "bfloat16",
    },
    "lora": {"r": 16, "lora_alpha": 32, "target_modules": "all-linear", "task_type": "CAUSAL_LM"},
    "training": {"bf16": True, "learning_rate": 2e-4, "per_device_train_batch_size": 1, "max_length": 2048},
    "hardware": {"gpu": "H100 80GB"},
}
EMPTY = "<!doctype html><title>One word</title><p>word</p>"
WATCH = """
window.handled = null;
window.drawn = null;
addEventListener("click", () => {
  if (!document.documentElement.classList.contains("js") && document.readyState === "loading") return;
  window.handled ??= performance.now();
  requestAnimationFrame(() => requestAnimationFrame(() => { window.drawn ??= performance.now(); }));
}, { capture: true });
"""


def checked(folder: Path) -> str:
    """The JSON report of the 70B, by the command that a user types."""
    config, report = folder / "llama-70b.json", folder / "report.json"
    config.write_text(json.dumps(SETUP))
    command = [sys.executable, "-m", "qlora_doctor", "check", str(config), "--stage", "config,structure,memory",
               "--offline", "-q", "-o", f"json={report}"]  # fmt: skip
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL, cwd=ROOT)
    return report.read_text()


def all_formats(document: str, folder: Path) -> dict[str, float]:
    """Seconds that all formats of a report take in a new process beyond reading it, imports of reporters included."""
    path = folder / "again.json"
    path.write_text(document)
    code = (
        "import sys, time; from pathlib import Path; from qlora_doctor.core.report import Report\n"
        "report = Report.model_validate_json(Path(sys.argv[1]).read_text())\n"
        "start = time.perf_counter(), time.process_time(); from qlora_doctor.reporters import FORMATS, render\n"
        "for name in FORMATS: Path(sys.argv[2], name).write_text(render(report, name))\n"
        "print(time.perf_counter() - start[0], time.process_time() - start[1])"
    )
    command = [sys.executable, "-c", code, str(path), str(folder)]
    runs = [subprocess.run(command, capture_output=True, check=True, text=True, cwd=ROOT).stdout for _ in range(5)]
    walls, processors = zip(*([float(each) for each in run.split()] for run in runs), strict=True)
    return {"wall": round(statistics.median(walls), 3), "processor": round(statistics.median(processors), 3)}


def visit(browser: Any, address: str) -> dict[str, float]:
    """One visit; milliseconds since the navigation began."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.add_init_script(WATCH)
    devtools = context.new_cdp_session(page)
    devtools.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.goto(address, wait_until="commit")
    deadline = time.monotonic() + 10
    while page.evaluate("window.drawn ?? null") is None and time.monotonic() < deadline:
        page.mouse.click(640, 300)
    page.wait_for_load_state("load")
    timing = page.evaluate(
        "() => { const n = performance.getEntriesByType('navigation')[0];"
        "const p = performance.getEntriesByName('first-contentful-paint')[0];"
        "return { dom_interactive: n.domInteractive, scripts_ran: n.domContentLoadedEventEnd, loaded: n.loadEventEnd,"
        "first_paint: p ? p.startTime : null, input_handled: window.handled, frame_after_input: window.drawn } }"
    )
    spent = {each["name"]: each["value"] for each in devtools.send("Performance.getMetrics")["metrics"]}
    timing["main_thread"] = spent["TaskDuration"] * 1000
    context.close()
    return {name: value for name, value in timing.items() if value is not None}


def measure(browser: Any, name: str, text: str, folder: Path, runs: int) -> dict[str, Any]:
    path = folder / f"{name}.html"
    path.write_text(text, encoding="utf-8")
    visit(browser, path.as_uri())  # the browser's own first page
    visits = [visit(browser, path.as_uri()) for _ in range(runs)]
    times = {
        key: {name: round(of(values), 1) for name, of in (("best", min), ("median", statistics.median), ("worst", max))}
        for key in visits[0]
        if (values := [each[key] for each in visits if key in each])
    }
    return {"bytes": len(text.encode()), "milliseconds": times}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    given = parser.parse_args()
    from playwright.sync_api import sync_playwright

    from qlora_doctor.core.report import Report
    from qlora_doctor.reporters import render
    from tests.reporters import fixtures

    chromium = next(filter(None, map(shutil.which, NAMES)))
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        document = checked(folder)
        reports = {"checked_here": Report.model_validate_json(document), "every_stage": fixtures.large()}
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        seen = {key: measure(browser, key, render(r, "html"), folder, given.runs) for key, r in reports.items()}
        result = {
            "reports": seen,
            "one_word": measure(browser, "one-word", EMPTY, folder, given.runs),
            "all_formats_seconds": all_formats(document, folder),
            "limits": LIMITS,
            "kept": {
                "bytes": all(each["bytes"] < LIMITS["bytes"] for each in seen.values()),
                **{
                    f"interactive_{which}": {
                        key: each["milliseconds"]["input_handled"][which] < LIMITS["interactive_ms"]
                        for key, each in seen.items()
                    }
                    for which in ("best", "median")
                },
            },
            "runs": given.runs,
            "chromium": browser.version,
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "load_average_before": round(load, 2),
        }
        browser.close()
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
