"""Reads a YAML file, or takes a mapping, as plain dicts and tuples: no duplicate keys, no anchors, no surprises."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from engine.errors import BadInput

EXAMPLE = "start from configs/quickstart.yaml"


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, strict about keys; an alias is refused, so that a file says everything where it is."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            alias: Any = self.peek_event()  # type: ignore[no-untyped-call]
            raise BadInput(
                f"{_line(alias.start_mark)}: *{alias.anchor} is an alias: write the part out where it belongs"
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - PyYAML's
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str | int) and key in seen:
                raise BadInput(f"{_line(key_node.start_mark)}: {key} is given twice: remove one of the two")
            if isinstance(key, str | int):
                seen.add(key)
        return super().construct_mapping(node, deep=deep)


def document(source: Path | Mapping[str, Any]) -> tuple[str, dict[Any, Any]]:
    """What the source is called in an error, and what it says."""
    if isinstance(source, Mapping):
        return "configuration", _table("configuration", source)
    name = str(source)
    return name, table(name, _text(name, Path(source)))


def table(name: str, text: str, remedy: str = EXAMPLE) -> dict[Any, Any]:
    """What a YAML text says, called `name` in an error; `remedy` is how to begin anew."""
    return _table(name, _parsed(name, text, remedy), remedy)


def _text(name: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BadInput(f"{name} does not exist: check the path") from None
    except UnicodeDecodeError:
        raise BadInput(f"{name} is not UTF-8 text: save it as UTF-8") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise BadInput(f"{name} cannot be read ({reason}): give the path of a YAML file") from None


def _parsed(name: str, text: str, remedy: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - derived from the safe loader
    except BadInput as error:
        raise BadInput(f"{name}, {error}") from None
    except yaml.MarkedYAMLError as error:
        what = " ".join(str(error.problem or error.context).split())
        raise BadInput(
            f"{name}, {_line(error.problem_mark or error.context_mark)} is not YAML ({what}): correct it"
        ) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        what = "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise BadInput(f"{name} is not YAML ({what[:120]}): correct it, or {remedy}") from None


def _line(mark: Any) -> str:
    return f"line {mark.line + 1}" if mark else "somewhere"


def _table(name: str, parsed: Any, remedy: str = EXAMPLE) -> dict[Any, Any]:
    if parsed is None or (isinstance(parsed, Mapping) and not parsed):
        raise BadInput(f"{name} is empty: {remedy}")
    if not isinstance(parsed, Mapping):
        kind = "a list" if isinstance(parsed, list) else "a single value"
        raise BadInput(f"{name} holds {kind} where a table of keys is expected: begin with 'schema_version: 1'")
    try:
        return {key: _plain(value) for key, value in parsed.items()}
    except RecursionError:
        raise BadInput(f"{name} is nested too deeply: {remedy}") from None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return tuple(_plain(inner) for inner in value) if isinstance(value, list | tuple) else value
