"""The whole run: load, steps, evaluation, and what of it is not predicted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import qlora_doctor
from qlora_doctor.facts import Facts, MemoryFacts
from qlora_doctor.facts.environment import EnvironmentFacts, Gpu, Packages
from qlora_doctor.facts.memory import MemoryPicture
from qlora_doctor.memory.predict import predict
from qlora_doctor.memory.scope import unmodelled, unmodelled_model
from qlora_doctor.memory.stage import assumed_of_cards, look_at_memory
from qlora_doctor.memory.step import takes_loss_arguments
from qlora_doctor.probes.config.conclude import conclude
from qlora_doctor.reading import read_setup
from qlora_doctor.reporters._needed import needed
from qlora_doctor.setup.setup import Hardware, Lora, Model, Origin, Quantization, Setup, Training
from tests.memory.cases import LLAMA, RTX_4090, subject
from tests.traits import traits_of


def config(folder: Path, **training: Any) -> dict[str, Any]:
    """A native config of a small model; ``training`` is added to it."""
    return {
        "model": {"name_or_path": str(folder), "dtype": "bfloat16"},
        "lora": {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"},
        "training": {"per_device_train_batch_size": 2, "max_length": 128, "bf16": True} | training,
        "hardware": {"gpu": "RTX 4090"},
    }


def memory_of(given: dict[str, Any]) -> MemoryFacts:
    """The facts of stage memory, in this process."""
    setup = Setup.model_validate(given)
    facts = Facts(config=conclude(setup, None))
    return look_at_memory(setup, facts, lambda *_: None)


def test_the_prediction_is_told_before_savings_are_worked_out(
    model_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from qlora_doctor.memory import UNFINISHED, savings
    from qlora_doctor.memory import stage as module

    setup = Setup.model_validate(config(model_folder("llama")) | {"hardware": {"memory": "1GiB"}})
    monkeypatch.setattr(module, "FULL", 0.0)
    told: list[MemoryFacts] = []
    whole = look_at_memory(setup, Facts(config=conclude(setup, None)), lambda *_: None, told.append)
    (base,) = told
    assert base.predicted is not None and whole.predicted is not None and whole.savings
    assert base.predicted.peak_reserved_bytes == whole.predicted.peak_reserved_bytes
    assert base.savings is None and base.predicted_ratio == whole.predicted_ratio
    assert UNFINISHED in (base.predicted.assumptions or [])
    assert UNFINISHED not in (whole.predicted.assumptions or [])
    assert base.model_copy(update={"savings": whole.savings, "predicted": whole.predicted}) == whole

    def ends(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(savings, "savings", ends)
    with pytest.raises(KeyboardInterrupt):
        look_at_memory(setup, Facts(config=conclude(setup, None)), lambda *_: None, told.append)
    assert told[1] == base


def test_an_evaluation_is_played_after_the_steps() -> None:
    step = predict(subject(), RTX_4090)
    run = predict(subject(), RTX_4090, evaluation_batch=64)
    assert set(step.run) == {"load", "step"} and set(run.run) == {"load", "step", "evaluation"}
    assert run.run["step"] == step.run["step"]
    assert run.peak_phase == "evaluation"
    assert (run.peak_allocated_bytes, run.peak_reserved_bytes) == run.run["evaluation"]
    # 64 × 128 tokens of logits over 1,003 words: in bf16, in float32 outside autocast, and float32 in the loss.
    assert run.run["evaluation"][0] - step.after_bytes > 64 * 128 * 1003 * (2 + 4)
    assert sum(run.breakdown.values()) == run.peak_allocated_bytes
    assert sum(run.step_breakdown.values()) == run.step_allocated_bytes == step.peak_allocated_bytes
    assert max(allocated for allocated, _ in run.timeline) == run.peak_allocated_bytes


def test_a_small_evaluation_does_not_decide() -> None:
    run = predict(subject(batch=8), RTX_4090, evaluation_batch=1)
    assert run.peak_phase == "step" and run.run["evaluation"][0] < run.peak_allocated_bytes


def test_what_the_allocator_keeps_after_an_evaluation_counts() -> None:
    run = predict(subject(), RTX_4090, evaluation_batch=64)
    assert run.peak_reserved_bytes > run.step_reserved_bytes
    assert run.peak_reserved_bytes >= run.run["evaluation"][0]


def test_the_verdict_counts_evaluation(model_folder: Callable[..., Path]) -> None:
    folder = model_folder("llama")
    without = memory_of(config(folder))
    memory = memory_of(config(folder, eval_strategy="steps", per_device_eval_batch_size=256))
    assert memory.predicted is not None and memory.predicted.phases is not None
    phases = {phase.phase: phase for phase in memory.predicted.phases}
    assert set(phases) == {"load", "step", "evaluation", "save"}
    assert memory.predicted.peak_reserved_bytes == phases["evaluation"].peak_reserved_bytes
    assert without.predicted is not None and without.predicted.peak_reserved_bytes is not None
    assert memory.predicted.peak_reserved_bytes > without.predicted.peak_reserved_bytes
    assert memory.predicted_ratio > memory.step_ratio  # type: ignore[operator]
    assert memory.peak_phase == "evaluation" and memory.step_peak_bytes == without.step_peak_bytes


def test_outputs_that_are_kept_for_metrics(model_folder: Callable[..., Path], tmp_path: Path) -> None:
    """Each batch adds its logits to what is there by making the sum anew; with accumulation they go in between."""
    rows = tmp_path / "held-out.jsonl"
    rows.write_text('{"text": "a"}\n' * 40, encoding="utf-8")
    told = {"eval_strategy": "steps", "per_device_eval_batch_size": 8}
    metrics = told | {"compute_metrics": True}

    def peak(training: dict[str, Any], data: dict[str, Any] | None = None) -> int:
        given = config(model_folder("llama"), **training) | {"data": data or {}}
        predicted = memory_of(given).predicted
        assert predicted is not None and predicted.phases is not None
        return next(phase.peak_allocated_bytes for phase in predicted.phases if phase.phase == "evaluation")

    loss, all_rows = peak(told), peak(metrics, {"eval": str(rows)})
    two = peak(metrics | {"extra": {"eval_accumulation_steps": 2}})
    one = peak(metrics | {"extra": {"eval_accumulation_steps": 1}}, {"eval": str(rows)})
    assert one < two < all_rows and one <= loss * 1.1
    from tests.models import VOCABULARY

    logits = 4 * 8 * 128 * VOCABULARY
    # Five batches: the four before, the fifth, and the five of them.
    assert all_rows >= (4 + 1 + 5) * logits
    uncounted = memory_of(config(model_folder("llama"), **metrics))
    assert uncounted.predicted is None and "not counted" in str(uncounted.prediction_failure)


def test_activations_that_go_to_the_host(model_folder: Callable[..., Path]) -> None:
    plain = {"trainer": "trl", "gradient_checkpointing": False}
    there, gone = (
        memory_of(config(model_folder("llama"), **plain, extra={"activation_offloading": told})).predicted
        for told in (False, True)
    )
    assert there is not None and gone is not None and there.breakdown is not None and gone.breakdown is not None
    assert gone.breakdown["activations"] < there.breakdown["activations"]  # type: ignore[operator]
    method = {"trainer": "trl", "method": "dpo", "extra": {"activation_offloading": True}}
    assert memory_of(config(model_folder("llama"), **method)).predicted is not None


def test_saving_rests_on_what_training_leaves(model_folder: Callable[..., Path]) -> None:
    folder = model_folder("llama")
    kept, best, none = (
        {phase.phase: phase for phase in memory_of(config(folder, **training)).predicted.phases or ()}  # type: ignore[union-attr]
        for training in ({}, {"load_best_model_at_end": True}, {"save_strategy": "no"})
    )
    assert "save" not in none
    # A checkpoint goes to the host tensor by tensor; the best one is read back beside the adapter.
    assert kept["save"].peak_allocated_bytes < kept["step"].peak_allocated_bytes
    assert kept["save"].peak_reserved_bytes == kept["step"].peak_reserved_bytes
    assert best["save"].peak_allocated_bytes > kept["save"].peak_allocated_bytes


def test_a_plan_counts_evaluation(model_folder: Callable[..., Path]) -> None:
    from qlora_doctor.memory.plan_stage import look_at_plan
    from qlora_doctor.worker.job import PlanRequest

    setup = Setup.model_validate(config(model_folder("llama"), per_device_eval_batch_size=64))
    facts = Facts.model_validate({"config": {"evaluates": True, "eval_batch": 64}})
    request = PlanRequest(cards=("RTX 4090",), batches=(1,), sequences=(64, 128))
    plain, counted = (look_at_plan(setup, known, request, lambda *_: None) for known in (Facts(), facts))
    assert plain.plan is not None and counted.plan is not None
    for one, other in zip(plain.plan, counted.plan, strict=True):
        assert other.peak_reserved_bytes > one.peak_reserved_bytes
    assert counted.plan_verified_ratio == 0


NOT_MODELLED = {
    "grpo": ({"trainer": "trl", "method": "grpo", "use_vllm": True}, "vLLM"),
    "gkd": ({"trainer": "trl", "method": "gkd"}, "method gkd"),
    "liger": ({"use_liger_kernel": True, "extra": {"liger_kernel_config": {"cross_entropy": True}}}, "Liger"),
    "compile": ({"torch_compile": True}, "torch.compile"),
    "fsdp": ({"fsdp": "full_shard auto_wrap", "fsdp_config": {"fsdp_version": 1}}, "FSDP 1"),
    "deepspeed": ({"deepspeed": {"zero_optimization": {"stage": 3}}}, "ZeRO-3"),
    "offloading": ({"extra": {"activation_offloading": True}, "trainer": "transformers"}, "host memory"),
    "generation": (
        {"extra": {"predict_with_generate": True}, "eval_strategy": "epoch", "compute_metrics": True},
        "generates",
    ),
}


@pytest.mark.parametrize(("training", "word"), NOT_MODELLED.values(), ids=NOT_MODELLED)
def test_what_is_not_modelled_has_no_figure(
    training: dict[str, Any], word: str, model_folder: Callable[..., Path]
) -> None:
    memory = memory_of(config(model_folder("llama"), **training))
    assert memory.predicted is None and memory.predicted_ratio is None
    assert memory.prediction_failure is not None and word in memory.prediction_failure
    sharded = "fsdp" in training or "deepspeed" in training
    assert (memory.certain_bytes is None) == sharded
    figure = needed(memory)
    assert figure is None or figure.source == "at least"


def test_kernels_and_loops_of_others() -> None:
    for setup, word in (
        (Setup(training=Training(kernels=["unsloth"])), "Unsloth"),
        (Setup(training=Training(kernels=["lora_mlp_kernel", "tiled_mlp"])), "tiled_mlp"),
        (Setup(training=Training(kernels=["lora_mlp_kernel"], method="dpo")), "LoRA kernels"),
        (Setup(dialect="torchtune", traits=traits_of("torchtune")), "torchtune"),
        (Setup(quantization=Quantization(backend="gptq")), "gptq"),
    ):
        reason = unmodelled(setup, Facts())
        assert reason is not None and word in reason
    assert unmodelled(Setup(training=Training(method="sft", neftune_noise_alpha=5)), Facts()) is None


def test_of_several_visible_cards_the_figure_is_that_of_one_and_says_so() -> None:
    def here(cards: int) -> Facts:
        gpus = [Gpu(index=index, name="NVIDIA H200", memory_bytes=150 << 30) for index in range(cards)]
        return Facts(
            environment=EnvironmentFacts(
                tool_version="0", python="3.11", platform="Linux", packages=Packages(), gpus=gpus
            )
        )

    setup = Setup()
    assert assumed_of_cards(setup, here(1)) == [] == assumed_of_cards(setup, Facts())
    assert "Without a launcher" in assumed_of_cards(setup, here(2))[0]
    told = Setup(hardware=Hardware(count=1))
    meant = Setup(hardware=Hardware(gpu="rtx-4090"))
    assert assumed_of_cards(told, here(2)) == [] == assumed_of_cards(meant, here(2))
    spread = Setup(model=Model(device_map="auto"))
    assert unmodelled(spread, here(1)) is None and unmodelled(spread, Facts()) is None
    assert "several cards" in (unmodelled(spread, here(2)) or "")


def test_a_batch_that_something_else_decides_leaves_no_figure() -> None:
    why = "An argument of the script decides."
    origins = {"training.per_device_train_batch_size": Origin(source="unknown", note=why)}
    reason = unmodelled(Setup(origins=origins), Facts())
    assert reason is not None and "per_device_train_batch_size" in reason and why in reason


def test_a_bound_above_the_card_is_an_error(model_folder: Callable[..., Path]) -> None:
    given = config(model_folder("llama"), trainer="trl", method="gkd")
    given["hardware"] = {"memory": "100KiB"}
    report = qlora_doctor.check(given, stages=["memory"])
    (finding,) = [finding for finding in report.findings if finding.rule == "QD522"]
    assert finding.severity == "error"


def test_the_one_figure_of_an_output() -> None:
    step = MemoryPicture(peak_allocated_bytes=10, peak_reserved_bytes=12)
    run = MemoryPicture(peak_allocated_bytes=20, peak_reserved_bytes=25, batch=1, sequence=2048)
    assert needed(None) is None and needed(MemoryFacts()) is None
    bound = needed(MemoryFacts(certain_bytes=7, prediction_failure="x"))
    assert bound is not None and bound.told(None) == "peak at least 7 bytes"
    told = needed(MemoryFacts(predicted=run, peak_phase="evaluation"))
    assert told is not None
    assert told.told(24) == "peak 25 bytes of 24 bytes predicted in evaluation (20 bytes of it in tensors)"
    measured = needed(MemoryFacts(predicted=run, measured=step, peak_phase="step"))
    assert measured is not None and (measured.size, measured.source) == (12, "measured")
    both = needed(MemoryFacts(predicted=run, measured=step, peak_phase="evaluation"))
    assert both is not None and (both.size, both.source) == (25, "predicted")


def test_gradients_have_buckets_beside_them_on_several_cards(model_folder: Callable[..., Path]) -> None:
    one, two = config(model_folder("llama")), config(model_folder("llama"))
    two["hardware"]["count"] = 2
    alone, together = memory_of(one).predicted, memory_of(two).predicted
    assert alone is not None and together is not None and alone.breakdown is not None
    trained = alone.breakdown["adapter"]
    assert together.peak_allocated_bytes - alone.peak_allocated_bytes == pytest.approx(trained, rel=0.05)  # type: ignore[operator]


@pytest.mark.parametrize("labels", [1, 3], ids=["regression", "classes"])
@pytest.mark.parametrize("batch", [1, 4])
def test_a_sequence_classifier_is_predicted(labels: int, batch: int, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | {"pad_token_id": 0}), encoding="utf-8")
    given = config(tmp_path, per_device_train_batch_size=batch)
    given["model"] |= {"task": "sequence-classification", "num_labels": labels}
    given["lora"]["task_type"] = "SEQ_CLS"
    memory = memory_of(given)
    assert memory.prediction_failure is None and memory.predicted is not None
    assert memory.logits_bytes == 0


def test_a_padding_token_that_is_missing_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA), encoding="utf-8")
    given = config(tmp_path)
    given["model"] |= {"task": "sequence-classification", "num_labels": 3}
    given["lora"]["task_type"] = "SEQ_CLS"
    report = qlora_doctor.check(given, stages=["memory"])
    (finding,) = [f for f in report.findings if f.rule in ("QD519", "QD523")]
    assert (finding.rule, finding.severity) == ("QD523", "error") and "padding token" in finding.message
    given["training"]["per_device_train_batch_size"] = 1
    assert memory_of(given).predicted is not None


def encoder_and_decoder(architecture: str, folder: Path, **training: Any) -> dict[str, Any]:
    """A native config of a small T5 or BART."""
    shapes = {"d_model": 64, "d_ff": 128, "d_kv": 16, "num_layers": 2, "num_heads": 4, "vocab_size": 1003}
    shapes |= {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
    shapes |= {"encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "max_position_embeddings": 256}
    shapes |= {"model_type": architecture, "decoder_start_token_id": 0}
    (folder / "config.json").write_text(json.dumps(shapes), encoding="utf-8")
    given = config(folder, **training)
    given["model"] |= {"task": "seq2seq-lm"}
    given["lora"]["task_type"] = "SEQ_2_SEQ_LM"
    return given


@pytest.mark.parametrize("architecture", ["t5", "bart"])
def test_an_encoder_and_a_decoder(architecture: str, tmp_path: Path) -> None:
    """Both within 0.5% of what an H200 was asked for, see benchmarks/memory."""
    memory = memory_of(encoder_and_decoder(architecture, tmp_path))
    assert memory.prediction_failure is None and memory.predicted is not None


def test_an_evaluation_that_generates(tmp_path: Path) -> None:
    """Answers need the keys and values of all their tokens; without compute_metrics none is written."""
    evaluated = {"eval_strategy": "epoch", "per_device_eval_batch_size": 2}

    def peak(length: int, **training: Any) -> int:
        extra = {"predict_with_generate": True, "generation_max_length": length}
        given = encoder_and_decoder("bart", tmp_path, **evaluated, **training, extra=extra)
        phases = memory_of(given).predicted.phases or ()  # type: ignore[union-attr]
        return next(phase.peak_allocated_bytes for phase in phases if phase.phase == "evaluation")

    short, long = peak(8, compute_metrics=True), peak(4000, compute_metrics=True)
    # Two layers, keys and values, two samples of 64 float32 numbers a token.
    assert long - short > 0.9 * 2 * 2 * 2 * 64 * 4 * (4000 - 128)
    assert peak(8) == peak(4000) <= short
    beams = {"predict_with_generate": True, "generation_num_beams": 4}
    told = encoder_and_decoder("bart", tmp_path, **evaluated, compute_metrics=True, extra=beams)
    assert "4 beams" in str(memory_of(told).prediction_failure)


def test_settings_that_are_silent_stay_predicted() -> None:
    assert unmodelled(Setup(model=Model(name_or_path="x"), lora=Lora(r=8)), Facts()) is None


def test_models_whose_batches_are_not_made_here_have_no_figure() -> None:
    from types import SimpleNamespace

    import torch

    class SmallForQuestionAnswering(torch.nn.Module):  # type: ignore[misc]
        config = SimpleNamespace(vision_config=None)

    class SmallForConditionalGeneration(torch.nn.Module):  # type: ignore[misc]
        config = SimpleNamespace(vision_config=object())

    text = Setup.model_validate({"data": {"train": "x.jsonl", "format": "text"}})
    answer = unmodelled_model(SmallForQuestionAnswering(), text)
    assert answer is not None and "answer" in answer
    images = unmodelled_model(SmallForConditionalGeneration(), Setup())
    assert images is not None and "images" in images
    assert unmodelled_model(SmallForConditionalGeneration(), text) is None


def test_the_count_of_labels_goes_to_models_that_take_it() -> None:
    class Takes:
        def forward(self, input_ids: Any, **kwargs: Any) -> None: ...

    class Refuses:
        def forward(self, input_ids: Any) -> None: ...

    assert takes_loss_arguments(Takes()) and not takes_loss_arguments(Refuses())


def test_layers_that_differ_in_their_heads(tmp_path: Path) -> None:
    """Gemma 4: transformers gives no head size for the whole of a model whose layers have several."""
    layers = ["sliding_attention", "full_attention"]
    shapes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    shapes |= {"num_key_value_heads": 1, "head_dim": 16, "global_head_dim": 32, "vocab_size": 1003}
    shapes |= {"vocab_size_per_layer_input": 1003, "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 0}
    small = {"model_type": "gemma4_text", "layer_types": layers, "max_position_embeddings": 256, **shapes}
    pytest.importorskip("transformers.models.gemma4")
    (tmp_path / "config.json").write_text(json.dumps(small), encoding="utf-8")
    memory = memory_of(config(tmp_path))
    assert memory.prediction_failure is None and memory.predicted is not None


_AXOLOTL = (
    "base_model: x/y\nadapter: qlora\nload_in_4bit: true\nlora_r: 8\nmicro_batch_size: 1\nlora_mlp_kernel: false\n"
)
_AXOLOTL += "gradient_checkpointing: true\ndatasets: [{path: d, type: alpaca}]\n"
_LLAMA_FACTORY = "model_name_or_path: x/y\nstage: sft\nfinetuning_type: lora\nlora_rank: 8\nquantization_bit: 4\n"
_LLAMA_FACTORY += "template: llama3\ndataset: d\nper_device_train_batch_size: 1\n"


@pytest.mark.parametrize(
    ("config", "line", "named"),
    [
        (_AXOLOTL, "fp8: true", "fp8"),
        (_AXOLOTL, "relora: true", "relora"),
        (_AXOLOTL, "layer_offloading: true", "layer_offloading"),
        (_AXOLOTL, "tensor_parallel_size: 2", "tensor parallelism"),
        (_AXOLOTL, "sequence_parallel_degree: 2", "sequence parallelism"),
        (_AXOLOTL, "dp_shard_size: 2", "dp_shard_size"),
        (_AXOLOTL, "torch_compile: auto", "torch.compile"),
        (_AXOLOTL, "plugins: [axolotl.integrations.kd.KDPlugin]", "KDPlugin"),
        (_AXOLOTL, "plugins: [axolotl.integrations.cut_cross_entropy.CutCrossEntropyPlugin]", "cut_cross_entropy"),
        (_LLAMA_FACTORY, "use_unsloth_gc: true", "use_unsloth_gc"),
        (_LLAMA_FACTORY, "shift_attn: true", "shift_attn"),
        (_LLAMA_FACTORY, "use_muon: true", "use_muon"),
        (_LLAMA_FACTORY, "use_asft_loss: true", "use_asft_loss"),
        (_AXOLOTL, "", None),
        (_AXOLOTL, "tensor_parallel_size: 1\nfp8: false\nplugins: [axolotl.integrations.liger.LigerPlugin]", None),
        (_LLAMA_FACTORY, "use_muon: false", None),
    ],
)
def test_switches_of_other_trainers_leave_no_figure(config: str, line: str, named: str | None, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(f"{config}{line}\n")
    reason = unmodelled(read_setup(tmp_path / "run.yaml"), Facts())
    assert reason is None if named is None else named in (reason or "")


@pytest.mark.parametrize(("loss", "modelled"), [("nll", True), ("dft", False), (None, True)])
def test_another_loss_leaves_no_figure(loss: str | None, modelled: bool) -> None:
    reason = unmodelled(Setup(training=Training(trainer="trl", method="sft", loss_type=loss)), Facts())
    assert (reason is None) is modelled
