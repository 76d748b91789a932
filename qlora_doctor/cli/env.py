"""``qlora-doctor env``: what to paste into an issue."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ._help import examples

if TYPE_CHECKING:
    from ..facts.environment import EnvironmentFacts


@click.command("env", epilog=examples("env", "env --format json"))
@click.option("--format", "format", type=click.Choice(["text", "json"]), default="text", show_default=True,
              help="Format of the output.")  # fmt: skip
def command(format: str) -> None:
    """Show versions, GPUs and the bitsandbytes backend, to paste into an issue."""
    from ..probes.environment import look_at_environment
    from ._terminal import show

    facts = look_at_environment()
    if format == "json":
        click.echo(facts.model_dump_json(indent=2))
    else:
        show("\n".join(_lines(facts)))


def _lines(facts: EnvironmentFacts) -> list[str]:
    rows = [("qlora-doctor", facts.tool_version), ("python", facts.python), ("platform", facts.platform)]
    rows += [(name, version) for name, version in facts.packages.model_dump().items() if version is not None]
    rows.append(("torch built for", _cuda(facts.torch_cuda)))
    if facts.bitsandbytes_backends is not None:
        rows.append(("bitsandbytes has", ", ".join(facts.bitsandbytes_backends) or "no native library"))
    if facts.bitsandbytes_matches_torch is not None:
        rows.append(("  serves torch", "yes" if facts.bitsandbytes_matches_torch else "no"))
    for gpu in facts.gpus or ():
        capability = f", capability {gpu.capability}" if gpu.capability is not None else ""
        free = f", {gpu.free_bytes / 2**30:.1f} free" if gpu.free_bytes is not None else ""
        rows.append((f"gpu {gpu.index}", f"{gpu.name}, {gpu.memory_bytes / 2**30:.1f} GiB{free}{capability}"))
    if not facts.gpus:
        why = f" ({facts.nvml_error})" if facts.nvml_error else ""
        rows.append(("gpu", ("none" if facts.gpus == [] else "unknown") + why))
    if facts.driver is not None:
        rows.append(("driver", facts.driver))
    if facts.host_memory_bytes is not None:
        free = f", {facts.host_available_bytes / 2**30:.1f} free" if facts.host_available_bytes is not None else ""
        rows.append(("host memory", f"{facts.host_memory_bytes / 2**30:.1f} GiB{free}"))
    if facts.cpu_count is not None:
        rows.append(("cpu cores", str(facts.cpu_count)))
    longest = max(len(name) for name, _ in rows)
    return ["```text", *(f"{name:<{longest}}  {value}" for name, value in rows), "```"]


def _cuda(version: str | None) -> str:
    return "unknown" if version is None else "cpu" if version == "cpu" else f"CUDA {version}"
