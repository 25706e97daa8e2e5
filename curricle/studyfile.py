"""The front door of a study: YAML, overrides and the command line in; a checked `Study` out, or one line a fault.

A fault's line names the file, the field's path, the value, what is allowed and the nearest valid word.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pydantic
import yaml

from curricle.study import FileBenchmark, Refused, Study, nearest


def parse_benchmark(text: str, problems: int | None, shots: int, max_new_tokens: int) -> tuple[str, FileBenchmark]:
    """`gsm8k=PATH` as the command line writes it → its name and what it asks."""
    name, equals, path = text.partition("=")
    if not equals or not path:
        raise Refused(f"--benchmark {text}: write it as FORMAT=PATH, for example gsm8k=gsm8k/test.jsonl")
    if name not in {"gsm8k", "math"}:
        raise Refused(f"--benchmark {text}: unknown format {name!r}; {nearest(name, ['gsm8k', 'math'])}")
    fields = {"file": path, "format": name, "problems": problems, "shots": shots, "max_new_tokens": max_new_tokens}
    return name, FileBenchmark.model_validate(fields)


def load_study(path: str | Path, overrides: Iterable[str] = ()) -> Study:
    """Read a study from YAML, or a shipped one by its name; `overrides` are `a.b.c=value`.

    Raises `Refused` with one line a fault, each with the file, the field's path, the value and what is allowed.
    """
    file = find_study(path)
    try:
        text = file.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError) as error:
        raise Refused(f"{file}: not readable: {error}") from None
    study = parse_study(text, file, overrides)
    study._name, study._path = file.stem, file
    return study


def parse_study(text: str, file: Path, overrides: Iterable[str] = ()) -> Study:
    """A study from its text; `file` is named in errors."""
    try:
        tree = yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise Refused(f"{file}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise Refused(
            f"{file}: a study is a mapping of fields such as question, model and stages; found {type(tree).__name__}"
        )
    for override in overrides:
        _override(tree, override)
    try:
        return Study.model_validate(tree)
    except pydantic.ValidationError as error:
        raise Refused("\n".join(f"{file}: {line}" for line in explain(error))) from None


SHIPPED = Path(__file__).parent / "studies"


def find_study(path: str | Path) -> Path:
    """The file of a study: a path, or the name of one that comes with the package."""
    file = Path(path)
    if file.is_file():
        return file
    shipped = {p.stem: p for p in SHIPPED.glob("*.yaml")}
    name = file.stem if file.suffix in {".yaml", ".yml"} else file.name
    if name in shipped and file.parent.name in {"", "studies"}:
        return shipped[name]
    if file.is_dir():
        raise Refused(f"{file}: a folder; give the study's YAML file")
    raise Refused(f"{file}: no such file, and no shipped study of that name; {nearest(name, shipped)}")


class _Loader(yaml.SafeLoader):
    """The safe loader, which also refuses a key written twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set[object] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key is a word", key_node.start_mark)
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


NAMED = ("sources", "stages", "benchmarks")  # fields whose keys are names that the study gives


def _override(tree: dict, override: str) -> None:
    path, equals, value = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise Refused(f"--set {override}: write it as a.b.c=value, for example stages.math.budget_tokens=2M")
    try:
        parsed = yaml.load(value, _Loader)
    except yaml.YAMLError:
        raise Refused(f"--set {override}: {value!r} is not readable as YAML") from None
    if len(keys) > 2 and isinstance(named := tree.get(keys[0]), dict) and keys[0] in NAMED and keys[1] not in named:
        raise Refused(f"--set {override}: {keys[0]} has no {keys[1]!r}; {nearest(keys[1], named)}")
    if (
        keys[0] == "strategies"
        and len(keys) > 1
        and not tree.get("strategies")
        and isinstance(tree.get("stages"), dict)
    ):
        tree["strategies"] = {name: [name] for name in tree["stages"]}  # one more, beside each stage by itself
    here: Any = tree
    for depth, key in enumerate(keys[:-1]):
        if key not in here or here[key] is None:
            here[key] = {}
        here = here[key]
        if not isinstance(here, dict):
            raise Refused(
                f"--set {override}: {'.'.join(keys[: depth + 1])} is a {type(here).__name__}, which has no fields"
            )
    here[keys[-1]] = parsed


_BRIEFLY = reprlib.Repr()  # aliases make a small file spell out a large value
_BRIEFLY.maxlevel, _BRIEFLY.maxstring, _BRIEFLY.maxother = 3, 200, 200


def explain(error: pydantic.ValidationError) -> list[str]:
    """One line for each fault: the field's path, what is wrong, the value."""
    lines = []
    faults = error.errors()
    for fault in faults:
        inside = [other["loc"] for other in faults if len(other["loc"]) > len(fault["loc"])]
        if fault["type"] == "too_short" and any(loc[: len(fault["loc"])] == fault["loc"] for loc in inside):
            continue  # pydantic counts the items that are right; those that are wrong have lines of their own
        path = ".".join(
            str(part) for part in fault["loc"] if not str(part).startswith(("kind:", "function-", "constrained-"))
        )
        message = fault["msg"].removeprefix("Value error, ")
        message = message[:1].lower() + message[1:]
        value = fault.get("input")
        shown = (
            ""
            if (isinstance(value, Mapping) and not fault["type"].endswith("_kind"))
            or fault["type"] in {"value_error", "missing"}
            else f" (got {_BRIEFLY.repr(value)})"
        )
        lines.append(f"{path}: {message}{shown}" if path else f"{message}{shown}")
    return lines
