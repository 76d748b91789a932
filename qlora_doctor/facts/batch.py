"""What a batch teaches: the input ids, masks and labels as the model is given them (stages ``step`` and ``run``)."""

from .base import Fact


class BatchFacts(Fact):
    """Batches that were looked at, counted together.

    A *label counts* where it is not -100. A position is *padding* where the attention mask is 0 or, without a mask,
    where padding tokens stand at a row's end (or beginning) behind the first of them that may end the text.
    """

    batches: int | None = None
    rows: int | None = None
    length_min: int | None = None
    length_max: int | None = None
    """Tokens of the shortest and of the longest row, padding included."""
    dimensions: int | None = None
    """Of input_ids: two, rows and tokens; three where each row was tokenized to a tensor of its own."""
    tokens: int | None = None
    """Positions that are no padding."""
    padding_ratio: float | None = None
    """Share of all positions that are padding."""
    trained_tokens: int | None = None
    """Labels that count; None where the model is given no labels."""
    trained_ratio: float | None = None
    """Of the positions that are no padding, the share whose label counts."""
    rows_untrained: int | None = None
    """Rows without a label that counts."""
    rows_fully_trained: int | None = None
    """Rows of which every position that is no padding has a label that counts."""
    rows_one_token: int | None = None
    """Rows of more than 8 tokens of which one label counts."""
    labels_shifted: bool | None = None
    """True where the labels are the inputs moved by one: labels[t] = input[t + 1]."""
    labels_other_ratio: float | None = None
    """Share of the labels that count on text and are neither the input at their place nor the next one."""
    labels_on_padding: int | None = None
    labels_on_padding_ratio: float | None = None
    """Share of the labels that count and stand on padding."""
    padding_let_through: int | None = None
    """Padding tokens at the ends of rows that the attention mask calls text."""
    padding_attended: bool | None = None
    """True where some of them stand before the text, so that it attends to them."""
    labels_on_placeholders: int | None = None
    """Labels that count and stand on image, video or audio placeholders."""
    placeholders: int | None = None
    """Image, video and audio placeholders among the inputs; None where the model has none."""
    media_given: bool | None = None
    """Whether pixel values or audio features came with the batches; None where the model takes none."""
    media_tokens: int | None = None
    """Tokens that the images and videos of the batches become; None where their model's rule is not known here."""
    image_tokens_max: int | None = None
    """Of the largest one."""
    classes: int | None = None
    """Classes that the model distinguishes; None where the labels are no classes."""
    classes_seen: int | None = None
    class_labels_out_of_range: int | None = None
    conflicting_class_rows: int | None = None
    """Rows whose text stands in another row with another class."""
    classifier_pad: str | None = None
    """Of a decoder that classifies by the last token that is no padding token, whether its config names that token:
    ``none``, one that ``differs`` from the padding in the batches, or the ``same``."""
    padding_token: bool | None = None
    """Whether the tokenizer has a token to pad with; asked where the trainer's collator needs one."""
    pad_is_eos: bool | None = None
    ends_trained: int | None = None
    """Rows that end in the end token and whose label counts there."""
    ends_untrained: int | None = None
    """Rows that end in the end token and whose label does not count there, though others of the row do."""
    ends_missing: int | None = None
    """Rows that train something and end in no special token, nor hold the end token anywhere; None where that is no
    fault of theirs: most are as long as the longest, so that they are cut, or blocks of a longer text."""
    collator_masks_ends: bool | None = None
    """Whether the script's collator masks the label of an end token; asked where the tokenizer is not at hand."""
    two_bos_rows: int | None = None
    duplicate_rows: int | None = None
    """Rows that stand in the batches already."""
    limit: int | None = None
    """Tokens that the trainer cuts a row at; None where it is not known, or where rows are packed up to it."""
    rows_cut: int | None = None
    """Rows of just that many tokens that do not end in the end token."""
    mask_by_hand_ratio: float | None = None
    """Share of labels that are -100 in the first rows of the tokenized data set; None where it holds no labels."""
    mask_misplaced: str | None = None
    """Where masks end that begin the rows: ``characters``, as many tokens in as the prompts have characters;
    ``padding``, counted from the padding before a text; ``none`` where neither; None where the rows do not tell."""
    mask_discarded: bool | None = None
    """True where the data set's labels mask tokens and the batches' labels mask nothing but padding."""
    unfit: bool | None = None
    """True where no forward takes the batches: ids of three dimensions, classes or a padding token that the model does
    not have, images of another number of tokens than their placeholders."""
    collator: str | None = None
    """What makes a batch of rows, with its place where it is the user's: ``collate (train.py:34)``."""
    labels_by: str | None = None
    """Whose the labels are: ``the mapped function encode (train.py:22)``, ``the collator collate (train.py:34)``."""
    text: str | None = None
    """The beginning of one row, decoded, trained tokens between ‹ and ›."""
