"""The samples after the trainer's own preparation (stage ``data``)."""

from .base import Fact


class DataSetFacts(Fact):
    """One of the data sets that a config names."""

    name: str | None = None
    key: str | None = None
    form: str | None = None
    """The trainer's word for the form of its rows."""
    rows: int | None = None
    """None where a large file was sampled."""
    rows_seen: int | None = None
    columns_unread: list[str] | None = None
    roles: dict[str, int] | None = None
    """Roles of its messages, by the names that the file has for them, and how often each stands there."""
    not_followed: str | None = None
    """Why its rows were not looked at."""


class SegmentFacts(Fact):
    """Tokens of one kind that stand together in a row."""

    text: str
    kind: str
    """``trained``, ``masked``, ``padding``, or ``cut``: behind the limit, so that the model never sees it."""
    special: bool = False
    """A special token alone."""
    tokens: int = 1


class RowFacts(Fact):
    """A row as the model sees it."""

    which: list[str]
    """What it stands for: ``shortest``, ``median``, ``longest``, ``random``, ``untrained``, ``left out``."""
    number: int | None = None
    """Its place in the file, from 0; None where that is not known."""
    set_name: str | None = None
    length: int
    """Tokens before it was cut."""
    kept: int
    """Tokens that the model sees; 0 of a row that is left out."""
    trained: int
    dropped: str | None = None
    segments: list[SegmentFacts]


class DataFacts(Fact):
    """What the model would be shown."""

    source: str | None = None
    format: str | None = None
    columns: list[str] | None = None
    rows: int | None = None
    rows_seen: int | None = None
    """Rows that were tokenised for these facts."""
    tokens_unseen: str | None = None
    """Why rows were looked at and their tokens were not; None where they were."""
    tokens_mean: float | None = None
    tokens_median: int | None = None
    tokens_max: int | None = None
    truncated_ratio: float | None = None
    completion_mask_lost: bool | None = None
    """completion_only_loss is asked for, and the rows that were read have no completion; None where the config tells
    their format by itself."""
    completions_all_masked: bool | None = None
    """mask_truncated_completions is on, and every completion counts as cut: its end is no end of generation, or each
    answer of the data is longer than what may be generated."""
    labels_masked_ratio: float | None = None
    """Share of label positions that are -100 after the collator."""
    rows_fully_masked: int | None = None
    """Rows without a label that counts; those that trl drops for it are among them."""
    max_token_id: int | None = None
    vocab_rows: int | None = None
    tokens_out_of_range: int | None = None
    eos_supervised_ratio: float | None = None
    """Share of the rows that train anything in which an end token is trained; None of pre-training, whose
    texts need not end."""
    double_bos_rows: int | None = None
    identical_pairs: int | None = None
    """Pairs of a preference whose chosen answer is the rejected one."""
    desirable_ratio: float | None = None
    """Share of unpaired answers that are labelled as good."""
    reward_functions: list[str] | None = None
    """Reward functions that were called, each with its place; None where none was."""
    reward_completions: int | None = None
    """Made-up completions that they were given."""
    reward_raises: str | None = None
    """The functions that raise whatever they are given, and what; ``none`` where they return. So the next ones."""
    reward_raises_on: str | None = None
    """Those that raise on some completions."""
    reward_counts: str | None = None
    """Those that return another number of rewards than there are completions."""
    reward_unusable: str | None = None
    """Those that return something else than finite numbers."""
    reward_unscored: str | None = None
    """Those that return None for every completion, where no other function gives a reward."""
    reward_spread: float | None = None
    """The widest distance between the rewards, weighted and added up, of two completions of one prompt."""
    reward_sample: float | None = None
    """That sum for the first completion."""
    answers_beyond_ratio: float | None = None
    """Of a method that generates, the share of the rows whose known answer is longer than what may be generated."""
    completion_limit: int | None = None
    """Tokens that may be generated for an answer."""
    chat_template: bool | None = None
    rendered_by: str | None = None
    """Whose rules formed the rows where the trainer's own code is not here: ``qlora-doctor after axolotl's
    chat_template``, ``axolotl 0.19.0's own code`` where an installed trainer was asked; None where TRL or transformers
    formed them here."""
    rendered_by_trainer: bool | None = None
    """Whether that is code of the trainer's, or of the user's script, itself; None as ``rendered_by``."""
    sets: list[DataSetFacts] | None = None
    sets_not_followed: int | None = None
    limit: int | None = None
    """Tokens at which a row ends; None where nothing is cut."""
    rows_left_out: int | None = None
    """Of the rows that were seen, those that the trainer leaves out."""
    left_out: dict[str, int] | None = None
    """Why, and how many."""
    left_out_reasons: list[str] | None = None
    """The same in words: ``90 longer than the limit``."""
    roles: list[str] | None = None
    """Roles of the messages, by the names that the data has for them."""
    sets_without_trained_role: list[str] | None = None
    """Data sets no message of which has a role that is to be trained."""
    roles_trained: list[str] | None = None
    """Roles that the config says are trained, by the names it has for them."""
    roles_missing: list[str] | None = None
    """Of these the ones that no row of their data set has."""
    roles_unknown: list[str] | None = None
    """Roles of the rows that the form has no meaning for."""
    content_columns_unread: list[str] | None = None
    """Columns that nothing reads although their name says that they hold content."""
    answer_columns_unread: list[str] | None = None
    """Columns that nothing reads although their name says that they hold an answer."""
    rows_ending_in_prompt: int | None = None
    """Texts that end in the head of an answer, as a prompt for generation does; None where no template says it."""
    empty_answers: int | None = None
    duplicate_rows: int | None = None
    """Rows whose text stands in the rows that were seen already."""
    conflicting_rows: int | None = None
    """Rows whose prompt stands in another row with another answer."""
    garbled_rows: int | None = None
    """Rows with letters that were read in another encoding than they were written in."""
    evaluation_columns_missing: list[str] | None = None
    """Columns that the trainer reads and the evaluation data does not have."""
    tokens_min: int | None = None
    conversations_as_text: int | None = None
    """Rows whose prompt or answer is a list of messages as JSON text."""
    content_lost_rows: int | None = None
    """Rows with content that the rendered text does not have."""
    content_lost: str | None = None
    """The beginning of it, of one row, with the role of its message."""
    cut_end_rows: int | None = None
    """Rows that are cut and lose trained tokens."""
    longer_chosen_ratio: float | None = None
    """Share of pairs whose chosen answer is the longer one."""
    tool_calls: int | None = None
    """Calls of tools in the conversations that were looked at; None where there are no conversations."""
    tool_calls_broken: int | None = None
    """Of these, the ones that are no JSON or have no name."""
    tool_call_broken: str | None = None
    """The beginning of one."""
    tool_calls_undefined: int | None = None
    """Calls of a tool that their row does not define, though it defines others."""
    tool_undefined: str | None = None
    """The name of one."""
    rows_out_of_order: int | None = None
    """Conversations whose roles do not follow one another as in a talk."""
    out_of_order: str | None = None
    """What is wrong with one of them: ``two messages of user one after another``."""
    evaluation_near_duplicates: int | None = None
    """Evaluation rows that are almost the same as a training row, and not the same."""
    turn_end: str | None = None
    """The special token that the chat template writes behind an answer."""
    turn_end_stops: bool | None = None
    """Whether generation stops there: it is the tokenizer's end token, or generation_config.json names it."""
    stops_at: str | None = None
    """The tokenizer's end token."""
    new_tokens: int | None = None
    """Tokens of the rows that were added to the vocabulary and whose embeddings were made again."""
    new_tokens_trained: bool | None = None
    """Whether anything trains those embeddings."""
    prompts_repeated: int | None = None
    """Pairs whose two answers begin with the prompt that is trained before them."""
    pairs_of_two_prompts: int | None = None
    """Pairs whose two answers stand behind different questions."""
    evaluation_rows: int | None = None
    """Rows of the evaluation data that were held against those of the training data."""
    evaluation_rows_in_training: int | None = None
    """Of these, the ones whose text, apart from case and spaces, stands in the training data."""
    trained_ratio: float | None = None
    """Share of the tokens, padding left out, that are trained."""
    text_ratio_padded: float | None = None
    """Share of the positions that would be text where rows in a shuffled order fill batches, each padded to its longest
    row: reckoned from lengths. So the next two."""
    text_ratio_grouped: float | None = None
    """Where rows of like length stand together."""
    text_ratio_packed: float | None = None
    """Where several rows are packed into one of the limit's length."""
    lengths: list[int] | None = None
    """Rows of each bin of the histogram of lengths; all bins are as wide."""
    lengths_bin: int | None = None
    """Tokens of a bin."""
    response_marker: str | None = None
    """Text that a script says stands before what is trained; None where it names none."""
    rows_with_marker: int | None = None
    shown: list[RowFacts] | None = None
    """Some rows as the model sees them."""
    failure: str | None = None
    """Why the data could not be read or rendered, in a sentence."""
