"""What sets a dialect's trainer apart from a plain run of transformers, PEFT and TRL.

Each dialect's module says its own; a Setup carries them, so that nobody below asks for a dialect by its name.
"""

from __future__ import annotations

from typing import NamedTuple


class Traits(NamedTuple):
    """Of one trainer; the defaults are those of a trainer that is not known better.

    Attributes:
        own_loop: its name, where it steps by code of its own and not by transformers' or TRL's trainer.
        own_model: it builds a model of its own from the weights, whose layers have other names than transformers'.
        own_options: its options do not reach transformers' classes.
        as_written: values reach LoraConfig and SFTConfig as they are written.
        hf_names: it takes transformers' names of optimizers and schedules, and may know more than are listed here.
        checks_names: it stops at an optimizer or a schedule that TrainingArguments do not know.
        more_optimizers: optimizers that it knows besides; it has schedules of its own then.
        switches_of_transformers: ``use_liger_kernel`` and ``activation_offloading`` are transformers' and trl's own.
        liger_by_plugin: a plugin of its own applies Liger's kernels, each by its key.
        hands_base_to_trl: it leaves it to TRL's trainer to prepare a quantized base.
        heeds_launcher: it respects what accelerate's launcher sets.
        starts_processes: its command starts a process for each card by itself.
        searches_unused: DistributedDataParallel searches for unused parameters where nothing is written.
        warmup_ratio: share of the run that it warms up for where neither a share nor steps are written.
        rl_by_trl: it trains by preferences with TRL's trainers, whatever it trains examples with.
        reference_is_base: in preference training it compares with the base, the adapter switched off.
        counts_generations: it divides a batch into groups of answers by itself.
        lists_linear: it puts the names of the linear layers in the place of all-linear, so that PEFT never sees the
            word: what PEFT makes of it beyond them, adapters on experts that are one parameter, is not there then.
        drops_on_experts: a dropout is put on experts that are one parameter.
        hub_ids: a model's name goes to from_pretrained as it is written; others have short names of their own.
        loads_by_type: kinds of model that it loads by their ``model_type``, whatever class is named.
        folders_only: its model is a folder, whatever the name looks like.
        subset_in_name: the name of a data set may hold a subset and a number of rows, ``HF::id:subset#500``.
        data_key: the key under which its user names data; None where there is none.
        row_is_sample: it makes one sample of a row at the most, also where it packs.
        counts_rows: ``data.train`` is the whole of the training data, row for row.
        packs_apart: how it keeps samples in one row apart: ``attention``, by position ids that the attention reads, or
            ``trainer``, by itself; None where TRL's version decides, or nothing is known.
        forms: under which name ``pipeline.forms`` has its forms of samples; None where these are not followed.
        own_templates: it forms turns by templates of its own, never by the tokenizer's.
        prepared_key: the key of a folder with data that it has prepared before.
        templates: whose names of chat templates it takes.
        token_keys: keys that add tokens of the user's own choice.
        adds_template_tokens: it makes the marks of a chat template new tokens.
        decided_by: canonical paths of what decides that which the file describes; None where it describes a run.
        of_a_project: the versions that the file's project asks for decide; False where those installed do.
    """

    own_loop: str | None = None
    own_model: bool = False
    own_options: bool = False
    as_written: bool = False
    hf_names: bool = False
    checks_names: bool = False
    more_optimizers: frozenset[str] = frozenset()
    switches_of_transformers: bool = False
    liger_by_plugin: bool = False
    hands_base_to_trl: bool = False
    heeds_launcher: bool = False
    starts_processes: bool = False
    searches_unused: bool = True
    warmup_ratio: float = 0.0
    rl_by_trl: bool = False
    reference_is_base: bool = False
    counts_generations: bool = False
    lists_linear: bool = False
    drops_on_experts: bool = True
    hub_ids: bool = False
    loads_by_type: tuple[str, ...] = ()
    folders_only: bool = False
    subset_in_name: bool = False
    data_key: str | None = None
    row_is_sample: bool = False
    counts_rows: bool = False
    packs_apart: str | None = None
    forms: str | None = None
    own_templates: bool = False
    prepared_key: str | None = None
    templates: str | None = None
    token_keys: tuple[str, ...] = ()
    adds_template_tokens: bool = False
    decided_by: tuple[str, ...] | None = None
    of_a_project: bool = True


NATIVE = Traits(
    as_written=True,
    hf_names=True,
    checks_names=True,
    switches_of_transformers=True,
    hub_ids=True,
    data_key="data.train",
    counts_rows=True,
    of_a_project=False,
)
"""A native config: transformers', PEFT's and TRL's own classes, under their own names."""
