"""Reports that could have been real: what every format is tried on."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from qlora_doctor.core.place import Place
from qlora_doctor.core.report import (
    Evidence,
    Finding,
    PatchOperation,
    Remediation,
    Report,
    RuleOutcome,
    Summary,
    Tool,
)
from qlora_doctor.facts import AdapterFacts, Facts
from qlora_doctor.facts.adapter import ProjectionCoverage, TrainableGroup, UnmatchedTarget
from qlora_doctor.facts.load import LoadFailure, QuantizationError
from qlora_doctor.facts.memory import HeldTensors, Saving
from qlora_doctor.facts.quantization import LinearLeftOut
from qlora_doctor.facts.step import CastTensor, GradientColumn
from tests.reporters.parts import (
    CREATED,
    GIB,
    PASSED,
    PROJECTIONS,
    adapter,
    config,
    coverage,
    data,
    environment,
    gradients,
    load,
    memory,
    model,
    picture,
    quantization,
    quantization_errors,
    setup,
    stages,
    step,
)


def passed(*but: str) -> list[RuleOutcome]:
    return [RuleOutcome(rule=r, name=n, status="pass", stage=s) for r, n, s in PASSED if r not in but]


def healthy() -> Report:
    """Llama 2 7B on an RTX 4090; every stage ran and nothing was found."""
    return Report(
        tool=Tool(version="0.1.0", created=CREATED, command="qlora-doctor check runs/llama2-7b.json"),
        setup=setup(),
        stages=stages(),
        rules=passed(),
        summary=Summary(),
        facts=Facts(
            config=config(),
            environment=environment(),
            model=model(),
            adapter=adapter(),
            quantization=quantization(),
            memory=memory(),
            data=data(),
            load=load(),
            step=step(),
        ),
    )


def large() -> Report:
    """A 70B of 80 layers with all seven projections adapted; one warning."""
    layers, names = 80, PROJECTIONS
    matched = [f"model.layers.{i}.{p}" for i in range(layers) for p in names]
    facts = Facts(
        config=config(model="meta-llama/Llama-2-70b-hf"),
        environment=environment(),
        model=model(layers, 68_976_648_192),
        adapter=adapter(
            layers,
            68_976_648_192,
            matched_modules=matched,
            linear_coverage_ratio=1.0,
            adapted_classes=["Linear4bit × 560"],
            projections=coverage(layers, lambda *_: True, lambda *_: True),
        ),
        quantization=quantization(
            layers,
            quantized_parameters=68_451_041_280,
            quantizable_parameters=68_451_041_280,
            base_bytes=37_080_000_000,
            base_bytes_ideal=37_080_000_000,
        ),
        memory=memory(9.2, card=84_000_000_000).model_copy(update={"card": "NVIDIA H100 80GB HBM3"}),
        data=data(),
        load=load(layers, quantization_errors=quantization_errors(layers, 1)),
        step=step(layers, gradients=gradients(layers, names)),
    )
    return Report(
        tool=Tool(version="0.1.0", created=CREATED),
        setup=setup(model={"name_or_path": "meta-llama/Llama-2-70b-hf"}),
        stages=stages(),
        facts=facts,
        rules=[*passed("QD120"), outcome(finding_learning_rate())],
        findings=[finding_learning_rate()],
        summary=Summary(warning=1),
    )


def config_only() -> Report:
    """The config stage alone, on a machine without torch."""
    probe = {
        "status": "skipped",
        "seconds": None,
        "remedy": "pip install 'qlora-doctor[probe]'",
        "reason": "It needs torch, transformers, peft, bitsandbytes, accelerate, which are not installed.",
    }
    late = [
        RuleOutcome(rule=r, name=n, status="skipped", stage=s, reason=f"The stage {s} did not run.")
        for r, n, s in PASSED
        if s != "config"
    ]
    return Report(
        tool=Tool(version="0.1.0", created=CREATED),
        setup=setup(),
        stages=stages(**dict.fromkeys(("structure", "memory", "data", "load", "step"), probe)),
        facts=Facts(config=config(), environment=environment(gpu=False)),
        rules=[o for o in passed() if o.stage == "config"] + late,
        summary=Summary(skipped=len(late)),
    )


def outcome(found: Finding) -> RuleOutcome:
    return RuleOutcome(rule=found.rule, name=found.name, status="fail", stage=found.stage)


def finding(rule: str, name: str, severity: str, stage: str, message: str, **more: Any) -> Finding:
    return Finding(
        rule=rule,
        name=name,
        severity=severity,
        stage=stage,
        message=message,  # type: ignore[arg-type]
        fingerprint=f"{rule}-{more.pop('key', 0):016x}",
        **more,
    )


def finding_learning_rate() -> Finding:
    return finding(
        "QD120",
        "learning-rate-of-full-fine-tuning",
        "warning",
        "config",
        "The learning rate is 2e-05, a tenth of what LoRA usually needs at this rank.",
        evidence=[Evidence(fact="config.learning_rate", value=2e-5), Evidence(fact="config.lora_r", value=64)],
        location=Place(
            file="runs/llama2-7b.json",
            pointer="/training/learning_rate",
            line=21,
            column=5,
            end_line=21,
            end_column=20,
            excerpt='    "learning_rate": 2e-05,',
        ),
        remediation=Remediation(
            text="Use 2e-4, the value of the QLoRA paper for 7B and 13B.",
            safety="unsafe",
            patch=[PatchOperation(op="replace", path="/training/learning_rate", value=2e-4)],
            diff="--- runs/llama2-7b.json\n+++ runs/llama2-7b.json\n@@ -20,3 +20,3 @@\n"
            '     "optim": "paged_adamw_8bit",\n'
            '-    "learning_rate": 2e-05,\n+    "learning_rate": 0.0002,\n     "bf16": true\n',
        ),
    )


def broken_findings() -> list[Finding]:
    where = "runs/falcon-7b.yaml"
    return [
        finding(
            "QD301",
            "target-modules-match-nothing",
            "error",
            "structure",
            "None of the target modules (q_proj, v_proj) exists in FalconForCausalLM; no layer would be adapted.",
            evidence=[
                Evidence(fact="config.target_modules", value=["q_proj", "v_proj"]),
                Evidence(
                    fact="adapter.unmatched_targets",
                    value=[
                        {"target": "q_proj", "closest": ["query_key_value"]},
                        {"target": "v_proj", "closest": ["query_key_value"]},
                    ],
                ),
            ],
            location=Place(
                file=where,
                pointer="/lora/target_modules",
                line=12,
                column=3,
                end_line=12,
                end_column=35,
                excerpt="  target_modules: [q_proj, v_proj]",
            ),
            remediation=Remediation(
                text="Use names that this model has: query_key_value, dense, dense_h_to_4h, dense_4h_to_h.",
                safety="unsafe",
                commands=["qlora-doctor check runs/falcon-7b.yaml --stage structure"],
                patch=[PatchOperation(op="replace", path="/lora/target_modules", value="all-linear")],
                diff=f"--- {where}\n+++ {where}\n@@ -10,5 +10,5 @@\n lora:\n   r: 16\n"
                "-  target_modules: [q_proj, v_proj]\n+  target_modules: all-linear\n"
                "   lora_dropout: 0.05\n   bias: none\n",
            ),
        ),
        finding(
            "QD202",
            "nothing-in-4bit",
            "error",
            "load",
            "The config asks for 4-bit, yet only 0.0 % of the linear weights are: FalconLinear is a subclass that "
            "transformers does not convert.",
            evidence=[
                Evidence(fact="quantization.coverage_ratio", value=0.0),
                Evidence(fact="quantization.base_bytes", value=14_434_000_000),
            ],
            location=Place(
                file=where,
                pointer="/quantization/load_in_4bit",
                line=5,
                column=3,
                end_line=5,
                end_column=21,
                excerpt="  load_in_4bit: true",
            ),
            remediation=Remediation(
                text="Use a model whose layers transformers converts, or transformers before 5.0.",
                commands=["pip install 'transformers<5'"],
            ),
        ),
        finding(
            "QD503",
            "predicted-peak-over-card",
            "error",
            "memory",
            "The predicted peak of 27.9 GiB does not fit the 23.6 GiB that the RTX 4090 offers.",
            evidence=[
                Evidence(fact="memory.predicted.peak_reserved_bytes", value=29_957_292_032),
                Evidence(fact="memory.card_bytes", value=25_300_000_000),
            ],
            location=Place(
                file=where,
                pointer="/training/per_device_train_batch_size",
                line=21,
                column=3,
                end_line=21,
                end_column=33,
                excerpt="  per_device_train_batch_size: 4",
            ),
            remediation=Remediation(text="Halve the batch and double the accumulation: the update stays the same."),
        ),
        finding(
            "QD304",
            "target-modules-partly-unmatched",
            "warning",
            "structure",
            "The target gate_proj matches no module; dense_h_to_4h is the closest name.",
            confidence="medium",
            evidence=[Evidence(fact="adapter.unmatched_targets", value=[{"target": "gate_proj", "closest": []}])],
        ),
        finding(
            "QD304",
            "target-modules-partly-unmatched",
            "warning",
            "structure",
            "The target up_proj matches no module; dense_h_to_4h is the closest name.",
            confidence="medium",
            key=1,
        ),
        finding(
            "QD112",
            "float32-compute-dtype",
            "warning",
            "config",
            "The compute dtype is float32, the default of BitsAndBytesConfig; every product runs several times slower.",
            evidence=[Evidence(fact="config.compute_dtype", value="float32")],
            location=Place(
                file=where,
                pointer="/quantization",
                line=4,
                column=1,
                end_line=4,
                end_column=14,
                excerpt="quantization:",
            ),
            remediation=Remediation(
                text="Set bnb_4bit_compute_dtype to bfloat16.",
                safety="safe",
                patch=[PatchOperation(op="add", path="/quantization/bnb_4bit_compute_dtype", value="bfloat16")],
                diff=f"--- {where}\n+++ {where}\n@@ -4,3 +4,4 @@\n quantization:\n   load_in_4bit: true\n"
                "+  bnb_4bit_compute_dtype: bfloat16\n   bnb_4bit_quant_type: nf4\n",
            ),
        ),
        finding(
            "QD101",
            "misspelt-keys",
            "warning",
            "config",
            "The key lora_aplha is not read by anybody; lora_alpha is the closest known one.",
            location=Place(
                file=where,
                pointer="/lora/lora_aplha",
                line=11,
                column=3,
                end_line=11,
                end_column=17,
                excerpt="  lora_aplha: 32",
            ),
            suppressed="ignored in pyproject.toml: read by our own launcher",
        ),
        finding(
            "QD413",
            "cache-built-under-checkpointing",
            "info",
            "step",
            "A cache was built while training; it costs memory and serves nothing.",
            confidence="low",
            evidence=[Evidence(fact="step.use_cache", value=True)],
        ),
    ]


def broken() -> Report:
    """Falcon 7B on a 24 GB card: not in 4-bit, no layer adapted, over the card; the load ended early."""
    layers = 32
    facts = Facts(
        config=config(model="tiiuae/falcon-7b", compute_dtype="float32", target_modules=["q_proj", "v_proj"]),
        environment=environment(),
        model=model(layers, 6_921_720_704, model_type="falcon", model_class="FalconForCausalLM"),
        adapter=AdapterFacts(
            attached=False,
            failure="no-match",
            failure_message="Target modules {'q_proj', 'v_proj'} not found.",
            matched_modules=[],
            trainable_parameters=0,
            total_parameters=6_921_720_704,
            trainable_ratio=0.0,
            unmatched_targets=[
                UnmatchedTarget(target="q_proj", closest=["query_key_value"]),
                UnmatchedTarget(target="v_proj", closest=["query_key_value"]),
            ],
            projections=coverage(layers, lambda *_: False, lambda p, i: p == PROJECTIONS[3] and i % 2 == 0),
        ),
        quantization=quantization(
            quantized_parameters=0,
            coverage_ratio=0.0,
            quantized_modules=0,
            bits_per_parameter=None,
            base_bytes=14_434_000_000,
            left_out=[
                LinearLeftOut(
                    name="transformer.h.*.mlp.dense_h_to_4h",
                    module_class="FalconLinear",
                    modules=32,
                    parameters=2_642_411_520,
                    reason="subclass",
                )
            ],
        ),
        memory=memory(3.77, measured=False),
        step=step(
            gradients=gradients(layers, PROJECTIONS[:4], dead=24),
            cast_base_tensors=[CastTensor(name="transformer.h.0.mlp.bias", before="float32", after="bfloat16")],
        ),
    )
    findings = broken_findings()
    counted = [f for f in findings if f.suppressed is None]
    return Report(
        tool=Tool(version="0.1.0", created=CREATED, command="qlora-doctor check runs/falcon-7b.yaml"),
        setup=setup(file="runs/falcon-7b.yaml", model={"name_or_path": "tiiuae/falcon-7b"}),
        stages=stages(
            data={
                "status": "skipped",
                "seconds": None,
                "reason": "The config names no data.",
                "remedy": "set data.train",
            },
            load={
                "status": "failed",
                "reason": "The load ran out of GPU memory after 21.1 GiB.",
                "seconds": 14.2,
                "remedy": "qlora-doctor check runs/falcon-7b.yaml --device cpu",
                "requested": True,
            },
        ),
        facts=facts,
        findings=findings,
        rules=[
            *passed(*{f.rule for f in findings}),
            *{f.rule: outcome(f) for f in findings}.values(),
            RuleOutcome(
                rule="QD609",
                name="samples-truncated",
                status="skipped",
                stage="data",
                reason="data.truncated_ratio is unknown; the stage data did not run.",
            ),
        ],
        summary=Summary(
            error=sum(f.severity == "error" for f in counted),
            warning=sum(f.severity == "warning" for f in counted),
            info=sum(f.severity == "info" for f in counted),
            skipped=1,
        ),
        exit_code=1,
    )


EVIL = (
    "<script>window.pwned=1</script><img src=x onerror=window.pwned=2>\"'`{{7*7}}{%raw%}&lt;]]>-->"
    "\u2028\u2029\u202egnp.exe"
)
RTL = "مرحبا שלום"
ANSI = "\x1b[31mred\x1b]8;;https://evil.example\x07link"
LONG = "a-very-long-name-without-a-place-to-break-" * 12


def hostile() -> Report:
    """Everything that comes from outside is an attack or a nuisance."""
    bad = EVIL + RTL + ANSI
    found = finding(
        "QD301",
        "target-modules-match-nothing",
        "error",
        "structure",
        f"None of {bad} exists in {LONG}.",
        evidence=[Evidence(fact="adapter.unmatched_targets", value=[{"target": bad, "closest": [LONG, "</script>"]}])],
        location=Place(
            file=f"../{bad}.json",
            pointer=f"/{bad}",
            line=3,
            column=2,
            end_line=3,
            end_column=400,
            excerpt=f"\t{bad}{LONG}",
        ),
        remediation=Remediation(
            text=f"</details>{bad}",
            commands=[f"rm -rf / #{bad}"],
            diff=f"--- {bad}\n+++ {bad}\n@@ -1 +1 @@\n-{bad}\n+</pre><script>pwned=3</script>\n",
        ),
    )
    facts = Facts(
        config=config(model=bad, gpu=bad, target_modules=[bad, LONG]),
        environment=environment().model_copy(update={"platform": bad, "nvml_error": bad}),
        model=model(model_class=bad, model_type=LONG),
        adapter=adapter(
            4,
            projections=[
                ProjectionCoverage(projection=bad, layers=[0, 1, 2], adapted=[1], four_bit=[0, 1]),
                ProjectionCoverage(projection=LONG, layers=[0], adapted=[], four_bit=[]),
            ],
            trainable_groups=[TrainableGroup(group=bad, parameters=3, ratio=0.1)],
        ),
        quantization=quantization(
            4, left_out=[LinearLeftOut(name=bad, module_class=bad, modules=1, parameters=1, reason=bad)]
        ),
        memory=memory().model_copy(
            update={
                "card": bad,
                "predicted": picture().model_copy(
                    update={
                        "breakdown": {bad: GIB, LONG: 2 * GIB},
                        "assumptions": [bad],
                        "tensors": [
                            HeldTensors(
                                phase=bad, part=bad, module=bad, operator=bad, shape=[1], dtype=bad, count=1, bytes=GIB
                            )
                        ],
                    }
                ),
                "savings": [Saving(change=bad, pointer=bad, value=bad, peak_allocated_bytes=1, saved_bytes=1)],
            }
        ),
        load=load(
            4,
            quantization_errors=[QuantizationError(module=bad, relative_error=0.1, max_error=1e30)],
            failure=LoadFailure(kind="corrupt", message=bad, phase=bad),
        ),
        step=step(
            4,
            gradients=[GradientColumn(projection=bad, layers=[0, 1, 2], norms=[math.nan, 0.0, math.inf])],
            loss_before=math.nan,
            warnings=[bad],
        ),
    )
    return Report(
        tool=Tool(version=bad, created=bad, command=bad),
        setup={
            "dialect": bad,
            "file": bad,
            "model": {"name_or_path": bad, bad: [bad, {bad: bad}]},
            "origins": {f"model.{bad}": {"source": bad, "place": {"file": bad, "line": 1}, "note": bad}},
        },
        stages=stages(load={"status": "failed", "reason": bad, "remedy": bad}),
        facts=facts,
        findings=[found],
        rules=[outcome(found), RuleOutcome(rule=bad, name=bad, status="skipped", stage="step", reason=bad)],
        summary=Summary(error=1, skipped=1),
        exit_code=1,
    )


def not_understood() -> Report:
    """The least that a report can be: nothing was read, nothing is known."""
    return Report(tool=Tool(version="0.1.0", created=CREATED))


ALL: dict[str, Callable[[], Report]] = {
    "healthy": healthy,
    "broken": broken,
    "config_only": config_only,
    "large": large,
    "hostile": hostile,
    "not_understood": not_understood,
}
