"""Adapters as PEFT saves them after some steps on tiny models, and what goes wrong with such folders in life."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

LAYERS = 8
"""Enough for a module to stand out among its like."""


def trained(model: Any, steps: int = 3, rate: float = 1e-2) -> Any:
    """The model after some steps of AdamW on random tokens."""
    import torch

    torch.manual_seed(0)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    for _ in range(steps):
        ids = torch.randint(4, 500, (2, 16))
        labels = {"labels": torch.tensor([0, 1])} if "Classification" in type(model.get_base_model()).__name__ else {}
        model(input_ids=ids, **(labels or {"labels": ids})).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def load_base(folder: Path, **arguments: Any) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, **arguments)


def adapt(base: Any, **lora: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    return get_peft_model(base, LoraConfig(**{"r": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | lora))


def watched_adapter(base: Path, outputs: Path) -> None:
    """A base of some layers, and an adapter that was trained on it in 4-bit with its outputs kept in a report."""
    import torch

    import qlora_doctor
    from tests.models import make_model, make_tokenizer
    from tests.watching.loops import adamw, adapted, batches

    make_model(base, "llama", dtype="bfloat16", num_hidden_layers=LAYERS)
    model = load_base(base)
    with torch.no_grad():  # large enough that its answers are its own
        for name, parameter in model.named_parameters():
            parameter *= 1 if "norm" in name else 6
    model.save_pretrained(base)
    model = adapted(base)
    optimizer = adamw(model, 2e-2)
    report = f"json={outputs / 'qlora-doctor.json'}"
    outputs.mkdir()
    with qlora_doctor.watch(model, optimizer, report, tokenizer=make_tokenizer(), quiet=True):
        for batch in batches(8):
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        model.save_pretrained(outputs / "adapter")


# -- faults: each changes a folder with a sound adapter

Fault = Callable[[Path], None]


def tensors(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    loaded: dict[str, Any] = load_file(folder / "adapter_model.safetensors")
    return loaded


def store(folder: Path, state: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "adapter_model.safetensors")


def renamed(change: Callable[[str], str]) -> Fault:
    def fault(folder: Path) -> None:
        store(folder, {change(name): tensor for name, tensor in tensors(folder).items()})

    return fault


def changed(which: Callable[[str], bool], change: Callable[[Any], Any]) -> Fault:
    def fault(folder: Path) -> None:
        state = {name: change(tensor) if which(name) else tensor for name, tensor in tensors(folder).items()}
        store(folder, {name: tensor for name, tensor in state.items() if tensor is not None})

    return fault


def configured(**changes: Any) -> Fault:
    def fault(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return fault


def cut(share: float) -> Fault:
    def fault(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])

    return fault


def without(name: str) -> Fault:
    return lambda folder: (folder / name).unlink()


def written(name: str, text: str) -> Fault:
    return lambda folder: (folder / name).write_text(text) and None


def pickled(folder: Path) -> None:
    import torch

    torch.save(tensors(folder), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()


def with_norm(folder: Path) -> None:
    import torch

    store(folder, tensors(folder) | {"base_model.model.model.norm.weight": torch.ones(64)})


def with_magnitudes(folder: Path) -> None:
    import torch

    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector"
    store(folder, tensors(folder) | {name: torch.ones(64)})


def with_new_tokens(folder: Path) -> None:
    from transformers import AutoTokenizer

    base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens([f"<|new{i}|>" for i in range(200)])
    tokenizer.save_pretrained(folder)


def of_a_larger_base(folder: Path) -> None:
    """The config of the run names another base than the tensors were trained on."""
    base = folder.parent / "larger"
    base.mkdir(exist_ok=True)
    sizes = {"model_type": "llama", "hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4,
             "num_key_value_heads": 2, "num_hidden_layers": LAYERS, "vocab_size": 512}  # fmt: skip
    (base / "config.json").write_text(json.dumps(sizes))
    configured(base_model_name_or_path=str(base))(folder)


def of_another_family(folder: Path) -> None:
    base = folder.parent / "other"
    base.mkdir(exist_ok=True)
    (base / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_embd": 64, "n_layer": LAYERS}))
    configured(base_model_name_or_path=str(base))(folder)


def of_a_shorter_base(folder: Path) -> None:
    of_a_larger_base(folder)
    base = folder.parent / "larger"
    sizes = json.loads((base / "config.json").read_text())
    sizes |= {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": LAYERS // 2}
    (base / "config.json").write_text(json.dumps(sizes))


def in_parts(folder: Path) -> None:
    """As a model is sharded, which no loader of PEFT's reads."""
    from safetensors.torch import save_file

    state = tensors(folder)
    names = sorted(state)
    for number, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), 1):
        save_file({name: state[name] for name in part}, folder / f"adapter_model-{number:05d}-of-00002.safetensors")
    (folder / "adapter_model.safetensors").unlink()


def swapped(name: str) -> str:
    return name.replace("lora_A", "lora_X").replace("lora_B", "lora_A").replace("lora_X", "lora_B")


def twice_by_two_names(folder: Path) -> None:
    state = tensors(folder)
    store(folder, state | {f"module.{name}": state[name].clone() for name in list(state)[:6]})


def as_eight_bits(tensor: Any) -> Any:
    import torch

    return tensor.to(torch.float8_e4m3fn)


def is_b(name: str) -> bool:
    return "lora_B" in name


def first_rows(tensor: Any, ranks: int) -> Any:
    """What rank 0 of a sharded run holds, in a tensor of the whole shape."""
    tensor[tensor.shape[0] // ranks :] = 0
    return tensor


def pickled_nothing(folder: Path) -> None:
    import torch

    (folder / "adapter_model.safetensors").unlink()
    torch.save({}, folder / "adapter_model.bin")


FAULTS: dict[str, tuple[str, Fault]] = {
    "compiled": ("QD372", renamed(lambda n: f"_orig_mod.{n}")),
    "compiled-base": ("QD372", renamed(lambda n: n.replace("base_model.model.", "base_model.model._orig_mod."))),
    "compiled-layers": ("QD372", renamed(lambda n: n.replace(".self_attn.", "._orig_mod.self_attn."))),
    "distributed": ("QD372", renamed(lambda n: f"module.{n}")),
    "wrapped-twice": ("QD372", renamed(lambda n: f"base_model.model.{n}")),
    "without-prefix": ("QD372", renamed(lambda n: n.removeprefix("base_model.model."))),
    "fsdp": ("QD372", renamed(lambda n: n.replace("layers.", "layers._fsdp_wrapped_module."))),
    "checkpointed": ("QD372", renamed(lambda n: n.replace(".mlp.", "._checkpoint_wrapped_module.mlp."))),
    "lightning": ("QD372", renamed(lambda n: f"_forward_module.{n}")),
    "one-b-missing": ("QD373", changed(lambda n: "layers.1.mlp.up_proj.lora_B" in n, lambda t: None)),
    "all-a-missing": ("QD373", changed(lambda n: "lora_A" in n, lambda t: None)),
    "nan": ("QD374", changed(lambda n: "layers.3.mlp.up_proj.lora_A" in n, lambda t: t * float("nan"))),
    "one-infinity": ("QD374", changed(lambda n: "layers.3.mlp.up_proj.lora_B" in n, lambda t: spoiled(t))),
    "saved-before-training": ("QD375", changed(is_b, lambda t: t * 0)),
    "a-zero-too": ("QD375", changed(lambda n: True, lambda t: t * 0)),
    "one-layer-untrained": ("QD376", changed(lambda n: is_b(n) and "layers.5." in n, lambda t: t * 0)),
    "one-module-untrained": ("QD376", changed(lambda n: "layers.2.mlp.up_proj.lora_B" in n, lambda t: t * 0)),
    "one-of-two-shards": ("QD397", changed(is_b, lambda t: first_rows(t, 2))),
    "one-of-eight-shards": ("QD397", changed(is_b, lambda t: first_rows(t, 8))),
    "pickle-of-nothing": ("QD370", pickled_nothing),
    "rank-edited": ("QD377", configured(r=16)),
    "rank-pattern-added": ("QD377", configured(rank_pattern={"q_proj": 4})),
    "sliced-rank": ("QD377", changed(lambda n: "lora_A" in n, lambda t: t[:4])),
    "larger-base": ("QD377", of_a_larger_base),
    "shorter-base": ("QD396", of_a_shorter_base),
    "targets-narrowed": ("QD378", configured(target_modules=["q_proj", "v_proj"])),
    "target-added": (
        "QD379",
        configured(
            target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"]
        ),
    ),
    "layer-missing": ("QD380", changed(lambda n: "layers.4." in n, lambda t: None)),
    "second-half-missing": ("QD380", changed(lambda n: int(n.split("layers.")[1][0]) >= LAYERS // 2, lambda t: None)),
    "first-half-missing": ("QD380", changed(lambda n: int(n.split("layers.")[1][0]) < LAYERS // 2, lambda t: None)),
    "magnitudes-lost": ("QD381", configured(use_dora=True)),
    "magnitudes-unasked": ("QD381", with_magnitudes),
    "head-not-stored": ("QD382", configured(modules_to_save=["lm_head"])),
    "norm-not-named": ("QD383", with_norm),
    "base-unnamed": ("QD384", configured(base_model_name_or_path=None)),
    "no-config": ("QD385", without("adapter_config.json")),
    "broken-config": ("QD385", written("adapter_config.json", '{"r": 8,')),
    "pickled": ("QD386", pickled),
    "outlier": ("QD387", changed(lambda n: "layers.3.mlp.up_proj.lora_B" in n, lambda t: t * 1000)),
    "embeddings-not-stored": ("QD388", with_new_tokens),
    "no-weights": ("QD370", without("adapter_model.safetensors")),
    "no-tensors": ("QD370", lambda folder: store(folder, {})),
    "cut-off": ("QD371", cut(0.7)),
    "cut-in-the-header": ("QD371", cut(0.01)),
    "a-page-in-its-place": ("QD371", written("adapter_model.safetensors", "<!DOCTYPE html><html>" + "x" * 3000)),
    "an-empty-file": ("QD371", written("adapter_model.safetensors", "")),
    "in-parts": ("QD370", in_parts),
    "alpha-zero": ("QD375", configured(lora_alpha=0)),
    "alpha-zero-by-pattern": ("QD375", configured(alpha_pattern={".*": 0})),
    "a-zero": ("QD375", changed(lambda n: "lora_A" in n, lambda t: t * 0)),
    "half-of-the-layers-untrained": (
        "QD376",
        changed(lambda n: is_b(n) and n.split(".")[4] in "0123", lambda t: t * 0),
    ),
    "a-and-b-swapped": ("QD377", renamed(swapped)),
    "some-layers-chosen": ("QD378", configured(layers_to_transform=[0, 1], layers_pattern="layers")),
    "excluded-since": ("QD378", configured(exclude_modules=["q_proj"])),
    "no-targets": ("QD378", configured(target_modules=[])),
    "head-of-a-classifier-lost": ("QD382", configured(task_type="SEQ_CLS")),
    "no-kind": ("QD385", configured(peft_type=None)),
    "kind-in-small-letters": ("QD385", configured(peft_type="lora")),
    "another-kind": ("QD385", configured(peft_type="VERA")),
    "base-on-another-machine": ("QD763", configured(base_model_name_or_path="/content/drive/MyDrive/llama")),
    "base-on-windows": ("QD763", configured(base_model_name_or_path="C:\\models\\llama")),
    "base-beside-the-script": ("QD763", configured(base_model_name_or_path="../models/of-the-script")),
    "twice-by-two-names": ("QD372", twice_by_two_names),
    "a-pointer-of-git": ("QD371", written("adapter_model.safetensors", "version https://git-lfs.github.com/spec/v1\n")),
    "as-integers": ("QD764", changed(lambda n: True, lambda t: (t * 64).round().char())),
    "base-of-another-family": ("QD396", of_another_family),
    "rank-as-text": ("QD385", configured(r="8")),
    "rank-zero": ("QD385", configured(r=0)),
    "alpha-null": ("QD385", configured(lora_alpha=None)),
    "diverged": ("QD769", changed(lambda n: True, lambda t: t * 1e4)),
    "as-8-bit-floats": ("QD765", changed(lambda n: True, as_eight_bits)),
    "tokens-named-and-not-stored": ("QD382", configured(trainable_token_indices=[5, 6])),
}
"""By name: the rule that speaks of it, and what happens to the folder."""


def spoiled(tensor: Any) -> Any:
    tensor = tensor.clone()
    tensor.view(-1)[7] = float("inf")
    return tensor


def plant(sound: Path, place: Path, fault: Fault) -> Path:
    folder = place / "adapter"
    shutil.copytree(sound, folder)
    fault(folder)
    return folder
