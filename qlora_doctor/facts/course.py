"""The course of a run: what its logs say of loss, rate, gradient, speed and memory (stage ``course``).

Steps are optimizer steps as the trainer counts them. What is a trend and what is noise is decided by the series' own
noise; a quantity with too few points is unknown.
"""

from pydantic import Field

from .base import Fact


class Curve(Fact):
    """One quantity over the run, thinned to a few hundred points that keep every low and every high."""

    quantity: str
    """``loss``, ``eval_loss``, ``learning_rate``, ``grad_norm``, ``memory_gib``, …, or as logged."""
    steps: list[float]
    values: list[float | None]
    """None where the value is not finite."""


class OtherRun(Fact):
    """Another run that is laid under this one."""

    name: str
    curves: list[Curve]


class Spike(Fact):
    """A point far above the band of its neighbours that comes back."""

    step: float
    value: float
    level: float
    """Median of the neighbours."""
    coincides: list[str] = Field(default_factory=list)
    """``rate-peak``, ``epoch-start``, ``skipped-step``, ``resumed``, ``same-rows`` (each epoch has one at this
    place: its rows come in one order); ``[]`` where nothing falls on it."""


class Trend(Fact):
    """A series against its own noise.

    ``direction`` by the test of Mann (1945) and Kendall (1975) on medians of blocks; ``change`` is the level of the
    last fifth minus that of the first; ``noise`` is the standard deviation of one point, from the median absolute
    difference of neighbours.
    """

    points: int
    first: float
    last: float
    change: float
    noise: float
    probability: float
    """That so much order comes by chance."""
    direction: str
    """``falls``, ``rises`` or ``flat``."""


class CourseFacts(Fact):
    """What the logs of one run say."""

    name: str | None = None
    sources: list[str] = Field(default_factory=list)
    """Files that were read."""
    formats: list[str] = Field(default_factory=list)
    """``trainer_state``, ``trainer_log``, ``logging_jsonl``, ``json_lines``, ``tensorboard``, ``wandb``, ``mlflow``,
    ``csv``, ``output``."""
    unread: list[str] = Field(default_factory=list)
    """Files, or parts of them, that could not be read, one sentence each."""
    quantities: list[str] = Field(default_factory=list)
    curves: list[Curve] = Field(default_factory=list)
    others: list[OtherRun] = Field(default_factory=list)
    steps_known: bool | None = None
    """False where the log counts no steps, so that records are counted."""

    # -- how far it went
    last_step: float | None = None
    planned_steps: float | None = None
    last_epoch: float | None = None
    planned_epochs: float | None = None
    finished: bool | None = None
    """True where the log holds the trainer's closing record, False where steps are missing at the end."""
    ended: bool | None = None
    """True where the run is over: its closing record, or the exception that ended it; None where it may still go on."""
    short: bool | None = None
    """True where steps that were asked for are missing, and no early stopping is the reason."""
    stopped_early: bool | None = None
    """True where an early-stopping callback ended it; None where the log cannot tell."""
    resumed_at: list[float] = Field(default_factory=list)
    error: str | None = None
    """The exception that a captured output ends in, ``none`` where it ends in none; None without such an output."""

    # -- loss
    method: str | None = None
    """``preference`` where rewards are logged, else the config's own word."""
    completions_cut_ratio: float | None = None
    """Share of the generated answers that end at their limit and not in an end token, over the last records."""
    groups_of_one_reward: float | None = None
    """Share of the groups of answers whose rewards are all the same, over the last records."""
    generated_records: int | None = None
    """Records that these two are of."""
    loss: Trend | None = None
    loss_flat: bool | None = None
    """True where nothing but noise is seen from the first step on."""
    loss_constant: bool | None = None
    """True where every value is the same to the digits that are logged."""
    loss_period: int | None = None
    """Records after which every value comes again exactly as it was, as of rows in one order through weights that stay
    as they are; 0 where they do not."""
    untrained_value: str | None = None
    """``ln-vocabulary``, ``ln-labels`` or ``ln-2`` where the loss stays there, else ``none``."""
    pairs_told_apart_from: float | None = None
    """Of preference training, the step from which on the loss is below 0.01 and every pair is told apart; 0 where it
    is not so for half of the run."""
    pairs_margin: float | None = None
    """The last margin between the rewards of a pair."""
    loss_zero_from: float | None = None
    loss_zero: bool | None = None
    """True where the loss is exactly zero up to the end."""
    loss_nonfinite_from: float | None = None
    loss_nonfinite: bool | None = None
    loss_diverges: bool | None = None
    """True where it ends above its own best level, and above where it began, by more than its noise."""
    diverges_from: float | None = None
    spikes: list[Spike] | None = None
    staircase: bool | None = None
    """True where the loss falls at the ends of epochs and hardly between."""
    staircase_drops: list[float] | None = None
    """Fall of the level at each end of an epoch."""
    train_over_eval: float | None = None
    """Training loss over evaluation loss at the first evaluation; without one, the first training loss over the loss
    that ``check`` saw before any step."""
    accumulation: int | None = None
    loss_scaled_by_accumulation: bool | None = None
    """True where the training loss is the evaluation loss times gradient_accumulation_steps: a sum, not a mean."""

    # -- evaluation
    evaluations: int | None = None
    evaluation_missing: bool | None = None
    """True where the config asks for evaluation and none is logged."""
    evaluation_lossless: bool | None = None
    """True where transformers' Trainer evaluated (``eval_runtime``) and no evaluation has a loss."""
    evaluation_absent: bool | None = None
    """True where none is logged, whatever was asked for."""
    best_eval_loss: float | None = None
    best_eval_step: float | None = None
    last_eval_loss: float | None = None
    overfits: bool | None = None
    """True where evaluation rises from its best on while training falls."""
    best_kept: bool | None = None
    """True where a checkpoint of the best evaluation lies in the run's folder; None where that cannot be seen."""
    checkpoints: list[float] | None = None
    """Steps of the checkpoints in the run's folder."""

    # -- rate
    rate_peak: float | None = None
    rate_asked: float | None = None
    rate_zero: bool | None = None
    """True where it is zero at every step after the first."""
    rate_short_of_peak: bool | None = None
    """True where it still rises at the end, or never comes near what the config asks for."""
    rate_restarts: list[float] | None = None
    """Steps at which it jumps up after it had fallen, where no schedule with restarts is asked for."""
    rate_zero_from: float | None = None
    rate_ends_early: bool | None = None
    """True where it is zero for the last tenth of the run or more."""

    # -- gradient
    gradient: Trend | None = None
    gradient_zero: bool | None = None
    gradient_zero_from: float | None = None
    gradient_nonfinite_from: float | None = None
    gradient_nonfinite: bool | None = None
    """True where it is not finite up to the end, while the loss is."""
    gradient_explodes: bool | None = None
    gradient_over_check: float | None = None
    """The first norms over the norm of the step that ``check`` took; both are of an adapter that is new."""
    gradient_scaled_by_accumulation: bool | None = None
    """True where that is nearly gradient_accumulation_steps: the parts are summed, not averaged."""
    gradient_growth: float | None = None
    """Level of the last fifth over that of the calmest fifth before."""

    # -- speed and memory
    seconds_per_step: Trend | None = None
    slows: bool | None = None
    memory: Trend | None = None
    memory_creeps: bool | None = None
