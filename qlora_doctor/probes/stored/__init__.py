"""A stored adapter or merged model, judged by its files: stage ``stored``. Nothing is unpickled, no torch is needed."""

from .folder import stored_facts

__all__ = ["stored_facts"]
