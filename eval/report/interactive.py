"""Pictures as plotly draws them: plain mappings, whose colours are names that the page gives a value, light or dark.

Text in plotly is a kind of HTML, so that whatever comes from a user is escaped here.
"""

import html
import itertools
import math
from collections.abc import Iterable
from typing import Any

from graft.eval.report.framing import Scale, in_short, scales, shortened, sides
from graft.eval.report.pictures import Axis, Chart, HeatMap, Picture, Ranks, Series
from graft.eval.report.styles import style

Spec = dict[str, Any]


def figure(picture: Picture) -> Spec:
    """Describe a picture to plotly.

    Returns:
        `data`, `layout` and `height` in pixels. Colours are "@" and a name of the page's palette, with a "/" and an
        opacity where it is not whole.
    """
    match picture:
        case Chart():
            return _chart(picture)
        case HeatMap():
            return _heat_map(picture)
        case Ranks():
            return _ranks(picture)


def plain(text: str) -> str:
    """Text as plotly shows it literally: neither a tag, nor an entity, nor a formula between dollar signs."""
    return html.escape(" ".join(text.split()), quote=False).replace("$", "&#36;")


def _lines(lines: Iterable[str]) -> str:
    return "<br>".join(map(plain, lines))


def _rounded(values: Iterable[float | None]) -> list[float | None]:
    """Values with six digits, which are more than a picture shows."""
    return [None if value is None or not math.isfinite(value) else float(f"{value:.6g}") for value in values]


def _layout(height: int, **changes: Any) -> Spec:
    return {
        "paper_bgcolor": "@paper/0",
        "plot_bgcolor": "@paper/0",
        "font": {"color": "@text", "size": 13},
        "margin": {"l": 56, "r": 16, "t": 12, "b": 48},
        "hoverlabel": {
            "bgcolor": "@paper",
            "bordercolor": "@line",
            "font": {"color": "@text", "size": 13},
            "align": "left",
        },
        "hovermode": "closest",
        "dragmode": False,
        "showlegend": False,
        "height": height,
        **changes,
    }


def _axis(title: str, **changes: Any) -> Spec:
    return {
        "title": {"text": plain(title), "standoff": 8, "font": {"size": 13}},
        "gridcolor": "@grid",
        "linecolor": "@line",
        "zeroline": False,
        "automargin": True,
        "fixedrange": True,
        **changes,
    }


def _scaled(axis: Axis, scale: Scale) -> Spec:
    drawn = _axis(axis.title, type="log" if axis.log else "linear", range=[scale.low, scale.high])
    if scale.ticks is not None:
        drawn |= {"tickmode": "array", "tickvals": list(scale.ticks), "ticktext": [*map(in_short, scale.ticks)]}
    return drawn


def _chart(chart: Chart) -> Spec:
    lines = any(one.form in ("line", "marked line") for one in chart.series)
    places = iter(sides(chart))
    data = [
        trace
        for one in chart.series
        for trace in (_line(one) if one.form != "points" else [_points(one, next(places))])
    ]
    x, y = scales(chart)
    shapes, notes = _levels(chart)
    layout = _layout(
        380,
        xaxis=_scaled(chart.x, x),
        yaxis=_scaled(chart.y, y),
        shapes=shapes,
        annotations=notes,
        legend={"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0, "xanchor": "left", "itemclick": "toggle"},
    )
    return {"data": data, "layout": layout | ({"showlegend": True} if lines else {})}


def _levels(chart: Chart) -> tuple[list[Spec], list[Spec]]:
    """Lines and bands across, with their names at the left."""
    shapes: list[Spec] = []
    notes: list[Spec] = []
    across = {"xref": "paper", "x0": 0, "x1": 1, "yref": "y"}
    for level in chart.levels:
        low, high = level.values[0], level.values[-1]
        band = len(level.values) > 1
        line = {"width": 0} if band else {"color": "@text", "width": 1.2, "dash": "dot"}
        shape = {
            "type": "rect" if band else "line",
            **across,
            "y0": low,
            "y1": high,
            "line": line,
            "layer": "below" if band else "between",
        }
        shapes.append(shape | ({"fillcolor": "@text/0.08"} if band else {}))
        notes.append(
            {
                "text": plain(level.label),
                "xref": "paper",
                "x": 0,
                "xanchor": "left",
                "yref": "y",
                "y": math.log10(high) if chart.y.log else high,
                "yanchor": "bottom",
                "showarrow": False,
                "font": {"color": "@muted", "size": 12},
            }
        )
    return shapes, notes


def _trace(series: Series, colour: str, **changes: Any) -> Spec:
    return {
        "type": "scatter",
        "name": plain(series.label),
        "x": _rounded(series.x),
        "y": _rounded(series.y),
        "hoverinfo": "text",
        "hovertext": [_lines(lines) for lines in series.hover],
        "marker": {"color": colour, "symbol": style(series.style or 0).mark, "size": 7},
        **changes,
    }


def _points(series: Series, side: str) -> Spec:
    colour = f"@m{style(series.style or 0).colour}"
    trace = _trace(
        series,
        colour,
        mode="markers+text",
        text=[plain(shortened(series.label))],
        textposition=side,
        textfont={"color": "@text", "size": 12},
        cliponaxis=False,
        **_error_bars(series, colour),
    )
    trace["marker"] |= {"size": 10, "line": {"width": 2, "color": colour}}
    if series.hollow:
        trace["marker"]["symbol"] += "-open"
    return trace


def _line(series: Series) -> list[Spec]:
    if series.form == "front":
        line = {"color": "@muted", "width": 1.2, "shape": "hv"}
        return [_trace(series, "@muted", mode="lines", line=line, showlegend=False) | {"hoverinfo": "skip"}]
    look = style(series.style or 0)
    line = {"color": f"@m{look.colour}", "width": 2, "dash": look.dash}
    mode = "lines" if series.form == "line" else "lines+markers"
    group = str(series.style)
    return [*_band(series, look.colour), _trace(series, f"@m{look.colour}", mode=mode, line=line, legendgroup=group)]


def _error_bars(series: Series, colour: str) -> Spec:
    if not any(value is not None for value in series.low):
        return {}
    above = [None if high is None else high - y for y, high in zip(series.y, series.high, strict=True)]
    below = [None if low is None else y - low for y, low in zip(series.y, series.low, strict=True)]
    return {
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": _rounded(above),
            "arrayminus": _rounded(below),
            "color": colour,
            "thickness": 1.5,
            "width": 4,
        }
    }


def _band(series: Series, colour: int) -> list[Spec]:
    """A band from low to high, drawn as one outline."""
    if not series.low or any(value is None for value in (*series.low, *series.high)):
        return []
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "x": _rounded([*series.x, *reversed(series.x)]),
            "y": _rounded([*series.high, *reversed(series.low)]),
            "fill": "toself",
            "fillcolor": f"@m{colour}/0.13",
            "line": {"width": 0},
            "hoverinfo": "skip",
            "showlegend": False,
            "legendgroup": str(series.style),
            "name": plain(series.label),
        }
    ]


def _heat_map(heat: HeatMap) -> Spec:
    span = max((abs(value) for row in heat.values for value in row if value is not None), default=1.0) or 1.0
    rows = range(len(heat.rows))
    trace: Spec = {
        "type": "heatmap",
        "x": list(range(len(heat.columns))),
        "y": list(rows),
        "z": [_rounded(row) for row in heat.values],
        "zmin": -span,
        "zmax": span,
        "zmid": 0,
        "xgap": 2,
        "ygap": 2,
        "colorscale": [[0, "@low"], [0.5, "@middle"], [1, "@high"]],
        "text": [["<br>".join(map(plain, cell)) for cell in row] for row in heat.cells],
        "texttemplate": "%{text}",
        "textfont": {"color": "@text", "size": 12},
        "hoverinfo": "text",
        "hovertext": [[_lines(cell) for cell in row] for row in heat.hover],
        "hoverongaps": False,
        "colorbar": {
            "title": {"text": plain(heat.unit), "side": "right", "font": {"size": 12}},
            "thickness": 10,
            "outlinewidth": 0,
        },
    }
    quiet = {"showgrid": False, "ticks": ""}
    across = {
        "tickmode": "array",
        "tickvals": list(range(len(heat.columns))),
        "ticktext": [plain(shortened(c)) for c in heat.columns],
    }
    labels = {"tickmode": "array", "tickvals": list(rows), "ticktext": [plain(shortened(row)) for row in heat.rows]}
    x = _axis("", side="top", **quiet, **across)
    y = _axis("", autorange="reversed", **quiet, **labels)
    missing = [
        {"text": "no result", "x": column, "y": row, "showarrow": False, "font": {"color": "@muted", "size": 12}}
        for row, column in itertools.product(rows, range(len(heat.columns)))
        if heat.values[row][column] is None
    ]
    layout = _layout(64 + 46 * len(heat.rows), xaxis=x, yaxis=y, annotations=missing)
    layout["margin"] |= {"t": 40, "b": 12}
    return {"data": [trace], "layout": layout}


def _ranks(ranks: Ranks) -> Spec:
    rows = list(range(len(ranks.labels)))
    data = []
    for row, (number, rank, hover) in enumerate(zip(ranks.styles, ranks.ranks, ranks.hover, strict=True)):
        look = style(number)
        colour = f"@m{look.colour}"
        half = _rounded([ranks.critical / 2])
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": _rounded([rank]),
                "y": [row],
                "marker": {"color": colour, "symbol": look.mark, "size": 13},
                "error_x": {"type": "data", "array": half, "color": colour, "thickness": 3, "width": 0},
                "hoverinfo": "text",
                "hovertext": [_lines(hover)],
                "name": plain(ranks.labels[row]),
            }
        )
    whole = list(range(1, len(rows) + 1))
    x = _axis("average rank, 1 the best", tickmode="array", tickvals=whole, ticktext=[*map(str, whole)])
    ticks = {"tickmode": "array", "tickvals": rows, "ticktext": [plain(shortened(label)) for label in ranks.labels]}
    y = _axis("", range=[len(rows) - 0.5, -0.5], showgrid=False, **ticks)
    return {"data": data, "layout": _layout(90 + 34 * len(rows), xaxis=x, yaxis=y)}
