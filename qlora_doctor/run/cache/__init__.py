"""What stages found out earlier, so that no probe is paid for twice: of the same setup, or of one that differs in what
a stage does not look at."""

from .keys import stage_keys, trace_key
from .store import Kept, Store, cache_folder, pages_folder

__all__ = ["Kept", "Store", "cache_folder", "pages_folder", "stage_keys", "trace_key"]
