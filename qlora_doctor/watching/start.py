"""The beginning of the watching in a process: called when torch is about to be imported, imports nothing heavy."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .station import Station

FOLDER = "QLORA_DOCTOR_RUN"
"""Environment variable with the folder that a run's records go to."""


def prepare() -> None:
    """Wait for torch, for transformers' Trainer, for PEFT and for datasets."""
    from wrapt import register_post_import_hook

    for module, arrived in (
        ("torch", lambda station, module: station.wait_for_training()),
        ("transformers.trainer", lambda station, module: station.wait_for_trainer(module)),
        ("peft.peft_model", lambda station, module: station.wait_for_saves(module)),
        ("datasets.arrow_dataset", lambda station, module: station.emptied.put_on(module)),
    ):
        register_post_import_hook(_when_here(arrived), module)


def _when_here(arrived: Callable[[Station, Any], None]) -> Callable[[Any], None]:
    """What is called when a module is there: inside the program's own import, which goes on whatever happens."""

    def hook(module: Any) -> None:
        from .guarding import say, told

        try:
            from .station import station_of

            arrived(station_of(os.environ[FOLDER]), module)
        except Exception as error:
            say(f"Not watching: {told(error)}")

    return hook
