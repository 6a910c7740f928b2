"""Pictures for papers and slides: the same ones as SVG, drawn by matplotlib on white."""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.eval.report.framing import in_short, scales, shortened, sides
from graft.eval.report.pictures import Chart, HeatMap, Picture, Ranks, Series, full_title
from graft.eval.report.styles import DARK_ON_LIGHT, MATPLOTLIB_DASHES, MATPLOTLIB_MARKS, style
from graft.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LOW, _MIDDLE, _HIGH = "#f0a878", "#f6f7f8", "#86bdeb"
_MUTED, _GRID = "#57606a", "#e3e6ea"

_SETTINGS: Any = {  # matplotlib's types list every name that there is
    "font.size": 10,
    "axes.edgecolor": "#8c959f",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "text.color": DARK_ON_LIGHT[0],
    "text.parse_math": False,  # a label with dollar signs is no formula
    "svg.fonttype": "path",  # a text as outlines looks the same wherever it is opened
    "svg.hashsalt": "graft",  # the same pictures give the same files
    "figure.dpi": 100,
}


def draw(pictures: Sequence[Picture], folder: Path) -> list[Path]:
    """Write each picture as `<name>.svg`.

    Args:
        pictures: What to draw.
        folder: Where to; made if it is not there.

    Returns:
        The files, in the order of the pictures.

    Raises:
        GraftError: The folder cannot be written.
    """
    import io

    files = []
    for picture in pictures:
        with _figure(picture) as figure:
            stream = io.BytesIO()
            figure.savefig(
                stream, format="svg", bbox_inches="tight", metadata={"Date": None, "Title": full_title(picture)}
            )
        files.append(folder / f"{picture.name}.svg")
        write_atomically(files[-1], stream.getvalue())
    return files


@contextmanager
def _figure(picture: Picture) -> Iterator["Figure"]:
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(_SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # a script that the font lacks
        figure = Figure(figsize=_size(picture), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.set_title(full_title(picture), loc="left", fontsize=11)
        match picture:
            case Chart():
                _chart(axes, picture)
            case HeatMap():
                _heat_map(figure, axes, picture)
            case Ranks():
                _ranks(axes, picture)
        yield figure


def _size(picture: Picture) -> tuple[float, float]:
    """Width and height in inches."""
    match picture:
        case HeatMap():
            return 2.4 + 1.1 * len(picture.columns), 1.2 + 0.5 * len(picture.rows)
        case Ranks():
            return 6.4, 1.2 + 0.34 * len(picture.labels)
        case Chart():
            return 6.4, 4.2


def _chart(axes: "Axes", chart: Chart) -> None:
    for level in chart.levels:
        low, high = level.values[0], level.values[-1]
        if low == high:
            axes.axhline(low, color=DARK_ON_LIGHT[0], linewidth=1, linestyle=":", zorder=1)
        else:
            axes.axhspan(low, high, color=DARK_ON_LIGHT[0], alpha=0.08, linewidth=0, zorder=0)
        axes.text(0.01, high, level.label, transform=axes.get_yaxis_transform(), va="bottom", color=_MUTED, fontsize=9)
    places = iter(sides(chart))
    for one in chart.series:
        if one.form == "points":
            _points(axes, one, next(places))
        else:
            _line(axes, one)
    _frame(axes, chart)
    lines = [one for one in chart.series if one.form in ("line", "marked line")]
    if lines:
        labels = [f" {shortened(one.label)}" for one in lines]  # matplotlib hides labels that begin with "_"
        drawn = [line for line in axes.get_lines() if line.get_gid() == "method"]
        axes.legend(drawn, labels, frameon=False, fontsize=9, handlelength=3)


def _frame(axes: "Axes", chart: Chart) -> None:
    axes.set_xlabel(chart.x.title)
    axes.set_ylabel(chart.y.title)
    for name, axis, scale in zip("xy", (chart.x, chart.y), scales(chart), strict=True):
        ends = (10**scale.low, 10**scale.high) if axis.log else (scale.low, scale.high)
        axes.set(**{f"{name}scale": "log" if axis.log else "linear", f"{name}lim": ends})
        if scale.ticks is not None:
            labels = [in_short(tick) for tick in scale.ticks]
            axes.set(**{f"{name}ticks": scale.ticks, f"{name}ticklabels": labels})
    axes.minorticks_off()


def _line(axes: "Axes", series: Series) -> None:
    if series.form == "front":
        axes.step(series.x, series.y, where="post", color=_MUTED, linewidth=1, zorder=1)
        return
    look = style(series.style or 0)
    colour = DARK_ON_LIGHT[look.colour]
    if series.low and None not in (*series.low, *series.high):
        low, high = ([value or 0.0 for value in part] for part in (series.low, series.high))
        axes.fill_between(series.x, low, high, color=colour, alpha=0.13, linewidth=0)
    (line,) = axes.plot(series.x, series.y, color=colour, linewidth=1.6, linestyle=MATPLOTLIB_DASHES[look.dash])
    line.set_gid("method")
    if series.form == "marked line":
        line.set_marker(MATPLOTLIB_MARKS[look.mark])
        line.set_markersize(4.5)


def _points(axes: "Axes", series: Series, side: str) -> None:
    look = style(series.style or 0)
    colour, mark = DARK_ON_LIGHT[look.colour], MATPLOTLIB_MARKS[look.mark]
    for x, y, low, high in zip(series.x, series.y, series.low, series.high, strict=True):
        if low is not None and high is not None:
            axes.errorbar(x, y, yerr=[[y - low], [high - y]], color=colour, linewidth=1.2, capsize=3, zorder=2)
    filling = "none" if series.hollow else colour
    axes.scatter(series.x, series.y, s=46, marker=mark, facecolors=filling, edgecolors=colour, linewidths=1.5, zorder=3)
    up, _, across = side.partition(" ")
    away = {
        "right": (6, "left"),
        "left": (-6, "right"),
        "top": (4, "bottom"),
        "bottom": (-4, "top"),
        "middle": (0, "center"),
    }
    axes.annotate(
        shortened(series.label),
        (series.x[0], series.y[0]),
        xytext=(away[across][0], away[up][0]),
        textcoords="offset points",
        ha=away[across][1],
        va=away[up][1],
        fontsize=9,
    )


def _heat_map(figure: "Figure", axes: "Axes", heat: HeatMap) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    values = [[math.nan if value is None else value for value in row] for row in heat.values]
    span = max((abs(value) for row in values for value in row if math.isfinite(value)), default=1.0) or 1.0
    colours = LinearSegmentedColormap.from_list("differences", [_LOW, _MIDDLE, _HIGH])
    image = axes.imshow(values, cmap=colours, vmin=-span, vmax=span, aspect="auto")
    axes.set_xticks(range(len(heat.columns)), [shortened(column) for column in heat.columns])
    axes.set_yticks(range(len(heat.rows)), [shortened(row) for row in heat.rows])
    axes.xaxis.tick_top()
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for row, cells in enumerate(heat.cells):
        for column, cell in enumerate(cells):
            axes.text(column, row, "\n".join(cell), ha="center", va="center", fontsize=9)
    figure.colorbar(image, ax=axes, label=heat.unit, shrink=0.9).outline.set_visible(False)


def _ranks(axes: "Axes", ranks: Ranks) -> None:
    for row, (number, rank) in enumerate(zip(ranks.styles, ranks.ranks, strict=True)):
        look = style(number)
        colour = DARK_ON_LIGHT[look.colour]
        axes.errorbar(rank, row, xerr=ranks.critical / 2, color=colour, linewidth=2.5, zorder=2)
        axes.scatter([rank], [row], s=46, marker=MATPLOTLIB_MARKS[look.mark], color=colour, zorder=3)
    axes.set_yticks(range(len(ranks.labels)), [shortened(label) for label in ranks.labels])
    axes.set_ylim(len(ranks.labels) - 0.5, -0.5)
    axes.set_xlabel("average rank, 1 the best")
    axes.grid(visible=False, axis="y")
