"""A followed script → Setup: what each reader takes from it, in the order in which they build on one another."""

from __future__ import annotations

from collections.abc import Callable

from ...setup.traits import Traits
from ..document import Document
from .handed import note_given_data, note_handed, note_inner_model
from .keywords import check_keywords
from .lost import note_lost
from .named_data import name_data
from .order_of_calls import note_order
from .outcomes import note_outcomes
from .own_functions import note_own_functions
from .parts import read_adapter, read_data, read_load, read_quantization
from .setup_builder import SetupBuilder
from .slips_in_loops import note_loops
from .slips_with_adapters import note_adapter_slips
from .source import read_source
from .statements import read_statements
from .training import by_card, order_of, read_training
from .training_script import TrainingScript, follow_script
from .unused import note_unused
from .uses import note_uses

_READERS: tuple[Callable[[TrainingScript, SetupBuilder], None], ...] = (
    read_load,
    read_quantization,
    read_adapter,
    read_training,
    read_data,
    name_data,
    order_of,
    note_outcomes,
    note_order,
    note_own_functions,
    note_unused,
    note_lost,
    note_handed,
    note_given_data,
    note_inner_model,
    note_loops,
    note_adapter_slips,
    lambda _, builder: by_card(builder),
    check_keywords,
    note_uses,
    read_statements,
)


def follow_to_setup(document: Document, dialect: str, traits: Traits) -> tuple[TrainingScript, SetupBuilder]:
    """The script as it was followed, and the setup that its readers fill.

    Raises:
        ConfigError: it is no Python.
        RecursionError: it is nested too deeply.
    """
    source = read_source(document)
    script = follow_script(source)
    builder = SetupBuilder(source, dialect, traits)
    for read in _READERS:
        read(script, builder)
    return script, builder
