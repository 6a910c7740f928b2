"""How recipes and runs look in a notebook."""

import math
import statistics
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import yaml

from graft.eval.rich_html import folded, listed, table
from graft.recipes.recipe import Recipe, to_yaml

if TYPE_CHECKING:
    from graft.eval.records import RunRecord
    from graft.recipes.run import LoadedRun, Run

_POINTS = 200
"""Most points of a curve: more would not be told apart."""

_WIDTH, _HEIGHT, _MARGIN = 300, 56, 3
"""Of a curve, in pixels."""


def recipe_html(recipe: Recipe) -> str:
    """A recipe: what is adapted to what and how, whatever else is not at its default, and, folded, all of it."""
    changed = recipe.model_dump(mode="json", exclude_defaults=True)
    named = {key: {"name": getattr(recipe, key).name} | changed.get(key, {}) for key in ("task", "model", "method")}
    rows = [(key, _flow(value)) for key, value in {**named, **changed, **named}.items()]
    whole = escape(to_yaml(recipe))
    full = f'<pre style="background:transparent;margin:.3em 0">{whole}</pre>'
    return f"<div>{table(('', ''), rows, 'Recipe')}{folded('All settings', full)}</div>"


def _flow(value: Any) -> str:
    """A value as YAML in one line, a mapping without its braces."""
    line = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf)
    return line.removesuffix("\n").removesuffix("\n...").removeprefix("{").removesuffix("}")


def run_html(run: "Run") -> str:
    """A finished run: its scores, its loss, and what it took."""
    state = "was there already" if run.reused else "trained"
    return f"<div>{_headline(run.folder.name, state)}{_record(run.record)}</div>"


def loaded_html(loaded: "LoadedRun") -> str:
    """A loaded run: what it takes and says, and how it came about."""
    names = loaded.record.data.label_names
    says = f"says one of {', '.join(names)}" if names else loaded.record.data.kind.replace("_", " ")
    state = f"loaded on {loaded.device.type}; takes {' and '.join(loaded.columns)}; {says}"
    return f"<div>{_headline(loaded.folder.name, state)}{_record(loaded.record)}</div>"


def _headline(name: str, state: str) -> str:
    return f'<div><b>{escape(name)}</b> <span style="opacity:.75">{escape(state)}</span></div>'


def _record(record: "RunRecord") -> str:
    """Scores by split, the loss as a curve, and figures."""
    from graft.eval.report.words import duration, number, score, size  # brings torch, as a run has

    metrics = list(dict.fromkeys(name for found in record.scores.values() for name in found))
    rows = [
        (split, *(score(found[name], name) if name in found else "" for name in metrics))
        for split, found in record.scores.items()
    ]
    parameters = record.parameters
    steps = f"{record.steps:,}" + (f" of {record.planned_steps:,}" if record.steps < record.planned_steps else "")
    kept = f"; the weights of step {record.kept_step:,} are kept" if record.kept_step != record.steps else ""
    hardware = record.hardware
    outside = f"{parameters.trainable_without_head:,} of them outside the head"
    facts = [
        ("parameters that learn", f"{parameters.trainable:,}, {outside}, of {parameters.total:,}"),
        ("steps", f"{steps}{kept}"),
        ("training", f"{duration(record.train_seconds)}, {number(record.samples_per_second)} examples a second"),
        ("peak memory", size(record.peak_memory_bytes)),
        ("device", f"{hardware.get('device', '')}, {record.recipe.get('speed', {}).get('precision', '')}"),
    ]
    side_by_side = "display:flex;flex-wrap:wrap;gap:0 3em"
    seen = f'<div style="{side_by_side}">{table(("split", *metrics), rows)}{_loss(record)}</div>'
    return f"{seen}{table(('', ''), facts)}{listed(record.warnings)}"


def _loss(record: "RunRecord") -> str:
    """The training loss as a line in the colour of the text."""
    points = _thinned(record.losses)
    if len(points) < 2:
        return ""
    low, high = min(points), max(points)
    span, wide = (high - low) or 1.0, _WIDTH - 2 * _MARGIN
    places = " ".join(
        f"{_MARGIN + wide * at / (len(points) - 1):.1f},{_MARGIN + (_HEIGHT - 2 * _MARGIN) * (high - loss) / span:.1f}"
        for at, loss in enumerate(points)
    )
    told = f"training loss, {record.losses[0]:.3f} at first and {record.losses[-1]:.3f} in the end"
    return (
        f'<figure style="margin:.3em 0"><svg role="img" aria-label="{told}" width="{_WIDTH}" height="{_HEIGHT}">'
        f'<polyline points="{places}" fill="none" stroke="currentColor" stroke-width="1.5" stroke-linejoin="round"/>'
        f'</svg><figcaption style="opacity:.75">{told}</figcaption></figure>'
    )


def _thinned(values: Sequence[float]) -> list[float]:
    """As many values as a curve shows: means of neighbours."""
    share = max(1, math.ceil(len(values) / _POINTS))
    return [statistics.fmean(values[start : start + share]) for start in range(0, len(values), share)]
