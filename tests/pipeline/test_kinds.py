"""Models of every kind: the class that loads them, and made-up batches that they train on."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("bitsandbytes")
if version("transformers").startswith("4."):
    pytest.skip("the kinds are those of transformers 5", allow_module_level=True)

from qlora_doctor.core.errors import StageError  # noqa: E402
from qlora_doctor.pipeline import attach, load_config, load_tokenizer, make_batches, make_trainer  # noqa: E402
from qlora_doctor.pipeline.classes import loader_of  # noqa: E402
from qlora_doctor.pipeline.inputs import inputs_for, token_rows  # noqa: E402
from qlora_doctor.probes.data.look import look_at_data  # noqa: E402
from qlora_doctor.probes.load.look import look_at_load  # noqa: E402
from qlora_doctor.probes.step.look import StepSeen, look_at_step  # noqa: E402
from qlora_doctor.setup.setup import Data, Lora, Model, Setup, Training  # noqa: E402
from tests.kinds import make_kind  # noqa: E402
from tests.models import make_architecture, make_tokenizer  # noqa: E402
from tests.probes.conftest import make_setup, silent  # noqa: E402
from tests.traits import traits_of  # noqa: E402


def chosen(folder: Path, *, dialect: str = "native", lora: dict[str, Any] | None = None, **model: Any) -> Any:
    training = model.pop("training", {})
    setup = Setup(
        dialect=dialect,
        traits=traits_of(dialect),
        model=Model(name_or_path=str(folder), **model),
        lora=Lora(**(lora or {})),
        training=Training(**training),
    )
    return loader_of(setup, load_config(setup))


@pytest.mark.parametrize(
    ("name", "task", "built"),
    [
        ("llava", "image-text-to-text", "LlavaForConditionalGeneration"),
        ("bart", "seq2seq-lm", "BartForConditionalGeneration"),
        ("t5", "seq2seq-lm", "T5ForConditionalGeneration"),
        ("whisper", "speech-seq2seq", "WhisperForConditionalGeneration"),
        ("bert-tokens", "token-classification", "BertForTokenClassification"),
        ("bert-choice", "multiple-choice", "BertForMultipleChoice"),
    ],
)
def test_architectures_tell_the_class(tmp_path: Path, name: str, task: str, built: str) -> None:
    loader = chosen(make_kind(tmp_path, name, weights=False), lora={"task_type": "CAUSAL_LM"})
    assert (loader.model_class.__name__, loader.task) == (built, task)


def test_what_is_named_counts_before_what_the_checkpoint_says(tmp_path: Path) -> None:
    folder = make_kind(tmp_path, "bart", weights=False)
    assert chosen(folder, task="sequence-classification").model_class.__name__ == "AutoModelForSequenceClassification"
    assert chosen(folder, model_class="AutoModelForCausalLM").model_class.__name__ == "AutoModelForCausalLM"
    reward = chosen(folder, training={"method": "reward", "trainer": "trl"})
    assert reward.task == "sequence-classification"


def test_trl_takes_architectures_whatever_they_are(tmp_path: Path) -> None:
    """``create_model_from_path`` of trl loads the class by its name; others look for one that gives text."""
    folder = make_architecture(tmp_path, "llama")
    config = (folder / "config.json").read_text().replace("LlamaForCausalLM", "LlamaModel")
    (folder / "config.json").write_text(config)
    assert chosen(folder, training={"trainer": "trl"}).model_class.__name__ == "LlamaModel"
    assert chosen(folder).model_class.__name__ == "AutoModelForCausalLM"


def test_axolotl_passes_a_named_class_by_for_llama(tmp_path: Path) -> None:
    folder = make_architecture(tmp_path, "llama")
    assert (
        chosen(folder, dialect="axolotl", model_class="MistralForCausalLM").model_class.__name__ != "MistralForCausalLM"
    )


@pytest.mark.parametrize(
    ("name", "model", "kind"),
    [
        ("vit", {}, "unsupported"),
        ("wav2vec2", {}, "unsupported"),
        ("bart", {"model_class": "AutoModel"}, "unsupported"),
        ("bart", {"model_class": "BartModel"}, "unsupported"),
        ("bart", {"model_class": "AutoModelForCTC"}, "unsupported"),
        ("bart", {"model_class": "NoSuchForCausalLM"}, "unknown-architecture"),
        ("t5", {"task": "causal-lm"}, "unknown-architecture"),
    ],
)
def test_the_true_reason_is_said(tmp_path: Path, name: str, model: dict[str, Any], kind: str) -> None:
    with pytest.raises(StageError) as raised:
        chosen(make_kind(tmp_path, name, weights=False), **model)
    assert raised.value.kind == kind and str(model.get("model_class", name)).lower() in raised.value.message.lower()


def test_a_bare_model_for_embeddings_is_not_built_as_one_of_text(tmp_path: Path) -> None:
    folder = make_architecture(tmp_path, "llama")
    with pytest.raises(StageError, match="no loss of its own") as raised:
        chosen(folder, lora={"task_type": "FEATURE_EXTRACTION"})
    assert raised.value.kind == "unsupported"


def stepped(folder: Path, *, lora: dict[str, Any] | None = None) -> StepSeen:
    setup = make_setup(folder, lora=lora, per_device_train_batch_size=2, max_length=64)
    loaded = look_at_load(setup, "cpu", silent)
    assert loaded.base is not None, loaded.error
    return look_at_step(setup, loaded.base, loaded.timeline, silent)


@pytest.mark.parametrize(
    ("name", "lora"),
    [
        ("llava", {}),
        ("qwen2_5_vl", {}),
        ("bart", {"task_type": "SEQ_2_SEQ_LM"}),
        ("t5", {"task_type": "SEQ_2_SEQ_LM"}),
        ("whisper", {"task_type": None}),
        ("moonshine", {"task_type": None, "target_modules": ["q_proj", "v_proj"]}),
        ("bart-classifier", {"task_type": None}),
        ("bert-tokens", {"task_type": None, "target_modules": ["query", "value"]}),
        ("bert-choice", {"task_type": None, "target_modules": ["query", "value"]}),
    ],
)
def test_every_kind_takes_a_step_and_every_adapter_a_gradient(tmp_path: Path, name: str, lora: dict[str, Any]) -> None:
    facts = stepped(make_kind(tmp_path, name), lora=lora).facts
    assert facts.failure is not None and facts.failure.kind == "none", facts.failure
    assert facts.parameters_without_gradient == []
    assert facts.changed_base_tensors == [] and facts.loss_finite and facts.adapter_identity


def test_placeholders_are_as_many_as_the_model_asks_for(tmp_path: Path) -> None:
    setup = make_setup(make_kind(tmp_path, "qwen2_5_vl"))
    base = look_at_load(setup, "cpu", silent).base
    assert base is not None
    modes = [module.training for module in base.model.modules()]
    before = torch.random.get_rng_state()
    inputs = inputs_for(base.model, 64)
    assert [module.training for module in base.model.modules()] == modes
    assert torch.equal(before, torch.random.get_rng_state())
    (medium,) = inputs.media
    batch = inputs.batch(token_rows(base.model, 3, 64))
    grid = batch["image_grid_thw"]
    assert grid.shape == (3, 3) and medium.count == int(grid[0].prod()) // 4  # a patch merger of 2 × 2
    assert (batch["input_ids"] == 511).sum() == 3 * medium.count
    assert (batch["labels"][batch["input_ids"] == 511] == -100).all()


@pytest.mark.parametrize("name", ["fuyu", "kosmos-2", "idefics"])
def test_images_that_have_no_token_or_no_tower(name: str) -> None:
    """Fuyu takes patches as they are, KOSMOS-2 and IDEFICS name the places of an image by a mask."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    small = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**small, "image_size": 28, "patch_size": 14}
    values: dict[str, Any] = {
        "fuyu": {**small, "vocab_size": 512, "patch_size": 8, "image_token_id": 511,
                 "text_config": {"model_type": "persimmon", **small, "vocab_size": 512}},
        "kosmos-2": {"latent_query_num": 6, "vision_config": vision,
                     "text_config": {"vocab_size": 512, "embed_dim": 64, "layers": 1, "ffn_dim": 64,
                                     "attention_heads": 2, "max_position_embeddings": 128}},
        "idefics": {**small, "vocab_size": 512, "additional_vocab_size": 0, "cross_layer_interval": 1,
                    "use_resampler": False, "vision_config": {**vision, "embed_dim": 64}},
    }  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(name, **values[name]))
    inputs = inputs_for(model, 32)
    assert [medium.name for medium in inputs.media] == ["image"] and inputs.left_out == []
    batch = inputs.batch(token_rows(model, 2, 32))
    model(**batch).loss.backward()
    if name == "kosmos-2":
        assert batch["image_embeds_position_mask"].sum() == 12
        assert (batch["labels"][batch["image_embeds_position_mask"] == 1] == -100).all()


def test_ids_stay_below_what_the_head_can_score(tmp_path: Path) -> None:
    """Llama 3.2 Vision's embeddings have 8 rows more than its head has outputs."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(make_architecture(tmp_path, "llama")))
        model.lm_head = torch.nn.Linear(64, 300, bias=False)
    ids = token_rows(model, 8, 64)
    assert int(ids.max()) < 300 and not set(ids.flatten().tolist()) & {0, 2, 3}  # its special tokens


def test_a_tower_that_no_batch_reached_is_no_lost_gradient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from qlora_doctor.pipeline import inputs

    monkeypatch.setattr(inputs, "_images", lambda base, length: [])
    facts = stepped(make_kind(tmp_path, "llava")).facts
    assert facts.parameters_without_gradient and facts.parameters_cut_off == []
    assert all("vision_tower" in name or "projector" in name for name in facts.parameters_without_gradient)


def test_a_prompt_goes_to_the_encoder_and_its_completion_to_the_decoder(tmp_path: Path) -> None:
    folder = make_kind(tmp_path / "t5", "t5")
    make_tokenizer().save_pretrained(folder)
    file = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"Name {number}.", "completion": f"It is {number}."} for number in range(8)]
    file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    setup = make_setup(folder, lora={"task_type": "SEQ_2_SEQ_LM"}).model_copy(update={"data": Data(train=str(file))})
    loaded = look_at_load(setup, "cpu", silent)
    assert loaded.base is not None, loaded.error
    tokenizer = load_tokenizer(setup, loaded.base.architecture)
    batches = make_batches(setup, loaded.base.model, tokenizer)
    first = batches.dataset[0]
    assert first["input_ids"] == tokenizer("Name 0.")["input_ids"]
    assert first["labels"] == tokenizer("It is 0.")["input_ids"]
    trainer = make_trainer(setup, attach(loaded.base, setup), batches, "cpu")
    assert type(trainer).__name__ == "Seq2SeqTrainer"
    seen = look_at_data(setup, silent)
    assert seen.failure is None and seen.trained_ratio is None and seen.shown
    parts = [
        "".join(part.text for part in seen.shown[0].segments if part.kind == kind) for kind in ("masked", "trained")
    ]
    assert "Name" in parts[0] and "It is" in parts[1]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("Blip2ForConditionalGeneration", ["pixel_values"]), ("LlavaForConditionalGeneration", []), ("T5Model", [])],
)
def test_media_that_a_forward_has_no_default_for(name: str, wanted: list[str]) -> None:
    import transformers

    from qlora_doctor.pipeline.inputs import needed_media

    kind = getattr(transformers, name)
    assert needed_media(kind.__new__(kind)) == wanted
