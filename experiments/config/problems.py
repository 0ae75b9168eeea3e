"""From what is wrong with a configuration to the one sentence a person reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date, datetime, time
from inspect import isclass
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from engine.errors import BadInput
from experiments.config.steering import UsersPolicy
from experiments.config.values import ID_RULE, nearest

Path: TypeAlias = tuple[Any, ...]
NO_VALUE: Any = object()
_LONGEST = 60
_LAST = 10**9


class Problem(NamedTuple):
    """One thing that is wrong: where, the rule it breaks with the remedy, and the value that broke it."""

    path: Path
    rule: str
    value: Any = NO_VALUE

    def sentence(self, name: str) -> str:
        """The whole sentence about the file called `name`."""
        shown = "" if self.value is NO_VALUE else f" (={show(self.value)})"
        return f"{name}: {dotted(self.path)}{shown} {self.rule}"


def unknown(path: Path, name: str, what: str, known: Iterable[str]) -> Iterator[Problem]:
    """The problem of a name that nothing in the file bears, or none."""
    names = list(known)
    if name not in names:
        yield Problem(path, f"is not a {what} of this file: {nearest(name, names)}", name)


def refusal(name: str, document: Any, problems: Iterable[Problem]) -> BadInput:
    """The error for the first of the problems in the document's order; it counts the others."""
    ordered = sorted(problems, key=lambda problem: _position(document, problem.path))
    others = f" (and {len(ordered) - 1} more)" if len(ordered) > 1 else ""
    return BadInput(ordered[0].sentence(name) + others)


def check_version(name: str, document: Mapping[Any, Any], ours: int) -> None:
    """Refuse a file of another schema version, before anything else in it is looked at."""
    if "schema_version" not in document:
        raise BadInput(f"{name}: schema_version is missing: begin with 'schema_version: {ours}'")
    version = document["schema_version"]
    if version is True or version != ours:
        rule = f"is not the version this program reads: write {ours}, or use the program that wrote the file"
        raise BadInput(Problem(("schema_version",), rule, version).sentence(name))


def show(value: Any) -> str:
    """A value as a file spells it, cut to a readable length."""
    if isinstance(value, time):
        return f"{value:%H:%M}"
    if isinstance(value, date | datetime):
        return value.isoformat()
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    if isinstance(value, int) and abs(value) >= 10**_LONGEST:
        return f"a number of {value.bit_length()} bits"
    text = ascii(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 2]} …"


def dotted(path: Path) -> str:
    """A place in the document: `policies[1].campaigns`, list entries counted from 0."""
    if not path:
        return "the file"
    return "".join(f"[{part}]" if isinstance(part, int) else f".{_key(part)}" for part in path).removeprefix(".")


def _key(part: Any) -> str:
    return part if isinstance(part, str) and part.isprintable() and 0 < len(part) <= _LONGEST else show(part)


def from_pydantic(errors: list[ErrorDetails], document: Any, model: type[BaseModel]) -> Iterator[Problem]:
    """Pydantic's errors as problems, at their place in the document."""
    for error in errors:
        path = _place(document, error["loc"])
        yield _problem(error, path, model)


def _problem(error: ErrorDetails, path: Path, model: type[BaseModel]) -> Problem:
    kind, value, details = error["type"], error["input"], error.get("ctx", {})
    if kind == "missing":
        return Problem(path, "is missing: add it")
    if kind == "extra_forbidden":
        return Problem(path, f"is not a known key: {nearest(path[-1], _keys_at(model, error['loc'][:-1]))}", value)
    if kind == "union_tag_not_found":
        return Problem((*path, details["discriminator"].strip("'()")), "is missing: add it")
    if kind == "union_tag_invalid":
        tag = details["discriminator"].strip("'()")
        known = [choice.strip("'") for choice in details["expected_tags"].split(", ")]
        known = [choice for choice in known if choice != UsersPolicy.__name__]
        return Problem((*path, tag), f"is not a known {tag}: {nearest(details['tag'], known)}", details["tag"])
    if kind == "invalid_key" or error["loc"][-1:] == ("[key]",):
        quotes = f"must be text: write it in quotes, '{show(path[-1])}'"
        return Problem(path, "is a key that " + (ID_RULE if isinstance(path[-1], str) else quotes))
    rule = _RULES.get(kind)
    return Problem(path, rule(details, value) if rule else f"cannot be used ({error['msg']}): correct it", value)


def _no_fraction(_: dict[str, Any], value: Any) -> str:
    remedy = "write it without quotes" if isinstance(value, str) else "write one such as 1000"
    return f"must be a whole number: {remedy}"


def _number(_: dict[str, Any], value: Any) -> str:
    remedy = "write it without quotes" if isinstance(value, str) else "write one such as 0.5"
    return f"must be a number: {remedy}"


def _one_of(details: dict[str, Any], value: Any) -> str:
    expected = str(details["expected"])
    known = [choice.strip("'") for choice in expected.replace(" or ", ", ").split(", ")]
    return f"must be {expected}: {nearest(value, known) if len(known) > 1 else f'write {known[0]}'}"


_RULES: dict[str, Callable[[dict[str, Any], Any], str]] = {
    "rule": lambda details, _: str(details["rule"]),
    "int_type": _no_fraction,
    "int_parsing_size": _no_fraction,
    "float_type": _number,
    "finite_number": lambda *_: "must be finite: write a plain number",
    "string_type": lambda *_: "must be text: write it in quotes",
    "bool_type": lambda *_: "must be true or false: write one of them",
    "dict_type": lambda *_: "must be a table of keys and values: write it as 'key: value' lines",
    "model_type": lambda *_: "must be a table of keys and values: write it as 'key: value' lines",
    "model_attributes_type": lambda *_: "must be a table of keys and values: write it as 'key: value' lines",
    "tuple_type": lambda *_: "must be a list: write [ … ] or lines that begin with a dash",
    "literal_error": _one_of,
    "greater_than": lambda details, _: f"must be > {details['gt']}: raise it",
    "greater_than_equal": lambda details, _: f"must be >= {details['ge']}: raise it",
    "less_than": lambda details, _: f"must be < {details['lt']}: lower it",
    "less_than_equal": lambda details, _: f"must be <= {details['le']}: lower it",
    "too_long": lambda details, _: f"must hold at most {details['max_length']}: remove some",
    "too_short": lambda details, _: f"must hold at least {details['min_length']}: add one",
    "string_too_short": lambda *_: "must not be empty: write a name",
    "string_too_long": lambda details, _: f"must have at most {details['max_length']} characters: shorten it",
    "string_pattern_mismatch": lambda details, _: (
        "must be three capital letters: write EUR" if details["pattern"] == "^[A-Z]{3}$" else ID_RULE
    ),
}


def _position(document: Any, path: Path) -> list[int]:
    """Where a path stands in the document: its index on every level; what is absent stands at the end of its parent."""
    position: list[int] = []
    node = document
    for part in path:
        if not _holds(node, part):
            return [*position, _LAST]
        position.append(list(node).index(part) if isinstance(node, dict) else part)
        node = node[part]
    return position


def _holds(node: Any, part: Any) -> bool:
    if isinstance(node, dict):
        return part in node
    return isinstance(node, tuple) and isinstance(part, int) and 0 <= part < len(node)


def _place(document: Any, location: Path) -> Path:
    """Pydantic's location without what the document does not hold: the tags of unions, and its mark for keys."""
    path: list[Any] = []
    node = document
    for depth, part in enumerate(location):
        if _holds(node, part):
            node = node[part]
        elif depth < len(location) - 1 or part == "[key]":
            continue
        path.append(part)
    return tuple(path)


def _keys_at(model: type[BaseModel], location: Path) -> list[str]:
    """The keys that the models at a location know."""
    here: list[Any] = [model]
    for part in location:
        here = [inner for annotation in here for inner in _inside(annotation, part)]
    known = {
        key: None for found in here for option in _options(found) if _is_model(option) for key in option.model_fields
    }
    return list(known)


def _inside(annotation: Any, part: Any) -> Iterator[Any]:
    for option in _options(annotation):
        if _is_model(option):
            fields = option.model_fields
            if part in fields:
                yield fields[part].annotation
            elif part == option.__name__ or any(
                get_origin(field.annotation) is Literal and part in get_args(field.annotation)
                for field in fields.values()
            ):
                yield option
        elif get_origin(option) in (dict, tuple):
            yield get_args(option)[1 if get_origin(option) is dict else 0]


def _options(annotation: Any) -> Iterator[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _options(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for option in get_args(annotation):
            yield from _options(option)
    else:
        yield annotation


def _is_model(option: Any) -> bool:
    return isclass(option) and issubclass(option, BaseModel)
