"""The samples after the trainer's own preparation (stage ``data``)."""

from .base import Fact


class DataFacts(Fact):
    """What the model would be shown."""

    source: str | None = None
    format: str | None = None
    columns: list[str] | None = None
    rows: int | None = None
    rows_seen: int | None = None
    """Rows that were tokenised for these facts."""
    tokens_mean: float | None = None
    tokens_median: int | None = None
    tokens_max: int | None = None
    truncated_ratio: float | None = None
    labels_masked_ratio: float | None = None
    """Share of label positions that are -100 after the collator."""
    rows_fully_masked: int | None = None
    """Rows without a label that counts; those that trl drops for it are among them."""
    max_token_id: int | None = None
    vocab_rows: int | None = None
    tokens_out_of_range: int | None = None
    eos_supervised_ratio: float | None = None
    double_bos_rows: int | None = None
    identical_pairs: int | None = None
    """Pairs of a preference whose chosen answer is the rejected one."""
    desirable_ratio: float | None = None
    """Share of unpaired answers that are labelled as good."""
    chat_template: bool | None = None
    failure: str | None = None
    """Why the data could not be read or rendered, in a sentence."""
