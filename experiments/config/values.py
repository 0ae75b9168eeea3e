"""The kinds of value a configuration holds, each with its spelling in a file and the rule it keeps.

A bad value raises through `refuse`, whose text is the part of the sentence behind the value: the rule, a colon, the
remedy.
"""

from __future__ import annotations

import re
from datetime import date, datetime, time
from difflib import get_close_matches
from fractions import Fraction
from math import inf, isfinite
from typing import Annotated, Any, Final, Literal, TypeAlias
from zoneinfo import ZoneInfo, available_timezones

from pydantic import Field, PlainSerializer, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from engine.units import MAX_MICROS, PPM, WEEK_HOURS
from sim.people import LEAST_ACTIVITY, MAX_PEOPLE

_PERCENT = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,9})?) ?%")
_CHANGE = re.compile(r"([+-][0-9]{1,6}(?:\.[0-9]{1,9})?) ?%")
_FRACTION = re.compile(r"[0-9]{1,6}(?:/[0-9]{1,6}|\.[0-9]{1,6})?")
_CLASS = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
_TIME = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")
DAY_MINUTES = 24 * 60
_FIRST_YEAR, _LAST_YEAR = 1970, 2200
_WIDEST_BAND = 1000
_LONGEST_PATH, _LONGEST_REGION = 4_096, 64
_LARGEST_WHOLE_MULTIPLE, _LARGEST_MULTIPLE = 10, 1_000
_ID = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
ID_RULE: Final = "must be 1 to 64 letters, digits, '.', '_' or '-', the first a letter or digit: rename it"


def refuse(rule: str) -> PydanticCustomError:
    """The error of a value that breaks its rule."""
    return PydanticCustomError("rule", "{rule}", {"rule": rule})


def nearest(word: object, known: list[str]) -> str:
    """A remedy for an unknown name: the known one that looks most like it, or a choice of a few."""
    matches = get_close_matches(str(word), known, n=1)
    if matches:
        return f"did you mean {matches[0]!r}?"
    more = f" and {len(known) - 8} others" if len(known) > 8 else ""
    return f"choose from {', '.join(known[:8])}{more}" if known else "there is none to choose"


def ppm(share: float) -> int:
    """A share or a multiple of 1 as whole ppm."""
    return round(share * PPM)


def _ratio(value: Any) -> float:
    match = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    number: Any = Fraction(match[1]) / 100 if match else value
    if isinstance(number, bool) or not isinstance(number, int | float | Fraction):
        raise refuse("must be a ratio: write 25% or 0.25")
    if 1 < number <= 100:
        raise refuse(f"must be a ratio from 0 to 1: write {float(number):g}% or {float(number) / 100:g}")
    if not 0 <= number <= 1:
        raise refuse("must be a ratio from 0 to 1: write 25% or 0.25")
    return float(number)


def _multiple(value: Any) -> float:
    match = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    number: Any = Fraction(match[1]) / 100 if match else value
    if isinstance(number, bool) or not isinstance(number, int | float | Fraction):
        raise refuse("must be a multiple: write 120% or 1.2")
    if isinstance(number, int) and _LARGEST_WHOLE_MULTIPLE < number <= 100 * _LARGEST_MULTIPLE:
        raise refuse(f"must be a multiple of 1: write {number}% or {number / 100:g}")
    if not 0 <= number <= _LARGEST_MULTIPLE:
        raise refuse(f"must be a multiple from 0% to {100 * _LARGEST_MULTIPLE}%: write 120% or 1.2")
    return float(number)


def _change(value: Any) -> Fraction:
    match = _CHANGE.fullmatch(value) if isinstance(value, str) else None
    if match is None and not isinstance(value, Fraction):
        raise refuse("must be a change in percent with its sign: write +10% or -10%")
    change = Fraction(match[1]) / 100 if match else Fraction(value)
    if change < -1:
        raise refuse("must be >= -100%: nothing falls by more than all of itself")
    return change


def _band_side(value: Any) -> Fraction | None:
    if isinstance(value, bool) or not isinstance(value, int | float | Fraction | str):
        return None
    text = value if isinstance(value, str) else str(value) if -_WIDEST_BAND <= value <= _WIDEST_BAND else ""
    match = _FRACTION.fullmatch(text)
    return Fraction(text) if match and not re.search(r"/0+$", text) else None


def band(value: Any) -> tuple[Fraction, Fraction]:
    """An anchor band from its two sides, numbers or fractions such as 1/3."""
    sides = [_band_side(side) for side in value] if isinstance(value, tuple | list) else []
    if len(sides) != 2 or sides[0] is None or sides[1] is None:
        raise refuse('must be [low, high], numbers or fractions with at most six digits: write ["1/3", 3]')
    low, high = sides[0], sides[1]
    if not Fraction(1, _WIDEST_BAND) <= low <= 1 <= high <= _WIDEST_BAND:
        raise refuse('must keep 1/1000 <= low <= 1 <= high <= 1000: write ["1/3", 3]')
    return low, high


def _time_of_day(value: Any) -> time:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < DAY_MINUTES:
        written = f"{value // 60:02}:{value % 60:02}"  # YAML reads an unquoted 10:00 as 600
        raise refuse(f'must be a time of day in quotes: write "{written}"')
    if isinstance(value, time) and value == time(value.hour, value.minute):
        return value
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise refuse('must be a time of day from "00:00" to "23:59": write "09:30"')
    return time(int(match[1]), int(match[2]))


def _start(value: Any) -> datetime:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        moment = None
    if isinstance(moment, date) and not isinstance(moment, datetime):
        moment = datetime.combine(moment, time())
    if not isinstance(moment, datetime):
        raise refuse("must be a date, or a date and time: write 2026-03-02")
    if moment.tzinfo is not None:
        raise refuse("must be local time without an offset: leave it out, account.zone says where")
    if not _FIRST_YEAR <= moment.year <= _LAST_YEAR or moment.second or moment.microsecond:
        raise refuse(f"must be a whole minute between {_FIRST_YEAR} and {_LAST_YEAR}: write 2026-03-02 09:30")
    return moment


def _zone(value: Any) -> str:
    if not isinstance(value, str):
        raise refuse("must be an IANA time zone: write Europe/Berlin")
    try:
        return ZoneInfo(value).key
    except (KeyError, ValueError, OSError):
        known = sorted(available_timezones())
        matches = get_close_matches(value, known, n=1)
        remedy = f"did you mean {matches[0]!r}?" if matches else "write Europe/Berlin"
        raise refuse(f"must be an IANA time zone: {remedy}") from None


def _tick_minutes(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1 or DAY_MINUTES % value:
        raise refuse("must be a whole number that divides a day of 1440 minutes: try 5, 30 or 60")
    return value


def _chosen(value: Any, what: str = "campaign") -> Literal["all"] | tuple[str, ...]:
    if value == "all":
        return "all"
    if not isinstance(value, tuple | list) or not value or not all(isinstance(item, str) for item in value):
        raise refuse(f"must be all or a list of {what} ids: write all or [a, b]")
    if len(set(value)) < len(value):
        raise refuse(f"must name a {what} once: remove the repetition")
    return tuple(value)


def _chosen_markets(value: Any) -> Literal["all"] | tuple[str, ...]:
    return _chosen(value, "market")


def _week(value: Any) -> tuple[float, ...] | str:
    if isinstance(value, str) and 0 < len(value) <= _LONGEST_PATH:
        return value
    if not isinstance(value, tuple | list):
        raise refuse("must be a list of 168 numbers or the path of a table: write one of the two")
    if len(value) != WEEK_HOURS:
        raise refuse(f"must hold {WEEK_HOURS} numbers, one an hour from Monday 00:00 on, not {len(value)}: correct it")
    for level in value:
        if isinstance(level, bool) or not isinstance(level, int | float) or not 0 <= level < inf:
            raise refuse(f"must hold numbers >= 0, not {ascii(level)[:20]}: correct it")
    if not any(value):
        raise refuse("must have traffic in one hour at least: give it a number > 0")
    return tuple(float(level) for level in value)


def _region(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | str) or not 0 < len(str(value)) <= _LONGEST_REGION:
        raise refuse(f"must be a region of the table, at most {_LONGEST_REGION} characters long: write its region_id")
    return str(value)


def _dotted_class(value: Any) -> str:
    if not isinstance(value, str) or not _CLASS.fullmatch(value):
        raise refuse("must be module:Class: write my_agents:Greedy")
    return value


def _options(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) and key.isidentifier() for key in value):
        raise refuse("must be a table of the class's own parameters: write {name: value}")
    if not all(_is_plain(inner) for inner in value.values()):
        raise refuse("must hold finite numbers, text, true, false, null or lists of these: write {name: 0.5}")
    return value


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(_is_plain(inner) for inner in value)
    return value is None or isinstance(value, str | int) or (isinstance(value, float) and isfinite(value))


def _budget_or_log(value: Any) -> int | Literal["log"]:
    if value == "log":
        return "log"
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_MICROS:
        raise refuse(f"must be a whole number from 0 to {MAX_MICROS}, or log: write 1_000_000 or log")
    return value


_MICROS_SCHEMA = {"type": "integer", "minimum": 0, "maximum": MAX_MICROS}
_TIME_SCHEMA = {"type": "string", "pattern": "^([01][0-9]|2[0-3]):[0-5][0-9]$"}
_RATIO_SCHEMA = {
    "anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, {"type": "string", "pattern": "^[0-9.]+ ?%$"}],
    "description": "0.25 or 25%",
}
_MULTIPLE_SCHEMA = {
    "anyOf": [
        {"type": "number", "minimum": 0, "maximum": _LARGEST_MULTIPLE},
        {"type": "string", "pattern": "^[0-9.]+ ?%$"},
    ],
    "description": "1.2 or 120%",
}
_BAND_SCHEMA = {
    "type": "array",
    "items": {"type": ["number", "string"]},
    "minItems": 2,
    "maxItems": 2,
    "description": "low and high as numbers or fractions such as 1/3, low <= 1 <= high",
}
_WEEK_SCHEMA = {
    "anyOf": [
        {"type": "array", "items": {"type": "number", "minimum": 0}, "minItems": WEEK_HOURS, "maxItems": WEEK_HOURS},
        {"type": "string", "description": "path of a CSV with the columns dow, hour, traffic_share"},
    ]
}
_CHOSEN_SCHEMA = {
    "anyOf": [{"const": "all"}, {"type": "array", "items": {"type": "string"}, "minItems": 1, "uniqueItems": True}]
}


def _band_text(sides: tuple[Fraction, Fraction]) -> list[str]:
    return [str(side) for side in sides]


def _chosen_text(chosen: Literal["all"] | tuple[str, ...]) -> str | list[str]:
    return chosen if isinstance(chosen, str) else list(chosen)


def _week_text(week: tuple[float, ...] | str) -> str | list[float]:
    return week if isinstance(week, str) else list(week)


def _change_text(change: Fraction) -> str:
    return f"{float(change * 100):+.9f}".rstrip("0").rstrip(".") + "%"


def percent_text(multiple: float) -> str:
    """A multiple of 1 as a file spells it."""
    return f"{multiple * 100:.6f}".rstrip("0").rstrip(".") + "%"


def time_text(value: time) -> str:
    """A time of day as a file spells it."""
    return value.strftime("%H:%M")


Id: TypeAlias = Annotated[str, Field(pattern=_ID)]
Text: TypeAlias = Annotated[str, Field(max_length=400)]
Person: TypeAlias = Annotated[str, Field(min_length=1, max_length=64)]
Micros: TypeAlias = Annotated[int, Field(ge=0, le=MAX_MICROS)]
PositiveMicros: TypeAlias = Annotated[int, Field(ge=1, le=MAX_MICROS)]
Sigma: TypeAlias = Annotated[float, Field(ge=0, le=5)]
Hours: TypeAlias = Annotated[float, Field(gt=0, le=8_784)]
Day: TypeAlias = Annotated[int, Field(ge=1, le=100_000)]
Span: TypeAlias = Annotated[float, Field(gt=0, le=87_840)]
People: TypeAlias = Annotated[int, Field(ge=1, le=MAX_PEOPLE)]
Activity: TypeAlias = Annotated[float, Field(ge=LEAST_ACTIVITY, le=1_000_000)]
Ratio: TypeAlias = Annotated[float, PlainValidator(_ratio), WithJsonSchema(_RATIO_SCHEMA)]
Multiple: TypeAlias = Annotated[
    float,
    PlainValidator(_multiple),
    PlainSerializer(percent_text, return_type=str, when_used="json"),
    WithJsonSchema(_MULTIPLE_SCHEMA),
]
Band: TypeAlias = Annotated[
    tuple[Fraction, Fraction],
    PlainValidator(band),
    PlainSerializer(_band_text),
    WithJsonSchema(_BAND_SCHEMA),
]
Change: TypeAlias = Annotated[
    Fraction,
    PlainValidator(_change),
    PlainSerializer(_change_text),
    WithJsonSchema({"type": "string", "pattern": "^[+-][0-9.]+ ?%$"}),
]
TimeOfDay: TypeAlias = Annotated[
    time,
    PlainValidator(_time_of_day),
    PlainSerializer(time_text, when_used="json"),
    WithJsonSchema(_TIME_SCHEMA),
]
Start: TypeAlias = Annotated[
    datetime,
    PlainValidator(_start),
    PlainSerializer(datetime.isoformat, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "description": "local date, or date and time, without an offset"}),
]
Zone: TypeAlias = Annotated[str, PlainValidator(_zone), WithJsonSchema({"type": "string", "description": "IANA zone"})]
TickMinutes: TypeAlias = Annotated[
    int, PlainValidator(_tick_minutes), WithJsonSchema({"type": "integer", "description": "a divisor of 1440"})
]
Chosen: TypeAlias = Annotated[
    Literal["all"] | tuple[str, ...],
    PlainValidator(_chosen),
    PlainSerializer(_chosen_text, when_used="json"),
    WithJsonSchema(_CHOSEN_SCHEMA),
]
ChosenMarkets: TypeAlias = Annotated[
    Literal["all"] | tuple[str, ...],
    PlainValidator(_chosen_markets),
    PlainSerializer(_chosen_text, when_used="json"),
    WithJsonSchema(_CHOSEN_SCHEMA),
]
Week: TypeAlias = Annotated[
    tuple[float, ...] | str,
    PlainValidator(_week),
    PlainSerializer(_week_text, when_used="json"),
    WithJsonSchema(_WEEK_SCHEMA),
]
Region: TypeAlias = Annotated[str, PlainValidator(_region), WithJsonSchema({"type": ["string", "integer"]})]
DottedClass: TypeAlias = Annotated[
    str,
    PlainValidator(_dotted_class),
    WithJsonSchema({"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*$"}),
]
Options: TypeAlias = Annotated[
    dict[str, Any],
    PlainValidator(_options),
    WithJsonSchema({"type": "object", "description": "the constructor's parameters by name"}),
]
BudgetOrLog: TypeAlias = Annotated[
    int | Literal["log"],
    PlainValidator(_budget_or_log),
    WithJsonSchema({"anyOf": [{"const": "log"}, _MICROS_SCHEMA]}),
]
