"""qlora-doctor: tells what is wrong with a QLoRA setup before the run.

>>> import qlora_doctor
>>> report = qlora_doctor.check("config.json")        # doctest: +SKIP
>>> report.exit_code, report.findings                 # doctest: +SKIP

In a training script, with the objects that are about to train:

>>> report = qlora_doctor.examine(model, optimizer, batch)   # doctest: +SKIP

Around a training, which it watches and leaves alone:

>>> trainer = Trainer(..., callbacks=[qlora_doctor.DoctorCallback("html=report.html")])   # doctest: +SKIP
>>> with qlora_doctor.watch(model, optimizer):   # doctest: +SKIP
...     train()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._version import __version__

__all__ = ["DoctorCallback", "Facts", "Finding", "Report", "Setup", "__version__", "check", "examine", "watch"]

if TYPE_CHECKING:
    from .core.report import Finding, Report
    from .facts import Facts
    from .run.checking import check
    from .run.examining import examine
    from .run.inside import DoctorCallback, watch
    from .setup.setup import Setup

_HOMES = {
    "DoctorCallback": ".run.inside",
    "check": ".run.checking",
    "examine": ".run.examining",
    "watch": ".run.inside",
    "Facts": ".facts",
    "Finding": ".core.report",
    "Report": ".core.report",
    "Setup": ".setup.setup",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``import qlora_doctor`` stays light."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name], __name__), name)
