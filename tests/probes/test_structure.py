"""Faults of targets, heads, experts and skip lists as structure sees them, on architectures without weights."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("bitsandbytes")

from qlora_doctor.probes.structure import bypass
from qlora_doctor.probes.structure.look import StructureSeen, look_at_structure
from qlora_doctor.setup.setup import Lora, Model, Quantization, Setup, Training
from qlora_doctor.tables.architectures import find_architecture
from tests.models import HEALTHY, make_architecture
from tests.traits import traits_of

Look = Callable[..., StructureSeen]
# transformers 5 holds experts stacked, converts plain linear layers alone, and reads the dtype from the checkpoint.
of_transformers_5 = pytest.mark.skipif(version("transformers").startswith("4."), reason="differs in transformers 4")
CALLS_DT_PROJ = version("transformers").startswith("4.")
"""Whether Mamba without its kernel calls that layer (transformers 4), or multiplies by its weight."""
LLAMA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]


@pytest.fixture
def look(tmp_path: Path) -> Look:
    """``look("gpt2", target_modules=[…])``: structure of a tiny architecture; sections as keyword mappings."""

    def run(
        name: str = "llama",
        *,
        model: dict[str, Any] | None = None,
        quantization: dict[str, Any] | None = None,
        training: dict[str, Any] | None = None,
        changes: dict[str, Any] | None = None,
        dialect: str = "native",
        **lora: Any,
    ) -> StructureSeen:
        folder = make_architecture(tmp_path / name, name, **(changes or {}))
        lora = {"r": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | lora
        setup = Setup(
            dialect=dialect,
            traits=traits_of(dialect),
            model=Model(name_or_path=str(folder), **(model or {})),
            quantization=Quantization(**({"bnb_4bit_quant_type": "nf4"} | (quantization or {}))),
            lora=Lora(**lora),
            training=Training(**(training or {})),
        )
        return look_at_structure(setup)

    return run


def at(model_id: str, **lora: Any) -> StructureSeen:
    """Structure of a full-size architecture of the bundled table."""
    lora = {"r": 64, "lora_alpha": 16, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | lora
    quantization = Quantization(bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    return look_at_structure(Setup(model=Model(name_or_path=model_id), quantization=quantization, lora=Lora(**lora)))


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_setups_show_nothing_wrong(look: Look, name: str) -> None:
    seen = look(name)
    adapter, quantization = seen.adapter, seen.quantization
    assert adapter is not None and quantization is not None and seen.failure is None and seen.notes == []
    assert adapter.failure == "none"
    assert adapter.layer_coverage_ratio == adapter.linear_coverage_ratio == 1.0
    assert adapter.trainable_parameters == adapter.expected_trainable_parameters
    assert quantization.enabled and quantization.coverage_ratio == 1.0 and quantization.left_out == []
    for empty in (
        adapter.unmatched_targets,
        adapter.fused_targets,
        adapter.unsupported_targets,
        adapter.base_parameters_trainable,
        adapter.tied_weights_trained,
        adapter.router_modules,
        adapter.bypassed_modules,
        adapter.random_heads,
        quantization.uneven_modules,
        quantization.skip_overmatch,
        quantization.skip_without_match,
    ):
        assert empty == []


# -- full size, against published figures ------------------------------------------------------------------------------


def test_llama_2_7b_as_in_the_qlora_tutorial() -> None:
    seen = at("meta-llama/Llama-2-7b-hf", target_modules=LLAMA_TARGETS)
    model, adapter, quantization = seen.model, seen.adapter, seen.quantization
    assert model is not None and adapter is not None and quantization is not None
    assert model.total_parameters == model.published_parameters == 6_738_415_616
    # 32 layers × 4 projections × 64 × (4096 + 4096)
    assert adapter.trainable_parameters == 67_108_864
    assert adapter.trainable_ratio == pytest.approx(67_108_864 / (6_738_415_616 + 67_108_864))
    # Of a layer's 4·4096² + 3·4096·11008 weights, attention has a good third.
    assert adapter.linear_coverage_ratio == pytest.approx(4 * 4096**2 / (4 * 4096**2 + 3 * 4096 * 11008))
    assert quantization.quantized_parameters == 6_476_005_376
    assert quantization.bits_per_parameter == pytest.approx(4.127, abs=0.001)
    assert quantization.expected_bits_per_parameter == pytest.approx(4.127, abs=0.0005)
    # 3.87 GB: 4-bit layers, and embeddings, head and norms in 16 bits.
    assert quantization.base_bytes == pytest.approx(6_476_005_376 * 4.127 / 8 + 262_410_240 * 2, rel=1e-3)
    assert quantization.kbit_upcast_bytes == 262_410_240 * 2


@of_transformers_5
def test_falcon_7b_stays_in_16_bits() -> None:
    quantization = at("tiiuae/falcon-7b").quantization
    assert quantization is not None
    assert quantization.enabled is False and quantization.coverage_ratio == 0.0
    assert quantization.bits_per_parameter is None
    assert {(item.module_class, item.reason) for item in quantization.left_out or []} == {("FalconLinear", "subclass")}
    assert sum(item.modules for item in quantization.left_out or []) == 128
    assert quantization.base_bytes is not None and quantization.base_bytes_ideal is not None
    assert quantization.base_bytes > 3 * quantization.base_bytes_ideal


@pytest.mark.parametrize("model_id", ["mistralai/Mixtral-8x7B-v0.1", "allenai/OLMoE-1B-7B-0924"])
def test_stacked_experts_are_neither_quantized_nor_adapted(model_id: str) -> None:
    seen = at(model_id, target_modules=LLAMA_TARGETS)
    model, adapter, quantization = seen.model, seen.adapter, seen.quantization
    assert model is not None and adapter is not None and quantization is not None
    if not model.expert_parameters_3d:
        pytest.skip("this transformers holds the experts as linear layers")
    assert model.expert_parameters == model.expert_parameters_3d == quantization.expert_parameters_left_out
    assert quantization.coverage_ratio is not None and quantization.coverage_ratio < 0.05
    assert adapter.expert_coverage_ratio == 0.0
    assert adapter.layer_coverage_ratio == 1.0
    assert quantization.float32_experts_bytes == 4 * model.expert_parameters_3d


@pytest.mark.parametrize(
    ("model_id", "fused", "conv1d", "tied"),
    [
        ("openai-community/gpt2", ["c_attn"], 48, True),
        ("EleutherAI/gpt-neox-20b", ["query_key_value"], 0, False),
        ("facebook/opt-1.3b", [], 0, True),
        ("google/gemma-2b", [], 0, True),
        ("microsoft/Phi-3-mini-4k-instruct", ["qkv_proj", "gate_up_proj"], 0, False),
        ("Qwen/Qwen3-8B", [], 0, False),
    ],
)
def test_full_size_architectures(model_id: str, fused: list[str], conv1d: int, tied: bool) -> None:
    seen = at(model_id)
    model, adapter, quantization = seen.model, seen.adapter, seen.quantization
    assert model is not None and adapter is not None and quantization is not None
    known = find_architecture(model_id)
    assert known is not None
    assert model.total_parameters == pytest.approx(known.published_parameters, abs=known.published_tolerance)
    assert (model.fused_modules, model.conv1d_modules, model.tied_embeddings) == (fused, conv1d, tied)
    assert model.head_parameters == (0 if tied else model.vocab_size * model.hidden_size)  # type: ignore[operator]
    assert quantization.coverage_ratio == adapter.linear_coverage_ratio == 1.0
    assert len(adapter.conv1d_modules or []) == conv1d
    assert adapter.trainable_parameters == adapter.expected_trainable_parameters


# -- targets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "home"), [("gpt2", "c_attn"), ("gpt_neox", "query_key_value"), ("phi3", "qkv_proj")])
def test_names_of_another_family_point_to_the_fused_weight(look: Look, name: str, home: str) -> None:
    adapter = look(name, target_modules=["q_proj", "v_proj"]).adapter
    assert adapter is not None
    assert (adapter.attached, adapter.failure, adapter.matched_modules) == (False, "no-match", [])
    assert [(item.target, item.closest) for item in adapter.fused_targets or []] == [
        ("q_proj", [home]),
        ("v_proj", [home]),
    ]
    assert [item.closest[0] for item in adapter.unmatched_targets or []] == [home, home]


def test_names_that_nothing_holds_are_no_fused_targets(look: Look) -> None:
    adapter = look(target_modules=["query_key_value", "dense"]).adapter
    assert adapter is not None and adapter.failure == "no-match" and adapter.fused_targets == []
    closest = {item.target: item.closest for item in adapter.unmatched_targets or []}
    assert closest == {"query_key_value": ["q_proj", "k_proj", "v_proj"], "dense": ["o_proj"]}


def test_partial_match_names_what_is_missing(look: Look) -> None:
    adapter = look(target_modules=["q_proj", "q_porj", "fc1"]).adapter
    assert adapter is not None and adapter.failure == "none" and len(adapter.matched_modules or []) == 2
    closest = {item.target: item.closest[0] for item in adapter.unmatched_targets or []}
    assert closest == {"q_porj": "q_proj", "fc1": "up_proj"}


@pytest.mark.parametrize(
    ("name", "lora", "failure"),
    [
        ("llama", {"target_modules": []}, "empty-targets"),
        ("olmo2", {"target_modules": None}, "no-default-targets"),
        ("llama", {"target_modules": r".*(mlp|q_proj)"}, "unsupported-class"),
        ("llama", {"target_modules": "q_proj"}, "no-match"),
        ("llama", {"target_modules": "(q_proj"}, "other"),
        ("mamba", {}, "mamba-fused"),
        ("llama", {"init_lora_weights": "pissa"}, "quantized-init"),
        ("llama", {"init_lora_weights": "loftq"}, "quantized-init"),
        ("llama", {"target_modules": ["q_proj"], "trainable_token_indices": {"nothing": [1]}}, "no-modules-to-save"),
        pytest.param(
            "qwen2_moe",
            {"target_modules": ["q_proj"], "target_parameters": ["experts.down_proj"], "lora_dropout": 0.1},
            "dropout-with-parameters",
            marks=of_transformers_5,
        ),
    ],
)
def test_refusals_have_a_word(look: Look, name: str, lora: dict[str, Any], failure: str) -> None:
    seen = look(name, **lora)
    assert seen.failure is None and seen.adapter is not None
    assert (seen.adapter.attached, seen.adapter.failure) == (False, failure)
    assert seen.adapter.failure_message
    assert seen.adapter.total_layers == 2 and seen.adapter.adapted_layers == 0


def test_a_pattern_that_hits_a_container_names_its_class(look: Look) -> None:
    adapter = look(target_modules=r".*\.(mlp|q_proj)").adapter
    assert adapter is not None
    assert adapter.unsupported_targets == ["model.layers.0.mlp (LlamaMLP)", "model.layers.1.mlp (LlamaMLP)"]


def test_layers_to_transform_shows_in_coverage(look: Look) -> None:
    adapter = look(target_modules=["q_proj"], layers_to_transform=[0]).adapter
    assert adapter is not None and adapter.layer_coverage_ratio == 0.5 and adapter.unmatched_targets == []
    column = next(p for p in adapter.projections or [] if p.projection == "self_attn.q_proj")
    assert (column.layers, column.adapted, column.four_bit) == ([0, 1], [0], [0, 1])


def test_layers_whose_weight_a_kernel_reads(look: Look) -> None:
    """x_proj is called where mamba_ssm is not installed; transformers 5 reads the weight of dt_proj in either case."""
    seen = look("mamba", target_modules=["in_proj", "x_proj", "dt_proj"])
    adapter, quantization = seen.adapter, seen.quantization
    assert adapter is not None and adapter.failure == "none" and quantization is not None
    layers = [f"backbone.layers.{layer}.mixer." for layer in (0, 1)]
    names = ("x_proj", "dt_proj", "out_proj") if CALLS_DT_PROJ else ("x_proj", "out_proj")
    called = [f"{layer}{name}" for layer in layers for name in names]
    assert (adapter.bypassed_modules, adapter.kernel_fed_modules) == ([], [])  # all of them are 4-bit
    assert quantization.packed_factors == ([] if CALLS_DT_PROJ else [f"{layer}dt_proj" for layer in layers])
    assert quantization.kernel_fed_packed == called


@pytest.mark.parametrize("installed", [False, True])
def test_adapters_that_a_kernel_passes_by_where_it_is_installed(
    look: Look, monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    monkeypatch.setattr(bypass, "_kernel_runs", lambda parent: installed)
    bypass.reads.cache_clear()
    adapter = look(
        "mamba", quantization={"load_in_4bit": False}, target_modules=["in_proj", "x_proj", "dt_proj"]
    ).adapter
    bypass.reads.cache_clear()
    assert adapter is not None
    read = [f"backbone.layers.{layer}.mixer.{name}" for layer in (0, 1) for name in ("x_proj", "dt_proj")]
    always = [name for name in read if name.endswith("dt_proj") and not CALLS_DT_PROJ]
    assert sorted(adapter.bypassed_modules or []) == sorted(read if installed else always)
    assert sorted(adapter.kernel_fed_modules or []) == sorted([] if installed else set(read) - set(always))


# -- experts ---------------------------------------------------------------------------------------------------------


@of_transformers_5
@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe"])
def test_who_lists_the_linear_layers_leaves_stacked_experts_out(look: Look, name: str) -> None:
    """PEFT makes adapters on the experts' parameters of all-linear, and refuses a dropout there; a list has none."""
    four_bit = {"load_in_4bit": True}
    whole = look(name, lora_dropout=0.05).adapter
    assert whole is not None and whole.failure == "dropout-with-parameters"
    for dialect in ("axolotl", "llamafactory", "shell-ms-swift"):
        listed = look(name, dialect=dialect, quantization=four_bit, lora_dropout=0.05).adapter
        assert listed is not None and (listed.attached, listed.failure) == (True, "none")
        assert not [module for module in listed.matched_modules or [] if "experts" in module]


@of_transformers_5
def test_axolotl_lets_experts_go_without_dropout(look: Look) -> None:
    lora = {"target_modules": ["q_proj", "w1", "w2", "w3"], "lora_dropout": 0.05}
    refused = look("mixtral", **lora).adapter
    assert refused is not None and refused.failure == "dropout-with-parameters"
    taken = look("mixtral", dialect="axolotl", quantization={"load_in_4bit": True}, **lora).adapter
    assert taken is not None and taken.attached
    again = look("mixtral", **lora).adapter  # nothing of it is left behind
    assert again is not None and again.failure == "dropout-with-parameters"


def test_llama_names_on_a_mixture_with_shared_experts(look: Look) -> None:
    adapter = look("qwen2_moe", target_modules=["gate_proj", "up_proj", "down_proj"]).adapter
    assert adapter is not None
    if adapter.expert_coverage_ratio:
        pytest.skip("this PEFT finds the stacked experts under their old names")
    assert adapter.shared_experts_only is True
    assert all("shared_expert" in name for name in adapter.matched_modules or [])


@of_transformers_5
def test_target_parameters_reach_the_experts(look: Look) -> None:
    parameters = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    adapter = look("qwen2_moe", target_modules=["q_proj"], target_parameters=parameters).adapter
    assert adapter is not None and adapter.failure == "none"
    assert adapter.expert_coverage_ratio == 1.0 and adapter.shared_experts_only is False
    assert len(adapter.matched_parameters or []) == 4
    assert adapter.trainable_parameters == adapter.expected_trainable_parameters


# -- embeddings, heads, what trains ------------------------------------------------------------------------------------


def test_saved_embeddings_are_counted(look: Look) -> None:
    adapter = look(target_modules=["q_proj"], modules_to_save=["lm_head", "embed_tokens", "score"]).adapter
    assert adapter is not None
    assert adapter.saved_modules == ["model.embed_tokens", "lm_head"]
    assert adapter.unmatched_modules_to_save == ["score"]
    assert adapter.fully_trained_embedding_parameters == 2 * 512 * 64
    assert adapter.tied_weights_trained == []
    assert {g.group: g.parameters for g in adapter.trainable_groups or []} == {"lora": 2048, "modules_to_save": 65536}
    assert adapter.expected_trainable_parameters == adapter.trainable_parameters == 2048 + 65536


def test_tied_weights_that_train_are_named(look: Look) -> None:
    saved = look("qwen2", target_modules=["q_proj"], modules_to_save=["lm_head"]).adapter
    adapted = look("gemma", target_modules=["q_proj", "embed_tokens"]).adapter
    assert saved is not None and adapted is not None
    assert saved.tied_weights_trained == ["lm_head"]
    assert adapted.tied_weights_trained == ["model.embed_tokens"] and adapted.embeddings_adapted is True


def test_a_module_both_targeted_and_saved(look: Look) -> None:
    adapter = look(target_modules=["q_proj", "lm_head"], modules_to_save=["lm_head"]).adapter
    assert adapter is not None and adapter.targets_also_saved == ["lm_head"]


@pytest.mark.parametrize(
    ("lora", "groups"),
    [
        ({"bias": "all"}, {"lora": 14336, "bias": 1216}),
        ({"bias": "lora_only", "target_modules": ["q_proj"]}, {"lora": 2048, "bias": 128}),
        ({"use_dora": True, "target_modules": ["q_proj"]}, {"lora": 2048, "dora": 128}),
        ({"target_modules": ["q_proj"], "trainable_token_indices": [1, 2]}, {"lora": 2048, "embeddings": 128}),
        ({"target_modules": ["q_proj"], "rank_pattern": {"q_proj": 2}}, {"lora": 512}),
    ],
)
def test_what_trains_by_kind(look: Look, lora: dict[str, Any], groups: dict[str, int]) -> None:
    adapter = look("opt", **lora).adapter
    assert adapter is not None
    assert {g.group: g.parameters for g in adapter.trainable_groups or []} == groups
    assert adapter.expected_trainable_parameters == sum(groups.values())
    assert adapter.bias_parameters == groups.get("bias", 0) and adapter.base_parameters_trainable == []


def test_float16_copies_are_counted(look: Look) -> None:
    adapter = look(
        target_modules=["q_proj"],
        modules_to_save=["lm_head"],
        changes={"dtype": "float16"},
        training={"prepare_for_kbit_training": False},
    ).adapter
    assert adapter is not None
    assert (adapter.float16_trainable_saved, adapter.float16_trainable_lora) == (512 * 64, 0)


def test_a_new_classification_head(look: Look) -> None:
    task = {"task": "sequence-classification", "num_labels": 2}
    kept = look(model=task, task_type="SEQ_CLS").adapter
    lost = look(model=task, task_type=None, target_modules=["q_proj"]).adapter
    assert kept is not None and lost is not None
    assert (kept.random_heads, kept.saved_modules, kept.unmatched_modules_to_save) == ([], ["score"], [])
    assert (lost.random_heads, lost.task_type, lost.task_type_expected) == (["score"], None, "SEQ_CLS")


# -- 4-bit coverage ----------------------------------------------------------------------------------------------------


def test_a_skip_list_replaces_the_default_one(look: Look) -> None:
    quantization = look(quantization={"llm_int8_skip_modules": ["q_proj"]}).quantization
    assert quantization is not None and quantization.head_quantized is True
    assert [(item.name, item.reason) for item in quantization.left_out or []] == [
        ("model.layers.*.self_attn.q_proj", "skipped-by-config")
    ]


def test_a_quantized_new_head_is_named(look: Look) -> None:
    task = {"task": "sequence-classification"}
    quantization = look(model=task, quantization={"llm_int8_skip_modules": ["o_proj"]}).quantization
    assert quantization is not None and quantization.classifier_quantized == ["score"]


def test_a_library_s_own_skip_entries_are_no_slips(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unsloth writes one list for all architectures into every config; what the user adds to it is looked at."""
    own = ["lm_head", "merger", "vision_tower"]
    monkeypatch.setitem(sys.modules, "unsloth_zoo.peft_utils", SimpleNamespace(SKIP_QUANTIZATION_MODULES=own))
    quantization = look(quantization={"llm_int8_skip_modules": [*own, "visionn"]}).quantization
    assert quantization is not None and quantization.skip_without_match == ["visionn"]


@of_transformers_5
def test_skip_entries_without_match_and_with_too_many(look: Look) -> None:
    entries = ["lm_head", "model.language_model.layers", "expert_gate"]
    quantization = look("qwen2_moe", quantization={"llm_int8_skip_modules": entries}).quantization
    assert quantization is not None
    assert quantization.skip_without_match == ["model.language_model.layers"]
    over = {item.entry: item.modules for item in quantization.skip_overmatch or []}
    assert over == {"expert_gate": [f"model.layers.{i}.mlp.shared_expert_gate" for i in (0, 1)]}


def test_blocks_that_are_not_full(look: Look) -> None:
    quantization = look(changes={"intermediate_size": 100, "hidden_size": 40}).quantization
    assert quantization is not None and quantization.uneven_modules
    assert quantization.bits_per_parameter is not None and quantization.bits_per_parameter > 4.1


def test_without_4bit_nothing_is_claimed(look: Look) -> None:
    quantization = look(quantization={"load_in_4bit": False}).quantization
    assert quantization is not None
    assert (quantization.enabled, quantization.coverage_ratio, quantization.left_out) == (False, 0.0, None)
    assert quantization.quant_type is None and quantization.bits_per_parameter is None


# -- what cannot be built ----------------------------------------------------------------------------------------------

BARE = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "vocab_size": 128,
}


def build(folder: Path, content: object, **quantization: Any) -> StructureSeen:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "config.json").write_text(text, encoding="utf-8")
    return look_at_structure(
        Setup(model=Model(name_or_path=str(folder)), quantization=Quantization(**quantization), lora=Lora())
    )


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ('{"a":', "invalid-config"),
        ("[1]", "invalid-config"),
        ({"hidden_size": 3}, "unknown-architecture"),
        ({"model_type": "nosuch"}, "unknown-architecture"),
        ({"model_type": "vit"}, "unsupported"),
        ({"model_type": "nosuch", "auto_map": {"AutoConfig": "a.B", "AutoModelForCausalLM": "a.C"}}, "remote-code"),
        pytest.param(BARE | {"num_attention_heads": 7}, "invalid-config", marks=of_transformers_5),
        (BARE | {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}}, "invalid-config"),
    ],
)
def test_configs_that_cannot_be_built(tmp_path: Path, content: object, kind: str) -> None:
    seen = build(tmp_path, content)
    assert seen.failure is not None and seen.model is not None and seen.adapter is None and seen.quantization is None
    assert seen.model.build_error_kind == kind
    assert seen.failure.message.endswith((".", "…"))


def test_code_in_the_folder_does_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(marker)!r}, 'w')\n")
    code = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    build(tmp_path, {"model_type": "evil", "auto_map": code})
    build(tmp_path, BARE | {"auto_map": code})
    assert not marker.exists()


def test_missing_models(tmp_path: Path) -> None:
    for name in (None, str(tmp_path / "nothing"), "./nothing", "nobody/nothing-9b", str(tmp_path)):
        seen = look_at_structure(Setup(model=Model(name_or_path=name)))
        assert seen.failure is not None and seen.failure.kind == "missing-config"


def test_a_path_is_read_beside_the_config_file(tmp_path: Path) -> None:
    make_architecture(tmp_path / "model", "llama")
    setup = Setup(file=str(tmp_path / "config.json"), model=Model(name_or_path="model"), lora=Lora())
    seen = look_at_structure(setup)
    assert seen.failure is None and seen.model is not None and seen.model.source == "folder"


def test_a_quantized_checkpoint_wins(tmp_path: Path) -> None:
    stored = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}
    content = BARE | {"torch_dtype": "bfloat16", "quantization_config": stored}
    seen = build(tmp_path, content, bnb_4bit_quant_type="nf4")
    assert seen.model is not None and seen.quantization is not None
    assert seen.model.checkpoint_conflicts == ["bnb_4bit_quant_type: nf4, fp4"]
    assert seen.quantization.quant_type == "fp4"


@of_transformers_5
def test_bytes_stay_unknown_where_nothing_tells_the_dtype(tmp_path: Path) -> None:
    seen = build(tmp_path, BARE)
    assert seen.model is not None and seen.quantization is not None
    assert seen.model.dtype is None and seen.quantization.base_bytes is None
    assert seen.quantization.bits_per_parameter is not None


def test_patterns_that_peft_writes_itself_are_nobodys_mistake(look: Look) -> None:
    """PEFT doubles the rank of experts whose two projections are one parameter, by a pattern of its own."""
    given = {"target_modules": ["q_proj", "gate_proj", "up_proj", "down_proj"], "lora_dropout": 0.0}
    mine = {"q_proj": 4, "nothing": 4}
    for patterns, idle in (({}, []), ({"rank_pattern": mine}, ["nothing"])):
        adapter = look("qwen3_moe", **given, **patterns).adapter
        assert adapter is not None and adapter.patterns_without_match == idle
