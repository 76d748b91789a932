"""Rows as a trainer's own code forms them: this file runs in the trainer's Python, which need not know this package.

``python child.py FOLDER``: the folder holds ``request.json`` and takes ``reply.json``. Only the standard library and
what the trainer brings is imported. ``confining.py``, whose path the request has, closes the network and bounds the
memory before anything of the trainer's is imported.

The request: ``trainer``, ``model`` (its folder or id), ``settings`` (of the file's top), ``sets`` (each with its
``settings`` and ``rows``), ``memory``, ``confining``.

The reply: ``version``, ``tokens`` (what became of the tokenizer), ``sets``: of each row the list of what was made of
it, ``{ids, labels, length, loses}`` or ``{dropped}`` or ``{stops}``; or ``failure``, why nothing was asked.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import importlib.util
import inspect
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

_UNCUT = 10_000_000
_LONG = "longer than the limit"
_REFUSED = "it does not take the row"


class _CannotAsk(Exception):
    """Why the trainer's code is not asked."""


class _Axolotl:
    """0.8 to 0.19: ``axolotl.utils.data``: the wrapper of a data set, as ``load_datasets`` calls it."""

    package, distribution = "axolotl", "axolotl"

    def __init__(self, request: dict[str, Any]) -> None:
        load_tokenizer = _part("load_tokenizer", "axolotl.loaders.tokenizer", "axolotl.utils.models")
        self.wrap = _part("get_dataset_wrapper", "axolotl.utils.data.wrappers", "axolotl.utils.data.sft")
        self.as_dict = _part("DictDefault", "axolotl.utils.dict")
        said = {name: value for name, value in request["settings"].items() if name != "trust_remote_code"}
        model = request["model"]
        names = {"base_model": model, "base_model_config": model, "tokenizer_config": model, "output_dir": "out"}
        self.cfg = self.as_dict({
            "train_on_inputs": False, "sequence_len": 512, **said, **names, "dataset_num_proc": 1,
            "dataset_processes": 1, "dataset_keep_in_memory": True,
        })  # fmt: skip
        self.tokenizer = load_tokenizer(self.cfg)

    def set_up(self, settings: dict[str, Any]) -> None:
        entry = {name: value for name, value in settings.items() if name not in ("trust_remote_code", "processor_type")}
        try:  # what the schema fills in and renames: message_field_role and the like
            valid = _part("SFTDataset", "axolotl.utils.schemas.datasets")(**entry).model_dump(exclude_none=True)
        except (_CannotAsk, ValueError):
            valid = {}
        kind = entry.get("type")
        if str(kind).split(".")[0] in ("stepwise_supervised", "bradley_terry", "pretrain"):
            raise _CannotAsk(f"the labels of {kind} are no tokens of its rows")
        own = str(kind).partition(":")[0] if isinstance(kind, str) else ""
        if own and _is_elsewhere(own, "axolotl.prompt_strategies"):
            raise _CannotAsk(f"the type {kind} is code of one's own")
        self.entry = self.as_dict({**entry, **valid})

    def every(self, table: Any) -> list[list[dict[str, Any]]] | None:
        if str(self.entry.type).partition(".")[0] == "completion":  # a row becomes several
            return None
        made = self.one(table)
        return [[each] for each in made] if len(made) == len(table) else None

    def one(self, row: Any) -> list[dict[str, Any]]:
        kind = self.entry.type
        base, _, style = kind.partition(":") if isinstance(kind, str) else ("", "", "")
        given = (self.entry, self.tokenizer, self.cfg, base or None, row, style or None)
        wrapped, _ = self.wrap(*given)
        return [{"ids": list(each["input_ids"]), "labels": list(each["labels"])} for each in wrapped]


class _LlamaFactory:
    """0.9: ``llamafactory.data``: its converter and the processor of its stage, with and without the limit."""

    package, distribution = "llamafactory", "llamafactory"

    def __init__(self, request: dict[str, Any]) -> None:
        of_data, of_model = (_part(name, "llamafactory.hparams") for name in ("DataArguments", "ModelArguments"))
        said = {**request["settings"], "trust_remote_code": False}
        left = {"dataset", "eval_dataset", "dataset_dir", "tokenized_path", "streaming", "packing", "neat_packing",
                "val_size"}  # fmt: skip
        model = _taken(of_model, said) | {"model_name_or_path": request["model"]}
        loaded = _part("load_tokenizer", "llamafactory.model.loader")(of_model(**model))
        self.tokenizer, self.processor = loaded["tokenizer"], loaded.get("processor")
        data = {name: value for name, value in _taken(of_data, said).items() if name not in left}
        self.cut, self.whole = of_data(**data), of_data(**data | {"cutoff_len": _UNCUT})
        fix = _part("get_template_and_fix_tokenizer", "llamafactory.data.template")
        self.template = fix(self.tokenizer, self.cut)
        self.stage = str(said.get("stage") or "sft")

    def set_up(self, settings: dict[str, Any]) -> None:
        known = {"file_name", "formatting", "columns", "tags", "ranking", "subset", "split", "folder"}
        entry = {name: value for name, value in settings.items() if name in known} | {"file_name": "rows.json"}
        Path("dataset_info.json").write_text(json.dumps({"rows": entry}), encoding="utf-8")
        (attributes,) = _part("get_dataset_list", "llamafactory.data.parser")(["rows"], ".")
        converter = _part("get_dataset_converter", "llamafactory.data.converter")
        self.convert = converter(attributes.formatting, attributes, self.cut)
        processor = _part("_get_dataset_processor", "llamafactory.data.loader")
        self.processes = [
            processor(each, self.stage, self.template, self.tokenizer, self.processor)
            for each in (self.cut, self.whole)
        ]

    def every(self, table: Any) -> None:
        """Its converters take rows one by one as they are."""

    def one(self, row: Any) -> list[dict[str, Any]]:
        aligned = {name: [value] for name, value in self.convert(row[0]).items()}
        cut, whole = (each.preprocess_dataset(aligned) for each in self.processes)
        if "labels" not in cut and "input_ids" in cut:  # pretraining
            cut, whole = ({**each, "labels": each["input_ids"]} for each in (cut, whole))
        if cut and "input_ids" not in cut:
            raise _CannotAsk(f"its stage {self.stage} makes no labels")
        found = []
        for number, ids in enumerate(cut.get("input_ids", ())):
            labels, full = cut["labels"][number], whole["labels"][min(number, len(whole["labels"]) - 1)]
            loses = _counts(full) > _counts(labels)
            found.append({"ids": list(ids), "labels": list(labels), "length": len(full), "loses": loses})
        return found or [{"dropped": _REFUSED}]


class _Swift:
    """ms-swift 4: ``swift.dataset`` makes a row's messages, ``swift.template`` its tokens."""

    package, distribution = "swift", "ms-swift"

    def __init__(self, request: dict[str, Any]) -> None:
        get_template = _part("get_template", "swift.template", "swift.llm.template", "swift.llm")
        said = request["settings"]
        for name in ("custom_register_path", "external_plugins"):
            if said.get(name):
                raise _CannotAsk(f"{name} is code of one's own")
        kind = {"model_type": said["model_type"]} if said.get("model_type") else {}
        processor = _part("get_processor", "swift.model", "swift.llm")(request["model"], **kind)
        taken = {
            "template_type": said.get("template") or said.get("template_type"),
            "default_system": said.get("system"),
            **{name: said[name] for name in _OF_SWIFT if said.get(name) is not None},
            **self._resolved(processor, said),
        }
        if str(taken.get("truncation_strategy") or "delete") == "delete":
            taken["truncation_strategy"] = "raise"
        known = inspect.signature(get_template).parameters
        taken = {name: value for name, value in taken.items() if name in known}
        self.template = get_template(processor, max_length=said.get("max_length"), **taken)
        self.whole = get_template(processor, max_length=_UNCUT, **taken)
        for each in (self.template, self.whole):
            each.set_mode("train")
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.too_long = _part("MaxLengthError", "swift.template.base", "swift.llm.template.base", "swift.llm")

    @staticmethod
    def _resolved(processor: Any, said: dict[str, Any]) -> dict[str, Any]:
        """What its arguments make of the settings: a loss scale for empty thoughts, a system message of a file."""
        arguments = _part(
            "TemplateArguments", "swift.arguments.base_args.template_args", "swift.llm.argument.base_args.template_args"
        )
        of_model = {"model_meta": processor.model_meta, "model_info": processor.model_info}
        made = type("Arguments", (arguments,), of_model)(**_taken(arguments, said))
        names = {"loss_scale": "loss_scale", "system": "default_system", "truncation_strategy": "truncation_strategy"}
        return {to: getattr(made, name) for name, to in names.items() if getattr(made, name, None) is not None}

    def set_up(self, settings: dict[str, Any]) -> None:
        columns = settings.get("columns")
        if isinstance(columns, str):
            columns = json.loads(columns)
        self.prepare = _part("AutoPreprocessor", "swift.dataset", "swift.llm")(columns=columns or {})

    def every(self, table: Any) -> list[list[dict[str, Any]]] | None:
        made = self._prepared(table)
        return [self._made(each) for each in made] if len(made) == len(table) else None

    def one(self, row: Any) -> list[dict[str, Any]]:
        return [part for each in self._prepared(row) for part in self._made(each)]

    def _prepared(self, table: Any) -> Any:
        return self.prepare(table, num_proc=1, load_from_cache_file=False, strict=False, enable_auto_mapping=True)

    def _made(self, row: Any) -> list[dict[str, Any]]:
        """What becomes of a row; several where it is split."""
        try:
            ((ids, labels),) = self._encoded(self.whole, row)
        except Exception as error:  # it goes on without such a row
            if not _of_trainer(error, self.package):
                raise
            return [{"dropped": _sentence(error)}]
        try:
            cut = self._encoded(self.template, row)
        except self.too_long:
            return [{"ids": ids, "labels": labels, "dropped": _LONG}]
        if len(cut) > 1:
            return [{"ids": part, "labels": of_part, "length": len(part)} for part, of_part in cut]
        loses = _counts(labels) > _counts(cut[0][1])
        return [{"ids": cut[0][0], "labels": cut[0][1], "length": len(ids), "loses": loses}]

    def _encoded(self, template: Any, row: Any) -> list[tuple[list[int], list[int]]]:
        encoded = template.encode(dict(row))
        found = []
        for each in encoded if isinstance(encoded, list) else [encoded]:
            labels, scale = list(each["labels"]), each.get("loss_scale")
            if scale is not None:
                labels = [label if weight else -100 for label, weight in zip(labels, scale, strict=True)]
            found.append((list(each["input_ids"]), labels))
        return found


_OF_SWIFT = ("loss_scale", "agent_template", "use_chat_template", "response_prefix", "enable_thinking",
             "preserve_thinking", "add_non_thinking_prefix", "norm_bbox", "max_pixels", "template_backend")  # fmt: skip
_TRAINERS: dict[str, Any] = {"axolotl": _Axolotl, "llamafactory": _LlamaFactory, "ms-swift": _Swift}


def _part(name: str, *modules: str) -> Any:
    """What a name stands for in the first module that is there and has it: they move from version to version."""
    for module in modules:
        try:
            found = getattr(importlib.import_module(module), name, None)
        except ModuleNotFoundError as error:
            if error.name is None or not module.startswith(error.name):
                raise  # the trainer itself lacks a package
            continue
        if found is not None:
            return found
    raise _CannotAsk(f"this version has no {name}")


def _taken(arguments: Any, said: dict[str, Any]) -> dict[str, Any]:
    names = {each.name for each in dataclasses.fields(arguments) if each.init}
    return {name: value for name, value in said.items() if name in names}


def _counts(labels: Any) -> int:
    return sum(label != -100 for label in labels)


def _is_elsewhere(name: str, package: str) -> bool:
    """Whether a dotted name leads to a module that is none of the package's."""
    first = name.partition(".")[0]
    try:
        if importlib.util.find_spec(f"{package}.{first}") is not None:
            return False
    except (ImportError, ValueError):
        pass
    return "." in name and first != package.partition(".")[0]


def _of_trainer(error: BaseException, package: str) -> bool:
    """Whether an exception came out of the trainer's own code, over a row, and not of what this process has not."""
    if isinstance(error, (OSError, ImportError, MemoryError, NotImplementedError)):
        return False
    trace = error.__traceback__
    while trace is not None:
        if str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0] == package:
            return True
        trace = trace.tb_next
    return False


def _sentence(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}{': ' + text if text else ''}"[:300]


def _rows(trainer: Any, rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Of each row what becomes of it; the first at which the trainer stops is the last.

    An exception that any row brings may be of how the trainer is called here; it counts where another row brings none,
    or where it is of those that bad rows bring.
    """
    import datasets

    table = datasets.Dataset.from_list(rows)
    at_once: list[list[dict[str, Any]]] | None
    try:
        at_once = trainer.every(table)
    except Exception:  # which row it is shows one by one
        at_once = None
    if at_once is not None:
        return at_once
    found: list[list[dict[str, Any]]] = []
    stopped: BaseException | None = None
    for number in range(len(rows)):
        try:
            made = trainer.one(table.select([number]) if len(table) > 1 else table)
        except _CannotAsk:
            raise
        except Exception as error:
            if not _of_trainer(error, trainer.package):
                raise
            stopped = stopped or error
            if found or _is_of_rows(stopped):
                break
            continue
        if stopped is not None:
            break
        found.append(made or [{"dropped": _REFUSED}])
    else:
        if stopped is not None:
            raise stopped
    if stopped is not None:
        traceback.print_exception(type(stopped), stopped, stopped.__traceback__)
        found.append([{"stops": _sentence(stopped)}])
    return found


def _is_of_rows(error: BaseException) -> bool:
    names = {each.__name__ for each in type(error).__mro__}
    return bool(names & {"KeyError", "ValueError", "IndexError", "AssertionError", "TemplateError"})


def _refuse_code_of_models() -> None:
    """ms-swift trusts the code of every model that it loads; here none of it runs."""
    from transformers import dynamic_module_utils

    def refuse(*given: Any, **named: Any) -> Any:
        raise _CannotAsk("the model brings code of its own, which is not run")

    dynamic_module_utils.get_class_in_module = refuse


def _asked(request: dict[str, Any]) -> dict[str, Any]:
    kind = _TRAINERS[request["trainer"]]
    reply: dict[str, Any] = {}
    try:
        try:
            reply["version"] = importlib.metadata.version(kind.distribution)
        except importlib.metadata.PackageNotFoundError:
            raise _CannotAsk("it is not installed there") from None
        import datasets

        datasets.disable_caching()
        datasets.disable_progress_bars()
        _refuse_code_of_models()
        trainer = kind(request)
        reply["sets"] = []
        for each in request["sets"]:
            trainer.set_up(each["settings"])
            reply["sets"].append(_rows(trainer, each["rows"]))
        tokenizer = trainer.tokenizer
        reply["tokens"] = {
            "added": sorted(tokenizer.get_added_vocab().items(), key=lambda pair: int(pair[1])),
            **{name: getattr(tokenizer, name, None) for name in ("eos_token", "bos_token", "pad_token")},
        }
    except BaseException as error:
        traceback.print_exc()
        reply["failure"] = str(error) if isinstance(error, _CannotAsk) else _sentence(error)
    return reply


def main(folder: str) -> None:
    place = Path(folder).resolve()
    request = json.loads((place / "request.json").read_text(encoding="utf-8"))
    here = str(Path(__file__).resolve().parent)
    # Nothing of this package, and nothing of the working directory, stands before the trainer's modules.
    sys.path[:] = [each for each in sys.path if each and str(Path(each).resolve()) != here]
    spec = importlib.util.spec_from_file_location("_confining", request["confining"])
    assert spec is not None and spec.loader is not None
    confining = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(confining)
    confining.confine(int(request["memory"]), [])
    os.chdir(place)
    reply = json.dumps(_asked(request))
    (place / "reply.part").write_text(reply, encoding="utf-8")
    (place / "reply.part").replace(place / "reply.json")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
