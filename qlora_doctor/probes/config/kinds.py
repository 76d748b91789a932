"""What kind of model and of training a config is about, where its own words are all there is to tell."""

from __future__ import annotations

import json
import re
from pathlib import Path

from ...setup.paths import resolve
from ...setup.setup import Setup
from .preference import PREFERENCE, REINFORCEMENT
from .text import text_of

_OTHER_MODELS = (
    r"(?i)whisper|wav2vec|w2v-?bert|hubert|wavlm|seamless|speecht5|parler|musicgen|encodec"
    r"|(?<![a-z])(?:mms|asr|tts)(?![a-z])"
    r"|(?<![a-z])(?:clip|siglip|vit|deit|swin|beit|dinov\d|sam|detr|yolos|segformer|mask2former)(?![a-z])"
    r"|stable[-_]diffusion|sdxl|(?<![a-z])(?:flux|unet|dit|esm\d?|prot(?:ein|bert|t5|trans)\w*|dnabert|chronos|timesfm)(?![a-z])"
)
"""Families of speech, images, proteins and time series, by name."""
_OTHER_CLASSES = (
    r"\b(?:Whisper|Wav2Vec2|Wav2Vec2Bert|Hubert|WavLM|SpeechT5|SeamlessM4T\w*|Esm)For\w+"
    r"|\bAutoModelFor(?:SpeechSeq2Seq|CTC|Audio\w+|ImageClassification|ObjectDetection|SemanticSegmentation)"
    r"|\b(?:UNet2DConditionModel|StableDiffusion\w*Pipeline|DiffusionPipeline|FluxTransformer2DModel)\b"
)
_COMPARES = (
    r"(?i)(?<![a-z])(?:dpo|ipo|kto|orpo|cpo|simpo|grpo|gdpo|rloo|ppo|bco|rlhf|rlaif|rlvr"
    r"|rewards?|preferences?|chosen|rejected|beta|num_generations|vllm|ref_model|reference_model|distill\w*|contrastive)(?:_?(?:trainer|loss|config))?(?![a-z])"
)
"""Words of preference and reinforcement learning, and of others that train at rates of their own."""
_OF_ADAM = r"(?i)adam\w*_beta\w*"
_OWN_LOSSES = ("overridden-method", "trainer", "training-loop", "loss")


def is_language_model(setup: Setup) -> bool | None:
    """False for a model of speech, images, proteins or the like; None where nothing tells."""
    written = setup.model.name_or_path
    if written is not None and not setup.is_unknown("model.name_or_path"):
        folder = resolve(setup, written)
        kind = _model_type(folder) if folder is not None and folder.is_dir() else None
        return re.search(_OTHER_MODELS, kind or written.rstrip("/").rpartition("/")[2]) is None
    text = text_of(setup)
    return False if text is not None and re.search(_OTHER_CLASSES, text) else None


def compares_answers(setup: Setup, method: str | None) -> bool | None:
    """True for preference and reinforcement methods; where the method is not given, False if no word is of them.

    What a loss of the script's own is, no trainer's name tells.
    """
    own_loss = setup.training.method is None and any(each.kind in _OWN_LOSSES for each in setup.not_followed)
    if method is not None and not own_loss:
        return method in (*PREFERENCE, *REINFORCEMENT)
    text = text_of(setup)
    if text is None or not (setup.dialect == "custom" or own_loss):
        return None
    words = f"{Path(setup.file).name if setup.file else ''}\n{re.sub(_OF_ADAM, '', text)}"
    return None if re.search(_COMPARES, words) else False


def _model_type(folder: Path) -> str | None:
    try:
        record = json.loads((folder / "config.json").read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return None
    kind = record.get("model_type") if isinstance(record, dict) else None
    return kind if isinstance(kind, str) else None
