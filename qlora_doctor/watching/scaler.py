"""The gradient scaler of a training that is watched: its factor, and the steps that it leaves out."""

from __future__ import annotations

from typing import Any

from .training import Training


class Scaler:
    """The scaler that is enabled in this process, if there is one.

    Attributes:
        scale: its factor as the step under way began; 1 without one.
    """

    def __init__(self, training: Training) -> None:
        self._training = training
        self.scale = 1.0
        self._states: Any = None

    def there(self) -> Any:
        """The scaler, or None."""
        enabled = [each for each in self._training.found.get("GradScaler", ()) if each.is_enabled()]
        return enabled[-1] if enabled else None

    def step_begin(self) -> None:
        """A step begins: note the factor, and the states that the scaler holds."""
        scaler = self.there()
        self.scale = float(scaler.get_scale()) if scaler is not None else 1.0
        self._states = getattr(scaler, "_per_optimizer_states", None)

    def skipped(self) -> bool:
        """Whether the scaler left out the step under way: it was updated, and no optimizer has stepped.

        torch.amp's makes its states anew with each update; of another one, the scale falls.
        """
        scaler = self.there()
        if scaler is None:
            return False
        if self._states is not None:
            optimizers = self._training.held()
            ours = not optimizers or any(each in self._states for each in optimizers)
            return ours and getattr(scaler, "_per_optimizer_states", None) is not self._states
        return float(scaler.get_scale()) < self.scale
