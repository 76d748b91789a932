"""Does a change leave what is read and judged as it was: every file of a folder, on two states of the source.

same_facts.py FOLDER [REV]    compare this checkout with a revision of it (default: HEAD)

Every file is checked at stage config by both, with what is installed here; setup, facts, findings and exit code are
compared as JSON, byte for byte. Prints the files that differ, and exits with 1 where there are any.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_LOOK = """\
import json, sys
from pathlib import Path
from qlora_doctor.run.checking import run_check
from qlora_doctor.run.session import CheckOptions
folder = Path(sys.argv[1])
for path in sorted(path for path in folder.rglob("*") if path.is_file()):
    try:
        report = run_check(path, CheckOptions(stages=("config",), offline=True, cache=False)).model_dump(mode="json")
        report["facts"]["environment"].pop("host_available_bytes")
        seen = [report[part] for part in ("setup", "facts", "findings", "summary", "exit_code")]
    except Exception as error:
        seen = [type(error).__name__, str(error)]
    print(json.dumps([str(path.relative_to(folder)), seen], sort_keys=True))
"""


def look(source: Path, folder: Path) -> dict[str, str]:
    """File → what a source tree makes of it."""
    environment = {**os.environ, "PYTHONPATH": str(source), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", _LOOK, str(folder.resolve())]
    done = subprocess.run(command, cwd=source, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return {json.loads(line)[0]: line for line in done.stdout.splitlines()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("revision", nargs="?", default="HEAD")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as other:
        archive = subprocess.run(["git", "archive", given.revision], cwd=ROOT, stdout=subprocess.PIPE, check=True)
        subprocess.run(["tar", "x", "-C", other], input=archive.stdout, check=True)
        before, after = look(Path(other), given.folder), look(ROOT, given.folder)
    differing = [name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)]
    for name in differing:
        print(name)
    print(f"{len(after)} files, {len(differing)} differ from {given.revision}")
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()
