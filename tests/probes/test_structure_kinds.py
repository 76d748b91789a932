"""What structure says of models that are no plain decoder: weights that are no layers, stored heads, named classes."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("bitsandbytes")
if version("transformers").startswith("4."):
    pytest.skip("the classes are those of transformers 5", allow_module_level=True)

import qlora_doctor  # noqa: E402
from qlora_doctor.pipeline import patterns  # noqa: E402
from qlora_doctor.probes.load.look import look_at_load  # noqa: E402
from qlora_doctor.probes.step.look import look_at_step  # noqa: E402
from qlora_doctor.probes.structure.bypass import reads  # noqa: E402
from qlora_doctor.probes.structure.look import StructureSeen, look_at_structure  # noqa: E402
from qlora_doctor.probes.tensors import plain_name, trainable_parameters  # noqa: E402
from qlora_doctor.setup.setup import Setup  # noqa: E402
from tests.kinds import make_kind  # noqa: E402
from tests.models import make_architecture, make_model  # noqa: E402
from tests.probes.conftest import make_setup, silent  # noqa: E402


def look(
    folder: Path, *, lora: dict[str, Any] | None = None, training: dict[str, Any] | None = None, **model: Any
) -> StructureSeen:
    return look_at_structure(of(folder, lora=lora, training=training, **model))


def of(
    folder: Path, *, lora: dict[str, Any] | None = None, training: dict[str, Any] | None = None, **model: Any
) -> Setup:
    setup = make_setup(folder, lora=lora, **(training or {}))
    return setup.model_copy(update={"model": setup.model.model_copy(update=model)})


def rules_of(setup: Setup, *stages: str) -> set[str]:
    report = qlora_doctor.check(setup, stages=stages, cache=False, offline=True)
    return {finding.rule for finding in report.findings if finding.severity == "error"}


def test_experts_in_two_dimensions_count(tmp_path: Path) -> None:
    """DBRX holds all experts of a layer in one matrix; most of the model stays in 16 bits."""
    seen = look(make_kind(tmp_path, "dbrx", weights=False))
    quantization, model = seen.quantization, seen.model
    assert quantization is not None and model is not None and quantization.quantizable_parameters
    assert quantization.expert_parameters_left_out == 2 * 3 * 4 * 64 * 64 == model.expert_parameters
    assert quantization.coverage_ratio == pytest.approx(
        1 - quantization.expert_parameters_left_out / quantization.quantizable_parameters
    )


def test_weights_that_are_no_layers_count(tmp_path: Path) -> None:
    """XLNet multiplies with q, k, v, o and r, five parameters of the attention itself."""
    quantization = look(
        make_kind(tmp_path, "xlnet", weights=False), training={"gradient_checkpointing": False}
    ).quantization
    assert quantization is not None and quantization.raw_parameters_left_out == 2 * 5 * 64 * 64
    assert quantization.coverage_ratio == pytest.approx(2 * 2 * 64 * 128 / (2 * 2 * 64 * 128 + 2 * 5 * 64 * 64))
    raw = {item.name for item in quantization.left_out or [] if item.reason == "raw-parameter"}
    assert raw == {f"transformer.layer.*.rel_attn.{name}" for name in "qkvor"}


@pytest.mark.parametrize("name", ["llama", "gpt2", "mamba", "gemma2"])
def test_plain_models_have_no_weights_beside_their_layers(tmp_path: Path, name: str) -> None:
    quantization = look(make_architecture(tmp_path, name), lora={"target_modules": ["nothing"]}).quantization
    assert quantization is not None and quantization.raw_parameters_left_out == 0


def test_a_model_without_checkpointing_is_said_with_its_remedy(tmp_path: Path) -> None:
    folder = make_kind(tmp_path, "xlnet")
    assert rules_of(of(folder), "structure") == {"QD250"}
    assert rules_of(of(folder, training={"gradient_checkpointing": False}), "structure") == set()


def test_a_stored_head_is_named_and_plan_and_load_agree(tmp_path: Path) -> None:
    folder = make_kind(tmp_path, "bert-classifier")
    setup = of(folder, lora={"task_type": "SEQ_CLS"})
    seen = look_at_structure(setup)
    assert seen.quantization is not None and seen.quantization.heads_quantized == ["classifier"]
    assert seen.adapter is not None and seen.adapter.failure == "quantized-head"
    report = qlora_doctor.check(setup, stages=("structure", "load"), cache=False, offline=True)
    assert report.facts.load is not None and report.facts.load.differences == []
    (finding,) = [finding for finding in report.findings if finding.severity == "error"]
    assert finding.rule == "QD249" and "classifier" in finding.message
    kept = setup.quantization.model_copy(update={"llm_int8_skip_modules": ["classifier"]})
    healed = look_at_structure(setup.model_copy(update={"quantization": kept}))
    assert healed.adapter is not None and healed.adapter.attached


def test_a_named_class_that_does_not_fit_is_the_finding(tmp_path: Path) -> None:
    """A Mixtral read as a Mistral has no MLP of the checkpoint; as a Mixtral, or by an Auto class, it has all."""
    folder = make_architecture(tmp_path, "mixtral")
    wrong = look(folder, model_class="MistralForCausalLM").model
    assert wrong is not None and wrong.model_class == "MistralForCausalLM" and wrong.class_fits is False
    assert wrong.class_misfit is not None and len(wrong.class_misfit.random) == 2 * 3
    assert all(".mlp." in name for name in wrong.class_misfit.random)
    for name in ("MixtralForCausalLM", "AutoModelForCausalLM", None):
        fitting = look(folder, model_class=name).model
        assert fitting is not None and fitting.class_fits and fitting.model_class == "MixtralForCausalLM"


def test_a_class_of_the_same_weights_fits(tmp_path: Path) -> None:
    model = look(make_architecture(tmp_path, "llama"), model_class="MistralForCausalLM").model
    assert model is not None and model.model_class == "MistralForCausalLM" and model.class_fits


def test_a_pattern_without_end_is_stopped_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "SECONDS", 1.0)
    seen = look(make_architecture(tmp_path, "llama"), lora={"target_modules": "(([a-z_.0-9])+)+$X"})
    assert seen.adapter is not None and seen.adapter.failure == "endless-pattern"
    assert "target_modules '(([a-z_.0-9])+)+$X'" in (seen.adapter.failure_message or "")
    healthy = look(tmp_path, lora={"target_modules": r".*\.(q_proj|v_proj)+"})
    assert healthy.adapter is not None and healthy.adapter.attached


@pytest.mark.parametrize("key", ["exclude_modules", "modules_to_save"])
def test_other_patterns_are_tried_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setattr(patterns, "SECONDS", 1.0)
    endless = "(([a-z_.0-9])+)+$X"
    lora = {"target_modules": ["q_proj"], key: endless if key == "exclude_modules" else [endless]}
    seen = look(make_architecture(tmp_path, "llama"), lora=lora)
    assert (
        seen.adapter is not None
        and seen.adapter.failure == "endless-pattern"
        and key in (seen.adapter.failure_message or "")
    )


def test_nested_wrappers_are_two_tensors(tmp_path: Path) -> None:
    """PEFT wraps a wrapper where two parameters of the experts are adapted; each of the four matrices is watched."""
    from qlora_doctor.pipeline import attach, build_base, prepare

    setup = make_setup(make_model(tmp_path, "qwen3_moe"))
    base = build_base(setup, "cpu")
    prepare(base, setup)
    model = attach(base, setup)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(trainable_parameters(model)) == len(trained)
    assert any(".experts.base_layer.lora_B." in name for name in trainable_parameters(model))
    assert plain_name("base_model.model.model.layers.0.mlp.experts.base_layer.base_layer.down_proj") == (
        "model.layers.0.mlp.experts.down_proj"
    )


def test_a_zeroed_gradient_of_either_wrapper_is_seen(tmp_path: Path) -> None:
    from qlora_doctor.pipeline import attach, build_base, prepare

    setup = make_setup(make_model(tmp_path, "qwen3_moe"))
    ids = torch.randint(5, 400, (2, 32))
    for inner in (True, False):
        base = build_base(setup, "cpu")
        prepare(base, setup)
        model = attach(base, setup).train()
        name, poisoned = next(
            (name, parameter)
            for name, parameter in model.named_parameters()
            if ".experts." in name and "lora_B" in name and (".base_layer.lora_B" in name) == inner
        )
        poisoned.register_hook(lambda gradient: gradient * 0)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
        facts = qlora_doctor.examine(model, optimizer, batch).facts.step
        assert facts is not None and facts.parameters_zero_gradient == [plain_name(name)]


def test_a_kind_that_no_stage_builds_is_no_error(tmp_path: Path) -> None:
    report = qlora_doctor.check(of(make_kind(tmp_path, "vit", weights=False)), cache=False, offline=True)
    assert [f.rule for f in report.findings if f.severity == "error"] == []
    assert "QD247" in {finding.rule for finding in report.findings}
    assert {record.name: record.status for record in report.stages}["structure"] == "skipped"


def test_an_adapted_router_that_fails_is_named(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "phimoe", vocab_size=512, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4, max_position_embeddings=256, pad_token_id=3,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(tmp_path)
    setup = make_setup(tmp_path)
    loaded = look_at_load(setup, "cpu", silent)
    assert loaded.base is not None
    facts = look_at_step(setup, loaded.base, loaded.timeline, silent).facts
    assert facts.failure is not None and facts.failure.kind == "adapted-router"
    assert facts.failure.module == "model.layers.0.mlp.router"
    shutil.rmtree(tmp_path)


def test_the_head_of_a_choice_is_new_in_a_checkpoint_of_another_task(tmp_path: Path) -> None:
    """Not "in the checkpoint" (QD249): its labels are of no task that the checkpoint was made for."""
    folder = make_kind(tmp_path / "model", "bert-choice", weights=False)
    values = json.loads((folder / "config.json").read_text(encoding="utf-8")) | {"architectures": ["BertForMaskedLM"]}
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    lora = {"target_modules": ["query", "value"], "modules_to_save": ["classifier"]}
    rules = rules_of(of(folder, lora=lora, task="multiple-choice"), "structure")
    assert "QD215" in rules and "QD249" not in rules


def test_a_model_of_speech_has_no_figure_and_its_decoder_is_as_long_as_it_says(tmp_path: Path) -> None:
    """Nothing is refused for labels that are longer than its decoder; what its sound takes is not known."""
    folder = make_kind(tmp_path / "model", "whisper", weights=False)
    setup = of(folder, lora={"target_modules": ["q_proj", "v_proj"]}, task="speech-seq2seq")
    report = qlora_doctor.check(setup, stages=["structure", "memory"], cache=False, offline=True)
    memory, model = report.facts.memory, report.facts.model
    assert memory is not None and memory.refusal is None and "audio" in (memory.prediction_failure or "")
    assert model is not None and model.context_length == 64


def test_a_packed_weight_that_the_model_multiplies_by_is_an_error(tmp_path: Path) -> None:
    """Mamba's dt_proj: the step of the one stops, that of the other, which keeps the layer in 16-bit, does not."""
    folder = make_model(tmp_path / "model", "mamba")
    setup = of(folder, lora={"target_modules": ["in_proj"]}, training={"gradient_checkpointing": False})
    assert {"QD255", "QD426"} <= rules_of(setup, "structure", "load", "step")
    memory = qlora_doctor.check(setup, stages=("structure", "memory"), cache=False, offline=True).facts.memory
    assert memory is not None and memory.predicted is None
    assert "the packed weight of backbone.layers.0.mixer.dt_proj" in str(memory.prediction_failure)
    skip = {"llm_int8_skip_modules": ["lm_head", "dt_proj"]}
    kept = setup.model_copy(update={"quantization": setup.quantization.model_copy(update=skip)})
    assert rules_of(kept, "structure", "load", "step") == set()
    # Its weight is read past the layer with and without a kernel; x_proj is called where there is none.
    passed_by = kept.model_copy(update={"lora": kept.lora.model_copy(update={"target_modules": ["x_proj", "dt_proj"]})})
    assert rules_of(passed_by, "structure", "load", "step") == {"QD314"}


def test_a_model_that_calls_the_layer_where_it_is_quantized_multiplies_nothing() -> None:
    from transformers.models.falcon_mamba.modeling_falcon_mamba import FalconMambaMixer
    from transformers.models.jamba.modeling_jamba import JambaMambaMixer
    from transformers.models.mamba.modeling_mamba import MambaMixer

    assert reads(MambaMixer, True).factors == {"dt_proj"}
    assert reads(JambaMambaMixer, True).factors == reads(FalconMambaMixer, True).factors == set()


def test_layers_are_those_of_the_decoder(tmp_path: Path) -> None:
    """The tower for images has more layers here than the language model, and carries no adapter."""
    folder = make_kind(tmp_path, "llava", weights=False)
    adapter = look(folder, lora={"target_modules": r".*language_model.*(q_proj|v_proj)"}).adapter
    assert adapter is not None
    assert (adapter.adapted_layers, adapter.total_layers, adapter.layer_coverage_ratio) == (2, 2, 1.0)


@pytest.mark.parametrize(("task_type", "told"), [("SEQ_2_SEQ_LM", {"QD627"}), (None, set())])
def test_a_model_without_input_ids_fits_no_task_type(task_type: str | None, told: set[str], tmp_path: Path) -> None:
    folder = make_kind(tmp_path, "whisper", weights=False)
    setup = of(folder, lora={"target_modules": ["q_proj"], "task_type": task_type})
    assert rules_of(setup, "config", "structure") == told
