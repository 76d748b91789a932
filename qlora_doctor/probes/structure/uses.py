"""A script's imports and calls, tried with the installed libraries: what is gone, and what the classes stop at."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import inspect
import io
import re
import warnings
from collections.abc import Callable
from typing import Any

from ...core.errors import StageError
from ...facts import ConfigFacts, ScriptFacts
from ...facts.script import FailingImport, RefusedCall
from ...pipeline.architecture import load_config
from ...pipeline.failures import first_sentence
from ...setup.setup import LibraryUse, Setup

Progress = Callable[[str, int | None, int | None, str | None], None]

_NEW_NAMES = {
    "prepare_model_for_int8_training": "prepare_model_for_kbit_training",
    "AdamW": "torch.optim.AdamW",
    "DataCollatorForCompletionOnlyLM": "SFTConfig's completion_only_loss or assistant_only_loss",
    "ConstantLengthDataset": "SFTConfig's packing",
    "load_metric": "evaluate.load",
}
"""What takes the place of names that were taken away (the libraries' release notes)."""
_OF_THE_MACHINE = re.compile(
    r"^(bf16|fp16|tf32|use_cpu|no_cuda|use_mps_device|fsdp|deepspeed|accelerator_config|parallelism_config|torch_compile"
    r"|torchdynamo|report_to|push_to_hub|hub_|ddp_|local_rank|jit_mode|use_ipex|xpu|half_precision|use_vllm|vllm_"
    r"|use_liger|logging_dir|output_dir|run_name)"
)
"""Arguments about which the machine has a say: what this one answers says nothing about another."""
_NAMES_THE_MACHINE = re.compile(
    r"cuda|gpu|\bcard\b|accelerat|install|mps\b|xpu|npu|permission|hugging ?face.co|connection|distributed|deepspeed",
    re.I,
)
_ABOUT_THE_VALUE = re.compile(
    r"is not a valid|has no attribute|[Ii]nvalid|not supported|[Uu]nknown|[Uu]nexpected|missing \d+ required"
    r"|should be set"
)
"""Messages about a value as such, whatever the other arguments are."""
_SAFE = ("TypeError", "ValueError", "AttributeError", "NotImplementedError", "KeyError")


def try_uses(
    setup: Setup, config: ConfigFacts | None = None, progress: Progress | None = None, *, offline: bool = True
) -> ScriptFacts:
    """Import what the script imports, make the configurations and schedules that it makes; nothing else of it runs.

    Args:
        config: what is reported already; a call is not reported again for the same argument.
        progress: is called with what is under way.
        offline: False lets the hub be asked for the config.json that from_pretrained's arguments are held against.
    """
    if not setup.uses:
        is_script = setup.dialect == "python"
        return ScriptFacts() if is_script else ScriptFacts(failing_imports=[], refused_calls=[])
    if progress is not None:
        progress("trying the script's imports and configurations", None, None, None)
    told = _told(config)
    imports: list[FailingImport] = []
    calls: list[RefusedCall] = []
    for use in setup.uses:
        if use.version is not None and use.version != _version(use.package):
            continue
        with _silent():
            if use.kind == "import":
                failing = _failing_import(use)
                imports += [failing] if failing is not None else []
                continue
            refused = _refused_call(use) if use.kind == "call" else _refused_load(use, setup, offline)
        if refused is not None and not told & set(refused.arguments):
            calls.append(refused)
    return ScriptFacts(failing_imports=imports, refused_calls=calls)


def _told(config: ConfigFacts | None) -> set[str]:
    """Names of the arguments about which something is reported already."""
    if config is None:
        return set()
    keys = [remark.key or "" for remark in config.refused or ()]
    keys += [each.key for each in (*(config.removed_keys or ()), *(config.unknown_keys or ()))]
    return {key.replace("/", ".").rpartition(".")[2] for key in keys}


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


# -- imports


def _failing_import(use: LibraryUse) -> FailingImport | None:
    """An import that fails since the library has no such name or module; what a package that is absent hides is not
    known, and neither is what fails for another reason."""
    version = _version(use.package)
    if version is None:
        return None
    found = FailingImport(key=use.key, module=use.module, name=use.name, version=version)
    try:
        module = importlib.import_module(use.module)
    except ModuleNotFoundError as error:
        if not _is_within(error.name, use.package):
            return None
        return found.model_copy(update={"exception": "ModuleNotFoundError", "name": None})
    except Exception:
        return None
    if use.name is None:
        return None
    try:
        getattr(module, use.name)
        return None
    except AttributeError:
        pass
    except Exception:  # a lazy module that lacks something else
        return None
    try:
        importlib.import_module(f"{use.module}.{use.name}")
        return None
    except ModuleNotFoundError as error:
        if not _is_within(error.name, use.package):
            return None
    except Exception:
        return None
    return found.model_copy(update={"now": _NEW_NAMES.get(use.name)})


def _is_within(name: str | None, library: str) -> bool:
    return name is not None and (name == library or name.startswith(f"{library}."))


# -- calls


def _refused_call(use: LibraryUse) -> RefusedCall | None:
    """What the class says to these arguments; None where it takes them, or the machine may have a say."""
    try:
        module = importlib.import_module(use.module)
        made: Any = getattr(module, str(use.name))
    except Exception:
        return None
    arguments = {name: value for name, value in use.arguments.items() if not _OF_THE_MACHINE.match(name)}
    error = _raised(made, arguments)
    if error is None or type(error).__name__ not in _SAFE:
        return None
    if _NAMES_THE_MACHINE.search(str(error)) and "is not a valid" not in str(error):
        return None
    guilty = [name for name in arguments if _raised(made, {k: v for k, v in arguments.items() if k != name}) is None]
    alone = [name for name in guilty or arguments if _is_alike(_raised(made, {name: arguments[name]}), error)]
    if not use.whole and not _ABOUT_THE_VALUE.search(str(error)):
        return None  # what is not known may be what it takes
    if len(alone) == 1:
        guilty = alone
    elif not use.whole:
        return None
    return RefusedCall(
        key=use.key,
        maker=str(use.name),
        arguments=guilty or list(arguments),
        exception=type(error).__name__,
        message=first_sentence(error),
    )


def _raised(made: Any, arguments: dict[str, Any]) -> Exception | None:
    taken = inspect.signature(made).parameters
    outside = {"output_dir": "out", "use_cpu": True, "report_to": "none"}
    outside = {name: value for name, value in outside.items() if name in taken}
    try:
        config = made(**outside, **arguments)
        if "lr_scheduler_type" in arguments:
            _make_schedule(config)
    except Exception as error:
        return error
    return None


def _make_schedule(config: Any) -> None:
    """The schedule that the trainer makes of its arguments, when it begins to train, for an optimizer of one number."""
    import torch
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    options = getattr(config, "lr_scheduler_kwargs", None) or {}
    get_scheduler(config.lr_scheduler_type, optimizer, 1, 100, scheduler_specific_kwargs=dict(options))


def _is_alike(one: Exception | None, other: Exception) -> bool:
    return one is not None and type(one) is type(other)


def _refused_load(use: LibraryUse, setup: Setup, offline: bool) -> RefusedCall | None:
    """A keyword of from_pretrained that neither it, nor the model's config, nor its class knows, which stops at it."""
    import transformers
    from transformers import PreTrainedModel

    factory: Any = getattr(transformers, str(use.name), None)
    if factory is None:
        return None
    known = _named_in(PreTrainedModel.from_pretrained) | _named_in(getattr(factory, "from_pretrained", None))
    known |= _named_in(transformers.PretrainedConfig.from_dict) | _named_in(
        transformers.PretrainedConfig.get_config_dict
    )
    strange = [name for name in use.arguments if name not in known and not name.startswith("_")]
    if not strange:
        return None
    try:
        architecture = load_config(setup, offline=offline)
    except StageError:
        return None
    config: Any = architecture.config
    configs = [config, *(getattr(config, name, None) for name in getattr(config, "sub_configs", {}))]
    built = _class_of(factory, config)
    if built is None:
        return None
    parameters = inspect.signature(built.__init__).parameters
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()):
        return None
    left = [name for name in strange if name not in parameters and not any(hasattr(each, name) for each in configs)]
    if not left:
        return None
    message = f"{built.__name__}.__init__() got an unexpected keyword argument '{left[0]}'."
    return RefusedCall(key=use.key, maker="from_pretrained", arguments=left, exception="TypeError", message=message)


def _class_of(factory: Any, config: Any) -> Any:
    mapping = getattr(factory, "_model_mapping", None)
    if mapping is None:
        return factory
    try:
        found = mapping[type(config)]
    except KeyError:
        return None
    return found[0] if isinstance(found, tuple) else found


def _named_in(function: Any) -> set[str]:
    """Every word in quotes, and every parameter, of a function and those that it hands its keywords to."""
    if function is None:
        return set()
    try:
        source = inspect.getsource(function)
        parameters = set(inspect.signature(function).parameters)
    except (OSError, TypeError, ValueError):
        return set()
    return parameters | set(re.findall(r"[\"'](\w+)[\"']", source))


@contextlib.contextmanager
def _silent() -> Any:
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield
