"""Small SVG charts for pages read on the web and in print: panels above each other over one horizontal axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape

from engine.units import Float64

BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072b2", "#d55e00", "#009e73", "#a8508b", "#8a95a0"
"""Of Okabe and Ito's colours, which the colour-blind tell apart and a grey print keeps apart, and a grey."""

_WIDTH, _LEFT, _RIGHT, _BOTTOM = 800, 62, 30, 44
_TITLE_ROW, _NAMES = 34, 26  # above the first panel: the title, and the names of shades where there are any
_TITLE, _GAP = 26, 22  # above and below a panel's plot
_INK, _FAINT = "#16202a", "#dfe4e8"
_LETTER = 6.1  # width of a letter of 11 pixels, on average

Label = Callable[[float], str]


@dataclass(frozen=True)
class Axis:
    """Where an axis begins and ends, and what stands at its marks."""

    low: float
    high: float
    marks: tuple[float, ...]
    label: Label
    log: bool = False

    def place(self, value: float) -> float:
        """A value's place between the ends, 0 to 1, and beyond them what lies beyond."""
        if self.log:
            return math.log(max(value, 1e-12) / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Line:
    """Points joined in order, where they are known; `steps` holds each value until the next."""

    name: str
    colour: str
    x: Float64
    y: Float64
    steps: bool = False
    dashed: bool = False


@dataclass(frozen=True)
class Dots:
    """Points on their own."""

    name: str
    colour: str
    x: Float64
    y: Float64
    hollow: bool = False


@dataclass(frozen=True)
class Between:
    """What lies between two curves; with `upright`, an upright stroke at every point instead."""

    name: str
    colour: str
    x: Float64
    low: Float64
    high: Float64
    upright: bool = False


@dataclass(frozen=True)
class Bars:
    """Upright bars from 0, `width` of the horizontal axis wide, each beginning at its x."""

    name: str
    colour: str
    x: Float64
    y: Float64
    width: float


Series = Line | Dots | Between | Bars


@dataclass(frozen=True)
class Span:
    """A stretch of the horizontal axis, shaded in every panel and named above; as narrow as a line where it is one."""

    low: float
    high: float
    name: str


@dataclass(frozen=True)
class Panel:
    """One chart of a picture; its title says what the upright axis shows, and in which unit."""

    title: str
    axis: Axis
    series: tuple[Series, ...]
    height: int = 130


@dataclass(frozen=True)
class Picture:
    """A title, the panels, and the axis they share."""

    title: str
    below: str
    axis: Axis
    panels: tuple[Panel, ...]
    spans: tuple[Span, ...] = field(default=())

    def svg(self) -> str:
        """The picture as the text of an SVG file."""
        return "\n".join(_picture(self)) + "\n"


def linear(values: Sequence[float], label: Label, *, least: float = 0.0, marks: int = 4) -> Axis:
    """An axis from `least`, or what lies below it, to a round number above the values."""
    known = [value for value in values if math.isfinite(value)]
    low, high = min([least, *known]), max([least, *known])
    high = high if high > low else low + 1
    rough = (high - low) / marks
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * times for times in (1, 2, 2.5, 5, 10) if power * times >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return Axis(first * step, last * step, tuple(step * place for place in range(first, last + 1)), label)


def _picture(of: Picture) -> Iterator[str]:
    height = _top(of) + sum(_TITLE + panel.height + _GAP for panel in of.panels) - _GAP + _BOTTOM
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'font-family="Helvetica, Arial, sans-serif" font-size="11" fill="{_INK}">'
    )
    yield f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>'
    yield f'<text x="{_LEFT}" y="22" font-size="15" font-weight="bold">{escape(of.title)}</text>'
    yield from _spans(of, height)
    top = _top(of)
    for panel in of.panels:
        yield from _panel(of, panel, top + _TITLE)
        top += _TITLE + panel.height + _GAP
    yield from _below(of, top - _GAP)
    yield "</svg>"


def _spans(of: Picture, height: int) -> Iterator[str]:
    """Shades, and their names in two rows, so that neighbours do not run into each other."""
    ends = [-math.inf, -math.inf]
    for place, span in enumerate(sorted(of.spans, key=lambda each: each.low)):
        left, right = _x(of, span.low), _x(of, span.high)
        wide = right - left > 2
        path = f"M{left:.1f} {_top(of)}h{max(right - left, 1.2):.1f}V{height - _BOTTOM}H{left:.1f}Z"
        yield f'<path d="{path}" fill="#f0b429" fill-opacity="{(0.18, 0.34)[place % 2] if wide else 0.9}"/>'
        middle, half = (left + right) / 2, len(span.name) * _LETTER / 2
        middle = min(max(middle, _LEFT + half), _WIDTH - _RIGHT - half)
        row = 1 if middle - half > ends[1] + 4 else 0
        ends[row] = middle + half
        yield f'<text x="{middle:.1f}" y="{40 + 12 * row}" text-anchor="middle">{escape(span.name)}</text>'


def _top(of: Picture) -> int:
    return _TITLE_ROW + (_NAMES if of.spans else 0)


def _x(of: Picture, value: float) -> float:
    return _LEFT + of.axis.place(value) * (_WIDTH - _LEFT - _RIGHT)


def _panel(of: Picture, panel: Panel, top: int) -> Iterator[str]:
    yield f'<text x="{_LEFT}" y="{top - 8}" font-weight="bold">{escape(panel.title)}</text>'
    yield from _legend(panel, top - 8)
    for mark in panel.axis.marks:
        y = _y(panel, top, mark)
        yield f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" stroke="{_FAINT}"/>'
        yield f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{escape(panel.axis.label(mark))}</text>'
    for series in panel.series:
        yield from _drawn(of, panel, top, series)
    yield f'<path d="M{_LEFT} {top}V{top + panel.height}H{_WIDTH - _RIGHT}" fill="none" stroke="{_INK}"/>'


def _legend(panel: Panel, y: int) -> Iterator[str]:
    right = float(_WIDTH - _RIGHT)
    for series in reversed([each for each in panel.series if each.name]):
        right -= len(series.name) * _LETTER
        yield f'<text x="{right:.1f}" y="{y}">{escape(series.name)}</text>'
        right -= 24
        middle = y - 4
        match series:
            case Line():
                dash = ' stroke-dasharray="5 3"' if series.dashed else ""
                yield f'<path d="M{right:.1f} {middle}h18" stroke="{series.colour}" stroke-width="2"{dash}/>'
            case Dots():
                yield _dot(right + 9, middle, series)
            case Between() if series.upright:
                yield f'<path d="M{right + 9:.1f} {middle - 6}v12" stroke="{series.colour}" stroke-opacity="0.5"/>'
            case _:
                opacity = 0.25 if isinstance(series, Between) else 0.8
                yield (
                    f'<rect x="{right + 3:.1f}" y="{middle - 5}" width="12" height="10" fill="{series.colour}" '
                    f'fill-opacity="{opacity}"/>'
                )
        right -= 12


def _y(panel: Panel, top: int, value: float) -> float:
    return top + panel.height * (1 - min(max(panel.axis.place(value), 0.0), 1.0))


def _drawn(of: Picture, panel: Panel, top: int, series: Series) -> Iterator[str]:
    def y(value: float) -> float:
        return _y(panel, top, value)

    match series:
        case Line():
            dash = ' stroke-dasharray="5 3"' if series.dashed else ""
            path = _path(of, y, series)
            yield f'<path d="{path}" fill="none" stroke="{series.colour}" stroke-width="1.7"{dash}/>'
        case Dots():
            for at, value in zip(series.x, series.y, strict=True):
                yield _dot(_x(of, at), y(value), series)
        case Between() if series.upright:
            strokes = zip(series.x, series.low, series.high, strict=True)
            path = "".join(f"M{_x(of, at):.1f} {y(low):.1f}V{y(high):.1f}" for at, low, high in strokes)
            yield f'<path d="{path}" stroke="{series.colour}" stroke-opacity="0.5"/>'
        case Between():
            there = [f"{_x(of, at):.1f} {y(high):.1f}" for at, high in zip(series.x, series.high, strict=True)]
            back = [f"{_x(of, at):.1f} {y(low):.1f}" for at, low in zip(series.x, series.low, strict=True)]
            yield f'<path d="M{"L".join(there + back[::-1])}Z" fill="{series.colour}" fill-opacity="0.25"/>'
        case Bars():
            for at, value in zip(series.x, series.y, strict=True):
                left, right, ends = _x(of, at), _x(of, at + series.width), sorted((y(0), y(value)))
                yield (
                    f'<rect x="{left:.1f}" y="{ends[0]:.1f}" width="{right - left:.1f}" '
                    f'height="{ends[1] - ends[0]:.1f}" fill="{series.colour}" fill-opacity="0.8"/>'
                )


def _path(of: Picture, y: Callable[[float], float], line: Line) -> str:
    parts: list[str] = []
    joined = False
    for at, value in zip(line.x, line.y, strict=True):
        if not math.isfinite(value):
            joined = False
            continue
        if joined and line.steps:
            parts.append(f"H{_x(of, at):.1f}V{y(value):.1f}")
        else:
            parts.append(f"{'L' if joined else 'M'}{_x(of, at):.1f} {y(value):.1f}")
        joined = True
    return "".join(parts)


def _dot(x: float, y: float, of: Dots) -> str:
    fill = f'fill="#ffffff" stroke="{of.colour}" stroke-width="1.4"' if of.hollow else f'fill="{of.colour}"'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" {fill}/>'


def _below(of: Picture, bottom: int) -> Iterator[str]:
    for mark in of.axis.marks:
        x = _x(of, mark)
        yield f'<path d="M{x:.1f} {bottom}v4" stroke="{_INK}"/>'
        yield f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{escape(of.axis.label(mark))}</text>'
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    yield f'<text x="{middle:.1f}" y="{bottom + 34}" text-anchor="middle">{escape(of.below)}</text>'
