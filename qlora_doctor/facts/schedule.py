"""The course that a config asks for: updates, batches, intervals (stage ``config``)."""

from .base import Fact


class ResumeFacts(Fact):
    """The checkpoint that a run goes on from, as its own files record it."""

    checkpoint: str
    """Its folder; ``none`` where a run begins again."""
    updates_done: int | None = None
    """``global_step`` of its trainer_state.json."""
    updates_left: int | None = None
    """Of the run that the config asks for; 0 where all of them are done already."""
    lora_r: int | None = None
    """Rank of the adapter that lies in it."""
    rank_differs: bool | None = None
    """True where the config's rank is another one."""
    differs: list[str] | None = None
    """What else is another in the checkpoint than in the config, so that the samples come in another order or number:
    ``world size 2, now 1``."""
    stateless: bool | None = None
    """True where the checkpoint holds no state of optimizer and schedule, as ``save_only_model`` leaves it."""
    unusable: str | None = None
    """Why the trainer cannot go on from it, in words; ``none`` where its trainer_state.json is there."""
    absent: str | None = None
    """The output_dir whose last checkpoint is meant and that is not on this machine; ``none`` where it is."""


class ScheduleFacts(Fact):
    """How many updates there are, how large each is, and what is due when.

    Updates are optimizer steps; a number that depends on data that was not counted is None. A script that speaks of one
    process only is counted as one, wherever it may be launched.
    """

    effective_batch: int | None = None
    """Samples in an update: ranks times batch times accumulation."""
    batch_of_a_rank: int | None = None
    """Samples that one rank adds to an update: batch times accumulation."""
    rows: int | None = None
    """Rows of the training data, where they are in a file that was counted."""
    rows_at_most: int | None = None
    """Rows of the files that the config names: the trainer may leave some out, and holds some out for evaluation."""
    epochs: float | None = None
    """Passes over the data: as set, or as the updates make them."""
    updates_per_epoch: int | None = None
    updates: int | None = None
    updates_at_most: int | None = None
    """The same where nobody told how many ranks there are, or how many rows are left out: more of both make fewer."""
    updates_of_epochs: int | None = None
    """Updates that ``num_train_epochs`` comes to, where ``max_steps`` is written beside it and goes before it; 0 where
    only one of them is written."""
    warmup_updates: int | None = None
    warmup_unused: bool | None = None
    """True where a warm-up is set and the schedule is ``constant``, which has none."""
    peak_rate_share: float | None = None
    """The highest learning rate that is reached, as a share of the one that is set; at most, where ``updates`` is."""
    late_intervals: list[str] | None = None
    """What is due for the first time after the last update: ``save every 500``, ``evaluation every 200``, …"""
    best_model: str | None = None
    """What becomes of load_best_model_at_end: ``off``, ``chosen``, or ``nothing`` where nothing is ever evaluated."""
    best_metric: str | None = None
    """The metric by which the best checkpoint is chosen, where one is."""
    worst_is_chosen: bool | None = None
    """True where greater_is_better says of that metric the contrary of what it means: of a loss that a greater one is
    better, of an accuracy that a smaller one is."""
    generations: int | None = None
    """Answers to one prompt, of GRPO and RLOO."""
    generation_batch: int | None = None
    """Answers that are generated at a time, over all ranks; on one rank where nothing speaks of several."""
    resume: ResumeFacts | None = None


class PreferenceFacts(Fact):
    """What a preference or reinforcement method holds the policy to."""

    reference: str | None = None
    """``base`` (the adapter switched off), ``adapter-copy`` (the adapter as it was at the start), ``second-model``, or
    ``none`` where the method has no reference."""
    continues_adapter: bool | None = None
    """True where training goes on from a stored adapter."""
    beta: float | None = None
    label_smoothing: float | None = None
    label_smoothing_unused: bool | None = None
    """True where it is set and the loss does not read it."""
    merges_into_4bit: bool | None = None
    """True where the adapter is merged into the 4-bit base and taken out again at each hand-over to vLLM."""
