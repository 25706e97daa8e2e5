"""The checkpoint that a study begins from, told by its content before its weights are loaded.

A folder in the Hugging Face format, a GGUF file, or a hub id. `find` promises a fingerprint of the content, the shape,
and where the tokenizer lies; it refuses what could not be trained on: no weights that are read as data, weights that
are not whole, a family whose positions cannot restart inside a packed row. Of a GGUF file, tokenizer and configuration
are converted once into a folder of the store (some seconds for a vocabulary of 49k), so that whatever comes after reads
a folder.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from curricle.shapes import PRESETS, Shape
from curricle.store import Store, fingerprint, is_complete, read_json, whole_folder, write_json
from curricle.study import Model, Refused, Study

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

FIELD = "model.checkpoint"


@dataclass(frozen=True, slots=True)
class Origin:
    """What is known of a checkpoint."""

    fingerprint: str
    """Of its weights and configuration; of a hub id, its name and revision."""
    shape: Shape
    tokenizer: Path | str
    """The folder (or hub id) that its tokenizer is loaded from."""
    revision: str | None = None
    """The commit of a hub id."""
    licence: str | None = None
    """As the checkpoint states it."""

    def describe(self, model: Model) -> dict[str, Any]:
        """What a run's file keeps of where it began."""
        return {
            "checkpoint": model.checkpoint,
            "revision": self.revision,
            "fingerprint": self.fingerprint,
            "decayed": model.decayed,
            "licence": self.licence,
        }


def find(study: Study, store: Store, plan_only: bool) -> Origin | None:
    """The study's checkpoint; None for fresh weights. With `plan_only`, a hub id is taken at its word."""
    name, model = study.model.checkpoint, study.model
    if name is None:
        return None
    place = study.resolve(name)
    if place.is_dir():
        return _in_folder(place, store)
    if place.suffix == ".gguf":
        return _in_gguf(place, store)
    if place.exists():
        raise Refused(f"{FIELD}: {place}: a file, and no .gguf; give a folder, a .gguf file, or a hub id")
    if plan_only:
        if model.preset is None:
            raise Refused(f"model.preset: state the shape of {name}, which is not on this disk, to plan without it")
        return Origin(f"{name}@{model.revision or 'main'}", PRESETS[model.preset], name, model.revision)
    if "/" not in name or name.startswith((".", "/", "~")) or name.count("/") > 1:
        hint = "; get it with  python scripts/fetch_smollm2.py" if Path(name).name == "smollm2-135m" else ""
        raise Refused(f"{FIELD}: {name}: no such folder, and not a hub id such as org/name{hint}")
    config = _config(name, f"{FIELD}: {name}: no such folder, and the hub gave", revision=model.revision or "main")
    revision = model.revision or getattr(config, "_commit_hash", None)
    return Origin(f"{name}@{revision or 'main'}", shape_of(config), name, revision)


def _in_folder(folder: Path, store: Store) -> Origin:
    weights = sorted(folder.glob("*.safetensors"))
    if not weights or not (folder / "config.json").exists():
        raise Refused(f"{FIELD}: {folder} holds no config.json with *.safetensors beside it")
    config = _config(str(folder), f"{FIELD}: {folder / 'config.json'} is not readable")
    refuse_torn(folder, config)
    content = _digest([folder / "config.json"], weights, store)
    return Origin(content, shape_of(config), folder, licence=card_licence(folder))


def refuse_torn(folder: Path, config: PretrainedConfig) -> None:
    """Raise `Refused` where the weights are not whole. Only their headers are read; transformers then lays tensors of
    these names and shapes, which hold no numbers, into the model, so that it knows a checkpoint's older names."""
    import torch
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, torch.Tensor] = {}
    for file in _weight_files(folder):
        try:
            with safe_open(str(file), "pt") as header:  # compares the file's length with what its header states
                for name in header.keys():  # noqa: SIM118 (no mapping)
                    tensors[name] = torch.zeros(()).expand(header.get_slice(name).get_shape())  # takes no memory
        except FileNotFoundError:
            raise Refused(f"{FIELD}: {file}: not there, and {INDEX} beside it names it; fetch it anew") from None
        except (SafetensorError, OSError) as error:
            raise Refused(f"{FIELD}: {file}: cut short or damaged ({_first_line(error)}); fetch it anew") from None
    kind = _class_of(config)
    with unsaid():
        _, found = kind.from_pretrained(
            None,
            config=config,
            state_dict=tensors,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    refuse_partial(f"{FIELD}: {folder}", found)


INDEX = "model.safetensors.index.json"


def _weight_files(folder: Path) -> list[Path]:
    """Those that transformers reads: the one, or the parts that the index names."""
    if (folder / "model.safetensors").exists():
        return [folder / "model.safetensors"]
    try:
        parts = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()
    except FileNotFoundError:
        raise Refused(
            f"{FIELD}: {folder} holds no model.safetensors and no {INDEX}, which would name its parts"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refused(f"{FIELD}: {folder / INDEX} is not readable: {_first_line(error)}") from None
    return sorted({folder / str(part) for part in parts})


HEADS = frozenset({"lm_head.weight", "embed_out.weight"})  # as families call the matrix that an embedding may be, too


def refuse_partial(name: str, found: Mapping[str, Any]) -> None:
    """Raise `Refused` where transformers would draw weights at random, anew on every rank. `found` is what it says of a
    loading."""
    if lacking := sorted(found["missing_keys"]):
        others = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        hint = "; where its embedding is its head, config.json must set tie_word_embeddings to true"
        raise Refused(
            f"{name}: not a whole causal language model: its weights lack {lacking[0]}{others}"
            f"{hint if HEADS.issuperset(lacking) else ''}"
        )
    if unlike := sorted(found["mismatched_keys"]):
        tensor, held, wanted = unlike[0]
        raise Refused(
            f"{name}: weights and config.json do not belong together: {tensor} is {'×'.join(map(str, held))} where "
            f"config.json makes it {'×'.join(map(str, wanted))}"
        )


@contextmanager
def unsaid() -> Iterator[None]:
    """Keep back transformers' progress bars, and its table of the weights that `refuse_partial` names; of weights that
    it has no use for, it still tells."""
    from transformers.utils.logging import disable_progress_bar

    def other(record: logging.LogRecord) -> bool:
        said = record.getMessage()
        return "LOAD REPORT" not in said or not ("MISSING" in said or "MISMATCH" in said)

    logger = logging.getLogger("transformers.modeling_utils")
    disable_progress_bar()
    logger.addFilter(other)
    try:
        yield
    finally:
        logger.removeFilter(other)


def _digest(read: Iterable[Path], hashed: Iterable[Path], store: Store) -> str:
    """The content of small files, then the digests of large ones."""
    content = hashlib.sha256(b"".join(file.read_bytes() for file in read))
    for file in hashed:
        content.update(bytes.fromhex(_file_digest(file, store)))
    return content.hexdigest()[:16]


def _file_digest(file: Path, store: Store) -> str:
    """SHA-256 of a large file, remembered in the store for as long as its size and time stay: reading 28 GB takes
    minutes, and every command and every rank asks."""
    about = file.stat()
    kept = store.folder("digests", f"{fingerprint([str(file.resolve()), about.st_size, about.st_mtime_ns])}.json")
    if not kept.exists():
        with open(file, "rb") as data:
            write_json(kept, {"sha256": hashlib.file_digest(data, "sha256").hexdigest()})
    return str(read_json(kept)["sha256"])


def _in_gguf(file: Path, store: Store) -> Origin:
    refuse_unread_gguf(file, f"{FIELD}: {file}")
    content = _digest([], [file], store)
    folder = store.folder("tokenizers", f"gguf-{content}")
    if not is_complete(folder):
        _convert_beginning(file, folder)
    shape = shape_of(_config(str(folder), f"{FIELD}: {file}: not readable"))
    return Origin(content, shape, folder, licence=read_json(folder / "gguf.json")["licence"])


def _convert_beginning(file: Path, folder: Path) -> None:
    """All of a GGUF file but its weights, as a folder that is read like any other."""
    from transformers import AutoTokenizer

    refuse_torn_gguf(file, f"{FIELD}: {file}")
    fault = f"{FIELD}: {file}: not a GGUF file that transformers reads"
    config = _config(str(file.parent), fault, gguf_file=file.name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError, NotImplementedError) as error:
        raise Refused(f"{fault}: {_first_line(error)}") from None
    with whole_folder(folder) as temporary:
        config.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        write_json(temporary / "gguf.json", {"licence": gguf_licence(file)})


def refuse_unread_gguf(file: Path, where: str) -> None:
    """Raise `Refused` where there is no such GGUF file, or nothing to read it with."""
    if not file.is_file():
        raise Refused(f"{where}: no such file")
    missing = [package for package in ("gguf", "accelerate") if importlib.util.find_spec(package) is None]
    if missing:
        raise Refused(f"{where}: reading a GGUF file needs {' and '.join(missing)}: pip install 'curricle[gguf]'")


def refuse_torn_gguf(file: Path, where: str) -> None:
    """Raise `Refused` where a GGUF file is not whole. Only its header is read, against the file's length; of a large
    vocabulary that takes a second or more."""
    from gguf import GGUFReader

    try:
        GGUFReader(str(file))
    except (OSError, ValueError, LookupError) as error:
        raise Refused(f"{where}: cut short, damaged, or no GGUF file ({_first_line(error)}); fetch it anew") from None


def gguf_licence(file: Path) -> str | None:
    """`general.license` of the file, where it states one."""
    from gguf import GGUFReader

    field = GGUFReader(str(file)).fields.get("general.license")
    return str(field.contents()) if field is not None else None


def card_licence(folder: Path) -> str | None:
    """`license` in the model card that lies in a checkpoint's folder."""
    stated = front_matter(folder / "README.md").get("license")
    return stated if isinstance(stated, str) and stated != "other" else None


def front_matter(file: Path) -> dict[str, Any]:
    """The YAML at the beginning of a card; nothing where there is none that can be read."""
    try:
        text = file.read_text(encoding="utf-8")
        found = yaml.safe_load(text.split("\n---", 1)[0]) if text.startswith("---\n") else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _config(name: str, fault: str, **settings: Any) -> PretrainedConfig:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False, **settings)
    except (OSError, ValueError, KeyError, TypeError, ImportError, RecursionError) as error:
        raise Refused(f"{fault}: {_first_line(error)}") from None
    _refuse_without_positions(config)
    _refuse_experts(config)
    return config


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _refuse_without_positions(config: PretrainedConfig) -> None:
    """Documents in a packed row are kept apart by positions that restart. A family that takes no positions (BLOOM,
    MPT: ALiBi; Mamba, RWKV: a state) would read across them; `model.refuse_leaks` finds those that take and ignore."""
    if "position_ids" not in inspect.signature(_class_of(config).forward).parameters:
        raise Refused(
            f"{FIELD}: a model of the family {config.model_type!r} takes no positions, so that documents packed into "
            f"one row would read each other; begin from another family (Llama, Qwen, GPT-2, Gemma, OLMo, GPT-NeoX …)"
        )


def _class_of(config: PretrainedConfig) -> type[PreTrainedModel]:
    from transformers import AutoModelForCausalLM

    kinds = AutoModelForCausalLM._model_mapping
    if type(config) not in kinds:
        raise Refused(f"{FIELD}: {config.model_type!r} is no causal language model that transformers has")
    kind = kinds[type(config)]
    return kind[0] if isinstance(kind, tuple) else kind


def _refuse_experts(config: PretrainedConfig) -> None:
    """What a token costs, what is decayed and what a save takes are reckoned for dense layers; of experts all three
    would be wrong without a word."""
    for field in ("num_experts", "num_local_experts", "n_routed_experts"):
        if (getattr(config.get_text_config(), field, None) or 0) > 1:
            raise Refused(
                f"{FIELD}: a model of the family {config.model_type!r} is a mixture of experts ({field} = "
                f"{getattr(config.get_text_config(), field)}), which cannot be trained on yet; begin from a dense one"
            )


def shape_of(config: PretrainedConfig) -> Shape:
    """The shape by transformers' own names for it, whatever a family's file calls them."""
    text = config.get_text_config()

    def number(key: str, default: int | None = None) -> int:
        value = getattr(text, key, None)
        value = default if value is None else value
        if not isinstance(value, int):
            raise Refused(f"{FIELD}: its config.json does not state {key}")
        return value

    heads, hidden = number("num_attention_heads"), number("hidden_size")
    gated = text.model_type not in {"gpt2", "gpt_neo", "gpt_neox", "gptj", "gpt_bigcode", "opt", "phi", "starcoder2"}
    # GPT-2 and its kin call it n_inner, and leave it out where it is four times the width.
    inner = getattr(text, "intermediate_size", None) or getattr(text, "n_inner", None) or getattr(text, "ffn_dim", None)
    head = getattr(text, "head_dim", None)
    return Shape(
        layers=number("num_hidden_layers"),
        hidden=hidden,
        feed_forward=inner if isinstance(inner, int) else 4 * hidden,
        heads=heads,
        kv_heads=number("num_key_value_heads", heads),
        vocabulary=number("vocab_size"),
        tied=bool(getattr(text, "tie_word_embeddings", False)),
        head=head if isinstance(head, int) and head * heads != hidden else None,
        gated=gated,
    )
