"""A comparison of policies as a table, and as one page that opens offline."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

import numpy as np
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from agents.evaluation import OVER, Summary
from agents.statistics import Interval
from experiments.evaluation import Comparison
from experiments.report.text import escaped

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#a8508b", "#56b4e9", "#b87700", "#16202a", "#8a95a0")
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{css}
.scroll {{ max-width: max-content; }}
td, th {{ padding: 5px 8px; }}
figure {{ margin: 0; }}</style>
<script>{plotly}</script>
</head>
<body>
<header><h1>{title}</h1><p class="lead">{lead}</p></header>
<main>
<section><h2>Policies</h2><div class="scroll"><table><thead><tr>{headings}</tr></thead>
<tbody>{rows}</tbody></table></div>
<p class="hint">{notes}</p></section>
{plots}
</main>
</body>
</html>
"""


def headings(comparison: Comparison) -> list[str]:
    """Of the table's columns."""
    score = ["score"] if comparison.ground.targeted else []
    over = ["over target"] if comparison.ground.targeted else []
    return [
        "policy", *score, "of hindsight", "of guarded hindsight", f"gain over {comparison.reference}, points", "IQM",
        "5th percentile", "spend", *over, "refused", "µs a decision",
    ]  # fmt: skip


def cells(comparison: Comparison, summary: Summary) -> list[str]:
    """A policy's row, in percent with the ends of the 95 % intervals."""
    score = [_percent(summary.score)] if comparison.ground.targeted else []
    over = [] if summary.over_target is None else [f"{summary.over_target:.1%}"]
    return [
        summary.policy,
        *score,
        _percent(summary.hindsight),
        _percent(summary.guarded),
        "" if summary.gain is None else _percent(summary.gain, sign="+"),
        f"{summary.interquartile_mean:.2%}",
        f"{summary.fifth_percentile:.2%}",
        f"{summary.spend:.1%}",
        *over,
        f"{summary.refused:.1%}",
        f"{summary.microseconds:.1f}",
    ]


def ordered(comparison: Comparison) -> list[Summary]:
    """The best score first."""
    return sorted(comparison.summaries, key=lambda each: -each.score.mean)


def markdown(comparison: Comparison) -> str:
    """The table, for a study."""
    names = headings(comparison)
    lines = [f"| {' | '.join(names)} |", "|---" + "|---:" * (len(names) - 1) + "|"]
    lines += [f"| {' | '.join(cells(comparison, each))} |" for each in ordered(comparison)]
    return "\n".join(lines)


def lead(comparison: Comparison) -> str:
    """On what the policies were compared, in a line."""
    told = dict(comparison.ground.told)
    seeds = ", ".join(str(seed) for seed in told.pop("seeds"))
    episodes = told.pop("episodes")
    more = "".join(f", {name.replace('_', ' ')} {value:,}" for name, value in told.items())
    target = ", with a target cost per unit of value" if comparison.ground.targeted else ""
    return f"{episodes:,} episodes under each of the seeds {seeds}{more}{target}; the same for every policy"


def notes(comparison: Comparison) -> str:
    """How to read the table."""
    score = (
        "score = value · min(1, (target / average cost)²) ÷ the optimum's value, of which gain, IQM and 5th percentile "
        f"are; over target = average cost more than {OVER:.0%} above it; "
        if comparison.ground.targeted
        else ""
    )
    return (
        f"{score}of hindsight = value ÷ that of the hindsight optimum; guarded hindsight = its threshold known, steps "
        "of a quarter at most; brackets = 95 % intervals, bootstrap over campaigns; gain = paired by episode; IQM = "
        "interquartile mean; refused = share of proposed bids that the guard refused."
    )


def page(comparison: Comparison) -> str:
    """The whole page."""
    return _PAGE.format(
        title=escaped(f"Policies on {comparison.ground.name}"),
        css=files("experiments.report").joinpath("page.css").read_text(encoding="utf-8"),
        plotly=get_plotlyjs(),
        lead=escaped(lead(comparison)),
        headings="".join(_cell(name, "th", left=not k) for k, name in enumerate(headings(comparison))),
        rows="\n".join(_row(cells(comparison, each)) for each in ordered(comparison)),
        notes=escaped(notes(comparison)),
        plots="\n".join(
            f"<section><h2>{title}</h2><p class='hint'>{hint}</p><figure>{_drawn(figure)}</figure></section>"
            for title, hint, figure in (
                ("Score", "Mean and 95 % interval.", _means(comparison)),
                ("Gain", f"Paired, over {escaped(comparison.reference)}, points.", _gains(comparison)),
                ("Episodes", "Share of the episodes with at most this score.", _spread(comparison)),
            )
        ),
    )


def _percent(interval: Interval, sign: str = "") -> str:
    mean, low, high = (f"{100 * x:{sign}.2f}" for x in (interval.mean, interval.low, interval.high))
    return f"{mean} [{low}, {high}]"


def _row(texts: Sequence[str]) -> str:
    return "<tr>" + "".join(_cell(text, "td", left=not k) for k, text in enumerate(texts)) + "</tr>"


def _cell(text: str, tag: str, *, left: bool) -> str:
    return f"<{tag}{' class=word' if left else ''}>{escaped(text)}</{tag}>"


def _drawn(figure: go.Figure) -> str:
    drawn: str = figure.to_html(full_html=False, include_plotlyjs=False, config={"displayModeBar": False})
    return drawn


def _layout(height: int, **axes: object) -> go.Layout:
    margin = {"l": 200, "r": 24, "t": 12, "b": 44}
    return go.Layout(height=height, width=1000, margin=margin, template="plotly_white", font={"size": 13}, **axes)


def _points(rows: Sequence[tuple[str, Interval]], axis: str) -> go.Figure:
    """A dot with its interval for each policy, in percent; the best on top."""
    rows = rows[::-1]
    means = [100 * each.mean for _, each in rows]
    figure = go.Figure(layout=_layout(90 + 30 * len(rows), xaxis={"title": axis}))
    figure.add_scatter(
        x=means,
        y=[escaped(name) for name, _ in rows],
        mode="markers",
        marker={"size": 9, "color": _COLOURS[0]},
        error_x={
            "array": [100 * each.high - mean for (_, each), mean in zip(rows, means, strict=True)],
            "arrayminus": [mean - 100 * each.low for (_, each), mean in zip(rows, means, strict=True)],
            "thickness": 1.5,
        },
    )
    return figure


def _means(comparison: Comparison) -> go.Figure:
    return _points([(each.policy, each.score) for each in ordered(comparison)], "score, % of hindsight")


def _gains(comparison: Comparison) -> go.Figure:
    rows = [(each.policy, each.gain) for each in ordered(comparison) if each.gain is not None]
    figure = _points(rows, f"gain over {comparison.reference}, points")
    figure.add_vline(x=0, line={"color": "#8a95a0", "width": 1})
    return figure


def _spread(comparison: Comparison) -> go.Figure:
    """The distribution of the score over episodes, for each policy."""
    least = 100 * min(max(each.fifth_percentile, 0.0) for each in comparison.summaries)
    axes = {
        "xaxis": {"title": "score, % of hindsight", "range": [least, 101]},
        "yaxis": {"title": "share of episodes, %", "range": [0, 100]},
    }
    figure = go.Figure(layout=_layout(460, **axes))
    share = np.linspace(0, 1, 201)
    for rank, each in enumerate(ordered(comparison)):
        scores = 100 * np.quantile(comparison.evaluation.scores[each.policy].score, share)
        line = {
            "color": _COLOURS[rank % len(_COLOURS)],
            "width": 1.5,
            "dash": "solid" if rank < len(_COLOURS) else "dot",
        }
        figure.add_scatter(x=scores, y=100 * share, name=escaped(each.policy), mode="lines", line=line)
    return figure
