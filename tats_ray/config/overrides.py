"""Dotted paths: the one way to name a knob, on the command line, in a file, in a sweep and in MLflow."""

import difflib
import math
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from tats_ray.config.error import ConfigError
from tats_ray.config.run import Run

R = TypeVar("R", bound=Run)


@dataclass(frozen=True)
class Knob:
    """One setting, as ``--help`` shows it."""

    path: str
    type: str
    default: object
    meaning: str


def parse_override(text: str) -> tuple[str, Any]:
    """Split ``path=value``; the value is read as :func:`read_yaml` does.

    Raises:
        ConfigError: There is no ``=``, or the value is not YAML.
    """
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise ConfigError(f"an override must read path=value, got {text!r}; --help lists the paths")
    try:
        return path.strip(), read_yaml(value) if value else ""
    except yaml.YAMLError as error:
        raise ConfigError(f"the value of {path} cannot be read, got {value!r}: quote it") from error


def read_yaml(text: str) -> Any:
    """Read YAML in which ``true``, ``false`` and ``null`` mean what they say, and all else is the text that was typed.

    A number becomes one where a setting asks for a number. So ``name=007`` stays ``007``, ``010`` is ten and not YAML's
    eight, ``1e-3`` is a number, and ``12:30`` is none.

    Raises:
        yaml.YAMLError: It is not YAML, or has tags or aliases.
    """
    try:
        return yaml.load(text, Loader=_TypedText)
    except RecursionError as error:
        raise yaml.YAMLError("it is nested too deeply") from error


class _TypedText(yaml.SafeLoader):
    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None) not in (None, "!"):
            raise yaml.YAMLError("aliases and tags are not read")
        return super().compose_node(parent, index)


_TypedText.yaml_implicit_resolvers = {}
_TypedText.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(true|True|false|False)$"), list("tTfF"))
_TypedText.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("^(null|)$"), ["n", ""])


def change(run: R, overrides: Iterable[tuple[str, Any]]) -> R:
    """Return ``run`` with the knobs at the given dotted paths replaced.

    A new ``kind`` replaces all settings of its slot by that kind's defaults; further settings of the slot then apply.

    Raises:
        ConfigError: An unknown path (with the nearest valid ones), or a value that breaks a rule.
    """
    tree = run.model_dump(mode="json")
    known = {knob.path for knob in knobs(run)}
    for path, value in sorted(overrides, key=lambda pair: not pair[0].endswith(".kind")):
        if path not in known:
            raise unknown_knob(path, known)
        *parents, leaf = path.split(".")
        node = tree
        for name in parents:
            node = node.setdefault(name, {})
        if leaf == "kind" and node["kind"] != value:
            node.clear()
        node[leaf] = value
    return validated(tree, type(run))


def validated(tree: Mapping[str, Any], kind: type[R]) -> R:
    """Turn a nested dict into a run of a kind.

    Raises:
        ConfigError: One line for each thing wrong.
    """
    booleans = [line for path, value in flatten(tree).items() for line in _boolean_for_a_number(path, value, kind)]
    if booleans:
        raise ConfigError("\n".join(booleans))
    try:
        run = kind.model_validate(tree)
    except ValidationError as error:
        wrong = error.errors(include_url=False)
        inner = [item for item in wrong if not any(_is_within(other["loc"], item["loc"]) for other in wrong)]
        raise ConfigError("\n".join(_explain(item, kind) for item in inner)) from error
    for path, value in flatten(run.model_dump()).items():
        for number in value if isinstance(value, tuple) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                raise ConfigError(f"{path}: must be finite, got {number}")
    return run


def unknown_knob(path: str, known: Iterable[str]) -> ConfigError:
    """Return the error for a path that names nothing, with the nearest that do."""
    known = sorted(known)
    near = [f"{path}.kind"] if f"{path}.kind" in known else difflib.get_close_matches(path, known, n=3, cutoff=0.5)
    near += [name for name in known if name.split(".")[-1] == path.split(".")[-1] and name not in near][:3]
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return ConfigError(f"there is no knob {path!r}{hint} --help lists all")


def knobs(model: BaseModel, prefix: str = "") -> Iterator[Knob]:
    """Yield every setting of a run, and of every kind that a slot can hold."""
    for name, info in type(model).model_fields.items():
        yield from _field_knobs(f"{prefix}{name}", info, getattr(model, name))


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested dict as dotted paths to leaves."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat.update(flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value})
    return flat


def _field_knobs(path: str, info: FieldInfo, value: object) -> Iterator[Knob]:
    variants = [kind for kind in _members(info.annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)]
    if not variants:
        yield Knob(path, _type_name(info.annotation), value, info.description or "")
    elif len(variants) == 1:
        assert isinstance(value, BaseModel)
        yield from knobs(value, f"{path}.")
    else:
        kinds = [kind.model_fields["kind"].default for kind in variants]
        current = getattr(value, "kind", None)
        yield Knob(f"{path}.kind", " | ".join(kinds), current, info.description or "")
        for variant in variants:
            shown = value if isinstance(value, variant) else variant()
            for knob in knobs(shown, f"{path}."):
                if not knob.path.endswith(".kind"):
                    kind = variant.model_fields["kind"].default
                    yield Knob(knob.path, knob.type, knob.default, f"[kind={kind}] {knob.meaning}")


def _members(annotation: Any) -> Sequence[Any]:
    if get_origin(annotation) is typing.Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return get_args(annotation)
    return (annotation,)


def _type_name(annotation: Any) -> str:
    if get_origin(annotation) is typing.Literal:
        return " | ".join(str(value) for value in get_args(annotation))
    if get_origin(annotation) is typing.Annotated:
        return _type_name(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return " | ".join("null" if kind is type(None) else _type_name(kind) for kind in get_args(annotation))
    if get_origin(annotation) is tuple:
        return f"[{', '.join('...' if part is Ellipsis else _type_name(part) for part in get_args(annotation))}]"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"{{{', '.join(annotation.model_fields)}}}"
    return getattr(annotation, "__name__", str(annotation))


@cache
def _types(kind: type[Run]) -> dict[str, str]:
    return {knob.path: knob.type for knob in knobs(kind())}


def _boolean_for_a_number(path: str, value: object, kind: type[Run]) -> Iterator[str]:
    """Yield what is wrong where pydantic would take ``true`` for 1."""
    wanted = _types(kind).get(path, "bool")
    parts = value if isinstance(value, list | tuple) else [value]
    if "bool" not in wanted:
        yield from (f"{path}: must be {wanted}, got {str(part).lower()}" for part in parts if isinstance(part, bool))


def _is_within(inner: tuple[int | str, ...], outer: tuple[int | str, ...]) -> bool:
    return len(inner) > len(outer) and inner[: len(outer)] == outer


def _explain(item: Any, kind: type[Run]) -> str:
    known = _types(kind)
    tags = {kind for path, kinds in known.items() if path.endswith(".kind") for kind in kinds.split(" | ")}
    path = ".".join(str(part) for part in item["loc"] if part not in tags)
    if item["type"] == "union_tag_invalid":
        return f"{path}.kind: must be one of {known[f'{path}.kind']}, got {item['input'].get('kind')!r}"
    if item["type"] == "extra_forbidden":
        if any(knob == path or knob.startswith(f"{path}.") for knob in known):
            slot = path.rpartition(".")[0]
            return f"{path} belongs to another kind than the one chosen; set {slot}.kind, or leave it out"
        return str(unknown_knob(path, known))
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "value_error":  # of our own validators, which name what is wrong
        return f"{path}: {message}" if path and path.split(".")[-1] not in message else message
    return f"{path}: {message[0].lower()}{message[1:]}, got {item['input']!r}"
