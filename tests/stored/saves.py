"""Adapters as people really save them, rightly and wrongly: each function trains, and saves as such a script does.

Nothing in a folder is changed after the save but what the function itself does as the script's next step.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.stored.planting import adapt, load_base, store, tensors, trained

Save = Callable[[Path, Path], None]
FAULTY: dict[str, tuple[list[str], Save]] = {}
SOUND: dict[str, Save] = {}


def faulty(*rules: str) -> Callable[[Save], Save]:
    """Register a wrong way to save, and the rules that speak of it."""

    def register(function: Save) -> Save:
        FAULTY[function.__name__] = (sorted(rules), function)
        return function

    return register


def sound(function: Save) -> Save:
    """Register a right way to save."""
    SOUND[function.__name__] = function
    return function


def by_hand(state: dict[str, Any], model: Any, folder: Path) -> None:
    """What a script writes that has a state_dict and knows the names of PEFT's two files."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in state.items()},
              folder / "adapter_model.safetensors")  # fmt: skip
    inner = getattr(model, "_orig_mod", getattr(model, "module", model))
    inner.peft_config["default"].save_pretrained(folder)


def needs(package: str, version: str) -> None:
    """Leave a way out that older releases do not know."""
    from importlib.metadata import version as installed

    import pytest
    from packaging.version import Version

    if Version(installed(package)) < Version(version):
        pytest.skip(f"{package} {version}")


def only_lora(state: dict[str, Any]) -> dict[str, Any]:
    return {name: tensor for name, tensor in state.items() if "lora_" in name}


# -- compiled, wrapped


@faulty("QD372")
def the_state_of_a_compiled_model(base: Path, folder: Path) -> None:
    import torch

    model = torch.compile(trained(adapt(load_base(base))))
    by_hand(only_lora(model.state_dict()), model, folder)


@faulty("QD370")
def peft_state_given_from_a_compiled_model(base: Path, folder: Path) -> None:
    import torch
    from peft import get_peft_model_state_dict

    needs("peft", "0.17")
    # The names that PEFT looks for are not there, and what it gives back is empty.
    model = torch.compile(trained(adapt(load_base(base))))
    by_hand(get_peft_model_state_dict(model._orig_mod, model.state_dict()), model, folder)


@faulty("QD372")
def layers_compiled_one_by_one(base: Path, folder: Path) -> None:
    """As ``regional compilation`` does it without compile()'s in-place form."""
    import torch

    model = trained(adapt(load_base(base)))
    layers = model.base_model.model.model.layers
    for index in range(len(layers)):
        layers[index] = torch.compile(layers[index])
    model.save_pretrained(folder)


@sound
def compiled_in_place(base: Path, folder: Path) -> None:
    model = trained(adapt(load_base(base)))
    for layer in model.base_model.model.model.layers:
        layer.compile()
    model.save_pretrained(folder)


@faulty("QD372")
def the_base_compiled_before_peft(base: Path, folder: Path) -> None:
    import torch

    trained(adapt(load_base(base)), steps=1)
    model = load_base(base)
    model.model = torch.compile(model.model, backend="eager")
    trained(adapt(model)).save_pretrained(folder)


def distributed(model: Any, act: Callable[[Any], None]) -> None:
    """In a group of one process on gloo: names are those of many."""
    import tempfile

    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    with tempfile.NamedTemporaryFile() as store:
        dist.init_process_group("gloo", init_method=f"file://{store.name}.group", rank=0, world_size=1)
        try:
            act(DistributedDataParallel(model))
        finally:
            dist.destroy_process_group()


@faulty("QD372")
def the_state_of_ddp(base: Path, folder: Path) -> None:
    def act(model: Any) -> None:
        by_hand(only_lora(model.state_dict()), model, folder)

    distributed(trained(adapt(load_base(base))), act)


@sound
def the_module_of_ddp(base: Path, folder: Path) -> None:
    distributed(trained(adapt(load_base(base))), lambda model: model.module.save_pretrained(folder))


@sound
def a_state_with_the_adapters_name(base: Path, folder: Path) -> None:
    """``.lora_A.default.weight``: PEFT reads such names as well."""
    model = trained(adapt(load_base(base)))
    by_hand(only_lora(model.state_dict()), model, folder)


@faulty("QD372")
def the_inner_models_state(base: Path, folder: Path) -> None:
    """``model.base_model.model.state_dict()``, so that PEFT's beginning is not there."""
    model = trained(adapt(load_base(base)))
    by_hand(only_lora(model.base_model.model.state_dict()), model, folder)


@faulty("QD372", "QD384")
def wrapped_twice(base: Path, folder: Path) -> None:
    """A notebook's cell run twice: get_peft_model of a PeftModel."""
    from peft import LoraConfig, get_peft_model

    model = adapt(load_base(base))
    config = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM")
    trained(get_peft_model(model, config)).save_pretrained(folder)


@faulty("QD757")
def the_whole_state(base: Path, folder: Path) -> None:
    """``save_file(model.state_dict())``: the base's weights are in it as well."""
    model = trained(adapt(load_base(base)))
    by_hand(model.state_dict(), model, folder)


# -- when


@faulty("QD375")
def before_training(base: Path, folder: Path) -> None:
    adapt(load_base(base)).save_pretrained(folder)


@faulty("QD375")
def another_model_than_the_trained(base: Path, folder: Path) -> None:
    from peft import LoraConfig, get_peft_model

    trained(adapt(load_base(base)))
    config = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM")
    get_peft_model(load_base(base), config).save_pretrained(folder)


@faulty("QD375")
def no_gradient_reached_it(base: Path, folder: Path) -> None:
    """A rate of zero, as a schedule gives it that was stepped to its end."""
    trained(adapt(load_base(base)), rate=0.0).save_pretrained(folder)


@faulty("QD376")
def half_the_layers_frozen(base: Path, folder: Path) -> None:
    model = adapt(load_base(base))
    for name, parameter in model.named_parameters():
        if any(f".layers.{i}." in name for i in range(3)):
            parameter.requires_grad_(False)
    trained(model).save_pretrained(folder)


@faulty("QD374")
def after_the_loss_was_not_finite(base: Path, folder: Path) -> None:
    import torch

    model = adapt(load_base(base))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e30)
    ids = torch.randint(4, 500, (2, 16))
    for _ in range(3):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)


@faulty("QD374")
def too_large_for_half_precision(base: Path, folder: Path) -> None:
    import torch

    model = trained(adapt(load_base(base)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layers.0.mlp.up_proj.lora_B" in name:
                parameter.mul_(1e8)
    model.half().save_pretrained(folder)


# -- sharded


@faulty("QD371")
def the_disk_was_full(base: Path, folder: Path) -> None:
    trained(adapt(load_base(base))).save_pretrained(folder)
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-40_000])


@faulty("QD758")
def zero_3_without_gathering(base: Path, folder: Path) -> None:
    """What a partitioned parameter holds outside of its gathering: nothing (deepspeed's partition_parameters.py)."""
    import torch

    model = trained(adapt(load_base(base)))
    for parameter in model.parameters():
        parameter.data = torch.empty(0)
    model.save_pretrained(folder)


# -- formats


@faulty("QD386")
def without_safetensors(base: Path, folder: Path) -> None:
    trained(adapt(load_base(base))).save_pretrained(folder, safe_serialization=False)


@faulty("QD385")
def weights_without_their_config(base: Path, folder: Path) -> None:
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    folder.mkdir()
    save_file(get_peft_model_state_dict(trained(adapt(load_base(base)))), folder / "adapter_model.safetensors")


@faulty("QD370")
def the_config_alone(base: Path, folder: Path) -> None:
    trained(adapt(load_base(base))).peft_config["default"].save_pretrained(folder)


@faulty("QD384")
def a_base_without_a_name(base: Path, folder: Path) -> None:
    """A base that was built from a config has no name or path."""
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = json.loads((base / "config.json").read_text())
    config = AutoConfig.for_model(sizes.pop("model_type"), **sizes)
    trained(adapt(AutoModelForCausalLM.from_config(config))).save_pretrained(folder)


# -- tokens, heads


@faulty("QD388")
def tokens_without_embeddings(base: Path, folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens([f"<|new{i}|>" for i in range(200)])
    model = load_base(base)
    model.resize_token_embeddings(len(tokenizer))
    trained(adapt(model)).save_pretrained(folder, save_embedding_layers=False)
    tokenizer.save_pretrained(folder)


@sound
def tokens_with_embeddings(base: Path, folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens([f"<|new{i}|>" for i in range(200)])
    model = load_base(base)
    model.resize_token_embeddings(len(tokenizer))
    trained(adapt(model)).save_pretrained(folder, save_embedding_layers=True)
    tokenizer.save_pretrained(folder)


@faulty("QD382")
def the_head_left_out_by_hand(base: Path, folder: Path) -> None:
    model = trained(adapt(load_base(base), target_modules=["q_proj", "v_proj"], modules_to_save=["lm_head"]))
    by_hand(only_lora(model.state_dict()), model, folder)


@faulty("QD381")
def magnitudes_left_out_by_hand(base: Path, folder: Path) -> None:
    model = trained(adapt(load_base(base), use_dora=True))
    state = {n: t for n, t in model.state_dict().items() if "lora_A" in n or "lora_B" in n}
    by_hand(state, model, folder)


@faulty("QD377")
def the_config_of_another_run(base: Path, folder: Path) -> None:
    trained(adapt(load_base(base))).save_pretrained(folder)
    adapt(load_base(base), r=16).peft_config["default"].save_pretrained(folder)


@faulty("QD378")
def a_config_with_fewer_targets(base: Path, folder: Path) -> None:
    trained(adapt(load_base(base))).save_pretrained(folder)
    adapt(load_base(base), target_modules=["q_proj", "v_proj"]).peft_config["default"].save_pretrained(folder)


@faulty("QD379")
def a_state_of_attention_alone(base: Path, folder: Path) -> None:
    """A filter that was written for another model."""
    model = trained(adapt(load_base(base)))
    by_hand({n: t for n, t in only_lora(model.state_dict()).items() if "self_attn" in n}, model, folder)


@faulty("QD382")
def token_rows_left_out_by_hand(base: Path, folder: Path) -> None:
    model = trained(adapt(load_base(base), trainable_token_indices=[5, 6, 7]))
    model.save_pretrained(folder)
    state = tensors(folder)
    store(
        folder, {name: tensor for name, tensor in state.items() if "token_adapter" not in name and "token" not in name}
    )


@faulty("QD382")
def biases_left_out_by_hand(base: Path, folder: Path) -> None:
    model = trained(adapt(with_biases(base), bias="lora_only"))
    model.save_pretrained(folder)
    store(folder, {name: tensor for name, tensor in tensors(folder).items() if not name.endswith("bias")})


@sound
def biases_of_the_base(base: Path, folder: Path) -> None:
    trained(adapt(with_biases(base), bias="lora_only")).save_pretrained(folder)


def with_biases(base: Path) -> Any:
    from tests.models import make_model

    return load_base(make_model(base.parent / "with-biases", "qwen2", dtype="float32", num_hidden_layers=2))


@faulty("QD377")
def magnitudes_of_another_width(base: Path, folder: Path) -> None:
    """As a part of a sharded tensor."""
    trained(adapt(load_base(base), use_dora=True)).save_pretrained(folder)
    state = tensors(folder)
    store(folder, {n: t[: len(t) // 2] if "magnitude" in n else t for n, t in state.items()})


@faulty("QD375")
def another_adapter_than_the_trained(base: Path, folder: Path) -> None:
    from peft import LoraConfig

    model = trained(adapt(load_base(base)))
    model.add_adapter("new", LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    model.save_pretrained(folder, selected_adapters=["new"])


@faulty("QD769")
def after_the_training_diverged(base: Path, folder: Path) -> None:
    trained(adapt(load_base(base)), rate=1e3).save_pretrained(folder)


@faulty("QD378")
def a_pattern_of_another_run(base: Path, folder: Path) -> None:
    trained(adapt(load_base(base), target_modules=r".*\.(q_proj|v_proj|up_proj)")).save_pretrained(folder)
    path = folder / "adapter_config.json"
    narrower = {"target_modules": r".*\.(q_proj|v_proj)"}
    path.write_text(json.dumps(json.loads(path.read_text()) | narrower), encoding="utf-8")


@sound
def layers_chosen(base: Path, folder: Path) -> None:
    chosen = {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [0, 3, 5]}
    trained(adapt(load_base(base), **chosen)).save_pretrained(folder)


@sound
def one_merged_of_two(base: Path, folder: Path) -> None:
    from peft import LoraConfig

    model = trained(adapt(load_base(base)))
    other = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    model.add_adapter("other", other)
    model.add_weighted_adapter(["default", "other"], [0.5, 0.5], "both", combination_type="svd")
    model.save_pretrained(folder, selected_adapters=["both"])


@sound
def scaled_by_patterns(base: Path, folder: Path) -> None:
    patterns = {"use_rslora": True, "rank_pattern": {"q_proj": 16}, "alpha_pattern": {"v_proj": 64}}
    trained(adapt(load_base(base), **patterns)).save_pretrained(folder)


@faulty("QD373")
def a_state_without_lora_a(base: Path, folder: Path) -> None:
    """``if p.requires_grad`` where A was frozen (LoRA-FA)."""
    model = adapt(load_base(base))
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            parameter.requires_grad_(False)
    trained(model)
    by_hand({n: p for n, p in model.named_parameters() if p.requires_grad}, model, folder)


# -- inits that change the base


@faulty("QD756")
def pissa(base: Path, folder: Path) -> None:
    trained(adapt(load_base(base), init_lora_weights="pissa")).save_pretrained(folder)


@faulty("QD756")
def olora(base: Path, folder: Path) -> None:
    trained(adapt(load_base(base), init_lora_weights="olora")).save_pretrained(folder)


@sound
def pissa_converted(base: Path, folder: Path) -> None:
    model = adapt(load_base(base), init_lora_weights="pissa")
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(folder / "start")
    trained(model).save_pretrained(folder, path_initial_model_for_weight_conversion=str(folder / "start"))


@sound
def gaussian(base: Path, folder: Path) -> None:
    trained(adapt(load_base(base), init_lora_weights="gaussian")).save_pretrained(folder)


@sound
def orthogonal(base: Path, folder: Path) -> None:
    needs("peft", "0.16")
    trained(adapt(load_base(base), init_lora_weights="orthogonal")).save_pretrained(folder)


# -- more that is sound


@sound
def merged_and_unmerged(base: Path, folder: Path) -> None:
    model = trained(adapt(load_base(base)))
    model.merge_adapter()
    model.unmerge_adapter()
    model.save_pretrained(folder)


@sound
def saved_while_merged(base: Path, folder: Path) -> None:
    model = trained(adapt(load_base(base)))
    model.merge_adapter()
    model.save_pretrained(folder)


@sound
def frozen_a(base: Path, folder: Path) -> None:
    model = adapt(load_base(base))
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            parameter.requires_grad_(False)
    trained(model).save_pretrained(folder)


@sound
def on_4bit(base: Path, folder: Path) -> None:
    from peft import prepare_model_for_kbit_training
    from transformers import BitsAndBytesConfig

    model = prepare_model_for_kbit_training(load_base(base, quantization_config=BitsAndBytesConfig(load_in_4bit=True)))
    trained(adapt(model, modules_to_save=["lm_head"], target_modules=["q_proj", "up_proj"])).save_pretrained(folder)


@sound
def replicated_layers(base: Path, folder: Path) -> None:
    trained(adapt(load_base(base), layer_replication=[[0, 4], [2, 8]])).save_pretrained(folder)


@sound
def lora_biases(base: Path, folder: Path) -> None:
    trained(adapt(load_base(base), lora_bias=True)).save_pretrained(folder)


@sound
def tied_tokens(base: Path, folder: Path) -> None:
    from tests.models import make_model

    other = make_model(folder.parent / "tied", "llama", dtype="float32", tie_word_embeddings=True)
    trained(adapt(load_base(other), trainable_token_indices={"embed_tokens": [4, 5, 9]})).save_pretrained(folder)


@sound
def a_second_adapter(base: Path, folder: Path) -> None:
    """A reference beside the policy, as DPO keeps it."""
    from peft import LoraConfig

    model = trained(adapt(load_base(base)))
    model.add_adapter("reference", LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    model.save_pretrained(folder)


@sound
def by_trl(base: Path, folder: Path) -> None:
    _sft(base, folder).save_model(str(folder))


@sound
def a_checkpoint_of_trl(base: Path, folder: Path) -> None:
    _sft(base, folder.parent / "run", save_strategy="steps", save_steps=2)
    (folder.parent / "run" / "checkpoint-2").rename(folder)


def _sft(base: Path, out: Path, **arguments: Any) -> Any:
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    rows = Dataset.from_list([{"text": "the rank of the base is small " * 2}] * 8)
    settings = {"max_steps": 2, "per_device_train_batch_size": 2, "learning_rate": 1e-2, "report_to": [],
                "save_strategy": "no", "use_cpu": True, "max_length": 32} | arguments  # fmt: skip
    trainer = SFTTrainer(
        str(base), args=SFTConfig(output_dir=str(out), **settings), train_dataset=rows,
        peft_config=LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"),
    )  # fmt: skip
    trainer.train()
    return trainer


# -- other kinds of adapter


@sound
def adalora(base: Path, folder: Path) -> None:
    from peft import AdaLoraConfig, get_peft_model

    config = AdaLoraConfig(init_r=8, target_r=4, total_step=10, target_modules=["q_proj"], task_type="CAUSAL_LM")
    trained(get_peft_model(load_base(base), config)).save_pretrained(folder)


@sound
def ia3(base: Path, folder: Path) -> None:
    from peft import IA3Config, get_peft_model

    config = IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM")
    trained(get_peft_model(load_base(base), config)).save_pretrained(folder)


@sound
def prompt_tuning(base: Path, folder: Path) -> None:
    from peft import PromptTuningConfig, get_peft_model

    config = PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM")
    trained(get_peft_model(load_base(base), config)).save_pretrained(folder)


# -- other models: their layers, towers and experts


def _trained_on(model: Any, folder: Path, batch: dict[str, Any], **lora: Any) -> None:
    """Save the model, load it again so that the adapter can name it, train some steps, and save the adapter."""
    import torch
    from peft import LoraConfig, get_peft_model

    place = folder.parent / "other"
    model.save_pretrained(place)
    settings = {"r": 8, "target_modules": "all-linear"} | lora
    adapted = get_peft_model(type(model).from_pretrained(place), LoraConfig(**settings))
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):
        adapted(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    adapted.save_pretrained(folder)


def _ids() -> dict[str, Any]:
    import torch

    ids = torch.randint(4, 500, (2, 12))
    return {"input_ids": ids, "labels": ids}


@sound
def experts(base: Path, folder: Path) -> None:
    """all-linear takes the stacked weights of experts and router as parameters, two of them nested in one module."""
    from transformers import AutoModelForCausalLM

    from tests.models import tiny_config

    model = AutoModelForCausalLM.from_config(tiny_config("qwen3_moe", num_hidden_layers=4))
    _trained_on(model, folder, _ids())


@sound
def an_encoder_longer_than_its_decoder(base: Path, folder: Path) -> None:
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    config = WhisperConfig(
        d_model=32, encoder_layers=9, decoder_layers=8, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=64, decoder_ffn_dim=64, vocab_size=600, num_mel_bins=8, max_source_positions=20,
        pad_token_id=1, bos_token_id=2, eos_token_id=3, decoder_start_token_id=2,
    )  # fmt: skip
    batch = {"input_features": torch.randn(2, 8, 40), "labels": torch.randint(4, 500, (2, 12))}
    _trained_on(WhisperForConditionalGeneration(config), folder, batch, target_modules=["q_proj", "v_proj"])


@sound
def layers_of_two_kinds(base: Path, folder: Path) -> None:
    """Seven layers of Mamba and one of attention: the one lacks nothing."""
    from transformers import GraniteMoeHybridConfig, GraniteMoeHybridForCausalLM

    config = GraniteMoeHybridConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=8, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=512, layer_types=["mamba"] * 3 + ["attention"] + ["mamba"] * 4, mamba_n_heads=8, mamba_d_head=16,
        mamba_d_state=16, num_local_experts=0, shared_intermediate_size=96,
    )  # fmt: skip
    _trained_on(GraniteMoeHybridForCausalLM(config), folder, _ids(), task_type="CAUSAL_LM")


@faulty("QD376")
def a_tower_that_saw_no_image(base: Path, folder: Path) -> None:
    """Two towers of 16 and 14 layers, and rows of text alone: what is missing is the vision tower's training."""
    needs("transformers", "4.56")
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    config = Qwen2_5_VLConfig(
        text_config={"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 14, "num_attention_heads": 4,
                     "num_key_value_heads": 2, "vocab_size": 512,
                     "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}},
        vision_config={"depth": 16, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 64,
                       "fullatt_block_indexes": [3]},
    )  # fmt: skip
    _trained_on(Qwen2_5_VLForConditionalGeneration(config), folder, _ids())
