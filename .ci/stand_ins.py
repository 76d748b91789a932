"""Stand-ins for the CUDA libraries that torch 2.6 is linked with: every symbol it asks of them, none that does a thing.

stand_ins.py SITE_PACKAGES

``import torch`` needs the libraries to exist, and a CPU never calls them; a call ends the process (abort), so that no
test can pass on one. Each is also written down as an installed distribution, for pip's book-keeping; so is triton,
which compiles for CUDA and is imported only where there is a device.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

LIBRARIES = {
    "libcublas.so.12": ("nvidia-cublas-cu12", "12.4.5.8"),
    "libcublasLt.so.12": ("nvidia-cublas-cu12", "12.4.5.8"),
    "libcudnn.so.9": ("nvidia-cudnn-cu12", "9.1.0.70"),
    "libcufft.so.11": ("nvidia-cufft-cu12", "11.2.1.3"),
    "libcurand.so.10": ("nvidia-curand-cu12", "10.3.5.147"),
    "libcusolver.so.11": ("nvidia-cusolver-cu12", "11.6.1.9"),
    "libcusparse.so.12": ("nvidia-cusparse-cu12", "12.3.1.170"),
    "libcusparseLt.so.0": ("nvidia-cusparselt-cu12", "0.6.2"),
    "libnccl.so.2": ("nvidia-nccl-cu12", "2.21.5"),
}
WITHOUT_VERSION = {"curand": "libcurand.so.10", "cusparseLt": "libcusparseLt.so.0", "nccl": "libnccl.so.2"}
"""Beginnings of names by which symbols are told that carry no library's version."""


def wanted(libraries: Path) -> dict[str, set[str]]:
    """The symbols that torch's own libraries ask of each."""
    symbols: dict[str, set[str]] = {name: set() for name in LIBRARIES}
    for path in sorted(libraries.glob("libtorch*.so")):
        listed = subprocess.run(["nm", "-D", "--undefined-only", path], capture_output=True, text=True, check=True)
        for line in listed.stdout.splitlines():
            symbol, _, version = line.split()[-1].partition("@")
            beginnings = (library for start, library in WITHOUT_VERSION.items() if symbol.startswith(start))
            library = version.lstrip("@") or next(beginnings, "")
            if library in symbols:
                symbols[library].add(symbol)
    return symbols


def main(site: Path) -> None:
    libraries = site / "torch" / "lib"
    script = libraries / "versions.map"
    for library, symbols in wanted(libraries).items():
        source = "void abort(void);\n" + "".join(f"void {symbol}(void) {{ abort(); }}\n" for symbol in sorted(symbols))
        plain = any(library == each for each in WITHOUT_VERSION.values())
        script.write_text("{ global: *; };\n" if plain else f"{library} {{ global: *; }};\n")
        flags = ["-shared", "-fPIC", "-fno-builtin", f"-Wl,-soname,{library}", f"-Wl,--version-script={script}"]
        command = ["gcc", "-x", "c", "-", *flags, "-o", str(libraries / library)]
        subprocess.run(command, input=source, text=True, check=True)
    for name, version in {*LIBRARIES.values(), ("triton", "3.2.0")}:
        record = site / f"{name.replace('-', '_')}-{version}.dist-info"
        record.mkdir(exist_ok=True)
        (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (record / "INSTALLER").write_text("stand-in\n")
    script.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
