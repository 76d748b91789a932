"""The beginning of the watching in a process: called when torch is about to be imported, imports nothing heavy."""

from __future__ import annotations

import os
from typing import Any

FOLDER = "QLORA_DOCTOR_RUN"
"""Environment variable with the folder that a run's records go to."""


def prepare() -> None:
    """Wait for torch and for transformers' Trainer."""
    from wrapt import register_post_import_hook

    register_post_import_hook(_torch_is_here, "torch")
    register_post_import_hook(_trainer_is_here, "transformers.trainer")


def _torch_is_here(module: Any) -> None:
    from .station import station_of

    station_of(os.environ[FOLDER]).wait_for_training()


def _trainer_is_here(module: Any) -> None:
    from .station import station_of

    station_of(os.environ[FOLDER]).wait_for_trainer(module)
