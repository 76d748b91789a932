"""Why a gradient is missing or zero: small models with one cause each, beside their healthy twins."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
bitsandbytes = pytest.importorskip("bitsandbytes")
peft = pytest.importorskip("peft")

from torch import nn  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

import qlora_doctor  # noqa: E402
from qlora_doctor.probes.step.branches import left_out_at_random  # noqa: E402
from qlora_doctor.probes.step.gates import behind_closed_gates  # noqa: E402
from qlora_doctor.probes.step.gradients import StepGradients, conclude  # noqa: E402

WIDE = 32


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(WIDE, WIDE)

    def forward(self, hidden: Any) -> Any:
        return hidden + self.proj(hidden)


class Seeing(nn.Module):
    """A language model with a tower for pixels, which is checkpointed on its own.

    Args:
        casts: pixels take the dtype of the first layer's weight, as some models of transformers have it.
        reentrant: how the tower is checkpointed; None: not at all.
    """

    def __init__(self, casts: bool = False, reentrant: bool | None = None) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(64, WIDE)
        self.patches = nn.Linear(WIDE, WIDE)
        self.places = nn.Parameter(torch.ones(WIDE))
        self.tower = nn.ModuleList([Block(), Block()])
        self.layers = nn.ModuleList([Block(), Block(), Block()])
        self.head = nn.Linear(WIDE, 64)
        self.casts, self.reentrant = casts, reentrant
        self.config = peft.PeftConfig()

    def forward(self, input_ids: Any, pixel_values: Any, labels: Any = None) -> dict[str, Any]:
        seen = self.patches(pixel_values.to(self.patches.weight.dtype) if self.casts else pixel_values) + self.places
        for layer in self.tower:
            seen = layer(seen) if self.reentrant is None else checkpoint(layer, seen, use_reentrant=self.reentrant)
        hidden = self.embed_tokens(input_ids) + seen.to(self.embed_tokens.weight.dtype)
        for layer in self.layers:
            hidden = layer(hidden)
        logits = self.head(hidden)
        from transformers.modeling_outputs import CausalLMOutput

        return CausalLMOutput(loss=nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()), logits=logits)


def adapted(model: Any, targets: list[str] | str, **config: Any) -> Any:
    torch.manual_seed(0)
    return peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=targets, **config))


def examine(model: Any) -> tuple[dict[str, str], Any]:
    draws = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 64, (2, 8), generator=draws)
    batch = {"input_ids": ids, "labels": ids, "pixel_values": torch.randn(2, 8, WIDE, generator=draws)}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    report = qlora_doctor.examine(model, optimizer, batch)
    assert not any(m._forward_pre_hooks for m in model.modules()), "the hooks are gone"
    return {f.rule: f.message for f in report.findings if f.severity != "info"}, report.facts.step


def in_4bit(layer: nn.Linear) -> Any:
    packed = bitsandbytes.nn.Linear4bit(WIDE, WIDE, compute_dtype=torch.float32, quant_type="nf4")
    packed.load_state_dict(layer.state_dict())
    return packed.to("cpu")


@pytest.mark.parametrize("casts", [True, False])
def test_pixels_that_take_the_dtype_of_packed_bytes(casts: bool) -> None:
    model = Seeing(casts)
    model.patches = in_4bit(model.patches)
    model.is_loaded_in_4bit = True
    found, step = examine(adapted(model, "patches|tower.*proj|layers.*proj"))
    assert ("QD252" in found, "QD405" in found) == (casts, False)
    assert step.integer_inputs == (["patches"] if casts else [])
    assert step.gradients_sound is not casts
    causes = {branch.name: branch.cause for branch in step.branches_without_gradient}
    assert causes == ({"patches": "packed-dtype"} if casts else {})


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_tower_that_reentrant_checkpointing_starves(reentrant: bool) -> None:
    found, step = examine(adapted(Seeing(reentrant=reentrant), "tower.*proj|layers.*proj"))
    assert ("QD434" in found, "QD405" in found) == (reentrant, False)
    assert step.gradients_sound is not reentrant and step.parameters_cut_off == []
    if reentrant:
        (branch,) = step.branches_without_gradient
        assert (branch.name, branch.cause, len(branch.tensors)) == ("tower", "checkpointing", 4)


def test_a_tower_under_no_grad_is_not_explained_by_checkpointing() -> None:
    model = Seeing(reentrant=False)
    for layer in model.tower:
        forward = layer.forward
        layer.forward = lambda hidden, forward=forward: torch.no_grad()(forward)(hidden)  # type: ignore[method-assign]
    found, step = examine(adapted(model, "tower.*proj|layers.*proj"))
    assert "QD405" in found and "QD434" not in found
    assert [branch.cause for branch in step.branches_without_gradient] == [None]


class Gated(nn.Module):
    def __init__(self, gate: float) -> None:
        super().__init__()
        self.cross = nn.Linear(WIDE, WIDE)
        self.norm = nn.LayerNorm(WIDE)
        self.alpha = nn.Parameter(torch.full((1,), gate))
        self.token = nn.Parameter(torch.zeros(WIDE))  # is added
        nn.init.zeros_(self.norm.weight)  # of a norm that adds one to it: multiplies by one, and is no gate

    def forward(self, hidden: Any) -> Any:
        return hidden + self.alpha.tanh() * self.cross(hidden) + self.token


@pytest.mark.parametrize("gate", [0.0, 0.5])
def test_what_is_behind_a_closed_gate(gate: float) -> None:
    model = Seeing()
    model.layers[1] = Gated(gate)
    found, step = examine(adapted(model, ["cross", "proj"]))
    closed = gate == 0.0
    assert ("QD435" in found, "QD406" in found) == (closed, False)
    assert step.closed_gates == (["layers.1.alpha"] if closed else [])
    assert step.parameters_behind_closed_gates == (["layers.1.cross.lora_B.default.weight"] if closed else [])


class Scale(nn.Module):
    def __init__(self, gate: float) -> None:
        super().__init__()
        self.temp = nn.Parameter(torch.full((WIDE,), gate))

    def forward(self, hidden: Any) -> Any:
        return hidden * self.temp


class ScaledBeside(nn.Module):
    """The gate is in a module beside what it multiplies, as a LayerScale is."""

    def __init__(self, gate: float) -> None:
        super().__init__()
        self.cross = nn.Linear(WIDE, WIDE)
        self.scale = Scale(gate)

    def forward(self, hidden: Any) -> Any:
        return hidden + self.scale(self.cross(hidden))


@pytest.mark.parametrize("gate", [0.0, 0.5])
def test_what_a_closed_gate_beside_it_multiplies(gate: float) -> None:
    model = Seeing()
    model.layers[1] = ScaledBeside(gate)
    found, step = examine(adapted(model, ["cross", "proj"]))
    assert ("QD435" in found, "QD406" in found) == (gate == 0.0, False)
    assert step.closed_gates == (["layers.1.scale.temp"] if gate == 0.0 else [])


def test_a_stack_that_feeds_gated_layers_alone_is_behind_their_gates() -> None:
    model = nn.ModuleDict({"tower": nn.ModuleList([Block()]), "layers": nn.ModuleList([Gated(0.0), Block()])})
    model.requires_grad_(False)
    zero = ["tower.0.proj.lora_B", "layers.0.cross.lora_B", "layers.1.proj.lora_B"]
    reached = ["layers.2.proj.lora_B"]
    assert list(behind_closed_gates(model, zero, reached)) == ["layers.0.cross.lora_B", "tower.0.proj.lora_B"]


class DropPath(nn.Module):
    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob


def test_weights_that_the_forward_reads_by_another_module() -> None:
    """Two blocks share the weights of their inner layers, and each calls the one of its own number."""

    class Choosing(nn.Module):
        def __init__(self, own: int, inner: list[nn.Linear]) -> None:
            super().__init__()
            self.inner = nn.ModuleList([nn.Linear(WIDE, WIDE) for _ in inner])
            for mine, shared in zip(self.inner, inner, strict=True):
                mine.weight = shared.weight
            self.own = own

        def forward(self, hidden: Any) -> Any:
            return hidden + self.inner[self.own](hidden)

    model = Seeing()
    shared = [nn.Linear(WIDE, WIDE), nn.Linear(WIDE, WIDE)]
    model.layers = nn.ModuleList([Choosing(number, shared) for number in range(2)])
    found, step = examine(adapted(model, r"layers.*inner\.\d"))
    assert "QD405" not in found and step.parameters_cut_off == [] and step.gradients_sound
    assert [(branch.name, branch.by_design) for branch in step.branches_without_gradient] == [
        ("layers.0.inner.1", True),
        ("layers.1.inner.0", True),
    ]
    model = Seeing()
    model.layers = nn.ModuleList([Choosing(0, shared), Choosing(0, shared)])
    found, step = examine(adapted(model, r"layers.*inner\.\d"))
    assert "QD405" in found, "nothing reads the weights of the second"


def test_the_cross_attention_of_a_decoder_without_its_encoder() -> None:
    from transformers import BartConfig, BartForCausalLM

    config = BartConfig(vocab_size=64, d_model=WIDE, decoder_layers=2, decoder_ffn_dim=WIDE, decoder_attention_heads=2)
    model = peft.get_peft_model(BartForCausalLM(config), peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    ids = torch.randint(5, 64, (2, 8), generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    report = qlora_doctor.examine(model, optimizer, {"input_ids": ids, "labels": ids})
    assert not {"QD405", "QD406"} & {finding.rule for finding in report.findings}
    step = report.facts.step
    assert step is not None and step.branches_without_gradient is not None
    assert {branch.reason for branch in step.branches_without_gradient} == {
        "the batch has no encoder_hidden_states, and the forward does not call it"
    }


@pytest.mark.parametrize("positions", [4, 8])
def test_more_tokens_than_positions(positions: int) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=positions, n_embd=WIDE, n_layer=1, n_head=2))
    model = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True))
    ids = torch.randint(5, 64, (2, 8), generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    report = qlora_doctor.examine(model, optimizer, {"input_ids": ids, "labels": ids})
    told = {finding.rule: finding.message for finding in report.findings if finding.severity == "error"}
    assert list(told) == (["QD426"] if positions < 8 else [])
    assert positions == 8 or "no token id of the batch is" in told["QD426"]


def test_blocks_that_stochastic_depth_drops() -> None:
    model = nn.ModuleDict({name: nn.ModuleDict({"drop": DropPath(rate)}) for name, rate in (("a", 0.1), ("b", 0.0))})
    assert left_out_at_random(model) == ("a.",)


def test_a_lora_a_is_not_zero_by_a_fault_where_its_lora_b_has_a_gradient() -> None:
    names = ["x.lora_A.default.weight", "x.lora_B.default.weight", "y.lora_A.default.weight", "y.lora_B.default.weight"]
    tiny = dict(zip(names, (0.0, 1e-30, 0.0, 0.0), strict=True))
    assert conclude(names, [StepGradients(tiny, tiny)]).zero == names[2:]
