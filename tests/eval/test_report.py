"""The report: what it says, in both forms, and what it does where something is missing."""

import json
import math
import re
import shlex
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest
from invented_comparison import HOSTILE, invent

from graft.errors import GraftError
from graft.eval.comparison import Cost
from graft.eval.report import write_report, writing
from graft.eval.report.commands import commands
from graft.eval.report.contents import compose
from graft.eval.report.costs import cost_charts
from graft.eval.report.curves import curve_charts
from graft.eval.report.framing import scales, sides
from graft.eval.report.interactive import figure
from graft.eval.report.markdown import escape
from graft.eval.report.overview import critical_difference, heat_maps, rank_pictures
from graft.eval.report.pictures import Axis, Chart, Series, named
from graft.eval.report.sources import Material, collect
from graft.eval.report.styles import DARK_ON_LIGHT, LIGHT_ON_DARK, MARKS, style
from graft.eval.report.words import cost, difference, number, percent, score

MINUS = "\N{MINUS SIGN}"
METHODS = ("full", "lora", "bitfit", "ia3")


@pytest.fixture(scope="module")
def invented(tmp_path_factory):
    """Three tasks, four methods of which one has no solitary cost, three seeds."""
    root = tmp_path_factory.mktemp("runs")
    return invent(root, tasks=("mrpc", "rte", "cola"), methods=METHODS, seeds=3, examples=80), root


@pytest.fixture(scope="module")
def material(invented):
    return collect(invented[0], [invented[1]])


@pytest.fixture(scope="module")
def written(invented, tmp_path_factory):
    comparison, root = invented
    out = tmp_path_factory.mktemp("out")
    return comparison, write_report(comparison, [root], out, figures=out / "figures")


class _Outline(HTMLParser):
    """Collects what a page is made of."""

    def __init__(self):
        super().__init__()
        self.tags, self.levels, self.ids, self.text, self.inside = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))
        self.ids += [value for key, value in attrs if key == "id"]

    def handle_endtag(self, tag):
        if tag in self.inside:
            while self.inside.pop() != tag:
                pass

    def handle_data(self, data):
        if not {"script", "style"} & {*self.inside}:
            self.text.append(data)


def outline(file):
    found = _Outline()
    found.feed(file.read_text(encoding="utf-8"))
    return found


def test_both_forms_open_with_every_methods_sentence(written):
    comparison, (page, markdown, *_) = written
    told = " ".join("".join(outline(page).text).replace("\u00a0", " ").split())
    listed = markdown.read_text(encoding="utf-8")
    for one in (*comparison.suite, *comparison.results):
        assert one.sentence in told
        assert escape(one.sentence.partition(": ")[2]) in listed
    assert told.index(comparison.suite[0].sentence) < told.index("All tasks")
    assert listed.index("## What the evidence supports") < listed.index("## Pictures") < listed.index("## Scores")


def test_the_page_is_whole_in_itself_and_small_enough_to_send(written):
    page = written[1][0]
    text = page.read_text(encoding="utf-8")
    loading = [attrs for tag, attrs in outline(page).tags if "src" in attrs or tag in ("iframe", "object", "embed")]
    links = [attrs["href"] for _, attrs in outline(page).tags if "href" in attrs]
    assert not loading
    assert all(link.startswith(("#", "data:")) for link in links)
    assert "default-src &#39;none&#39;" in text
    assert page.stat().st_size < 6_000_000


def test_headings_are_in_order_links_lead_somewhere_and_tables_name_their_cells(written):
    found = outline(written[1][0])
    assert found.levels[0] == 1
    assert found.levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in zip(found.levels, found.levels[1:], strict=False))
    assert len(found.ids) == len({*found.ids})
    links = {attrs["href"][1:] for tag, attrs in found.tags if tag == "a"}
    assert links <= {*found.ids}
    tables = sum(tag == "table" for tag, _ in found.tags)
    assert tables == sum(tag == "caption" for tag, _ in found.tags) > 5
    assert all(attrs.get("scope") in ("row", "col") for tag, attrs in found.tags if tag == "th")
    pictures = [attrs for _, attrs in found.tags if attrs.get("role") == "img"]
    assert pictures
    assert all(attrs["aria-label"] for attrs in pictures)


def test_every_picture_is_also_a_file(written):
    _, (_, markdown, *drawn) = written
    assert len(drawn) == len({*drawn}) > 10
    for file in drawn:
        assert ET.parse(file).getroot().tag.endswith("svg")
        assert f"](figures/{file.name})" in markdown.read_text(encoding="utf-8")


def test_the_same_pictures_are_the_same_files(invented, tmp_path):
    comparison, root = invented
    one = write_report(comparison, [root], tmp_path / "one", figures=tmp_path / "one")
    other = write_report(comparison, [root], tmp_path / "other", figures=tmp_path / "other")
    assert [file.read_bytes() for file in one[:4]] == [file.read_bytes() for file in other[:4]]


def test_figures_that_were_not_measured_are_said_and_never_a_zero(written, material):
    assert all("peak_memory_bytes" not in one.costs for one in material.comparison.results if one.method == "ia3")
    assert cost("peak_memory_bytes", None) == "not measured"
    rows = [line for line in written[1][1].read_text(encoding="utf-8").splitlines() if line.startswith("| ia3 |")]
    assert sum("not measured" in row for row in rows) == 3  # the costs on three tasks
    charts = [chart for chart in cost_charts(material) if chart.name.startswith("peak-memory")]
    assert all("ia3" not in [one.label for one in chart.series] for chart in charts)
    assert all(chart.note == "Not measured, and so not shown: ia3." for chart in charts)


def test_training_time_is_drawn_only_where_no_solitary_step_was_measured(material):
    names = [chart.name for chart in cost_charts(material)]
    assert any(name.startswith("seconds-per-step") for name in names)
    assert not any(name.startswith("train-seconds") for name in names)


def test_bars_are_the_intervals_around_the_mean_and_the_front_is_what_nothing_cheaper_beats(material):
    chart = next(chart for chart in cost_charts(material) if chart.name == "trainable-mrpc")
    found = {one.method: one for one in material.comparison.results if one.task == "mrpc"}
    base = found["full"].mean
    for series in (one for one in chart.series if one.form == "points"):
        result = found[series.label]
        assert series.x == (result.costs["trainable"].value,)
        assert series.y == (result.mean,)
        if series.label == "full":
            assert series.low == (None,)
        else:
            assert series.low == pytest.approx((base + result.low,))
            assert series.high == pytest.approx((base + result.high,))
        dominated = any(
            other.costs["trainable"].value <= result.costs["trainable"].value and other.mean >= result.mean
            for other in found.values()
            if other is not result
        )
        assert series.hollow == dominated


def test_where_less_is_better_the_front_and_the_heat_map_know_it(material):
    comparison = material.comparison
    results = tuple(
        one.model_copy(update={"metric": "loss", "higher_is_better": False, "mean": mean, "difference": mean - 2.0})
        for one, mean in zip(
            (one for one in comparison.results if one.task == "mrpc"), (2.0, 1.5, 2.5, 3.0), strict=True
        )
    )
    turned = collect(comparison.model_copy(update={"results": results, "suite": (), "power": ()}), [])
    chart = next(chart for chart in cost_charts(turned) if chart.name == "trainable-mrpc")
    cheapest = min(results, key=lambda one: one.costs["trainable"].value)
    best = min(results, key=lambda one: one.mean)
    front = {one.label for one in chart.series if one.form == "points" and not one.hollow}
    assert {cheapest.method, best.method} <= front
    heat = heat_maps(turned)[0]
    assert heat.values[heat.rows.index(best.method)] == (0.5,)


def test_learning_curves_are_means_over_seeds_within_the_lowest_and_the_highest(material):
    chart = next(chart for chart in curve_charts(material) if chart.name == "holdout-mrpc")
    result = next(one for one in material.comparison.results if (one.task, one.method) == ("mrpc", "lora"))
    series = next(one for one in chart.series if one.label == "lora")
    values = [[e.scores["holdout"]["accuracy"] for e in material.records[run].evaluations] for run in result.runs]
    steps = list(zip(*values, strict=True))
    assert series.x == (115, 230, 344)
    assert series.y == pytest.approx([sum(step) / 3 for step in steps])
    assert series.low == pytest.approx([min(step) for step in steps])
    assert series.high == pytest.approx([max(step) for step in steps])


def test_losses_are_smoothed_over_the_steps_before_each_point(material):
    chart = next(chart for chart in curve_charts(material) if chart.name == "loss-mrpc")
    series = next(one for one in chart.series if one.label == "full")
    result = next(one for one in material.comparison.results if (one.task, one.method) == ("mrpc", "full"))
    window = round(0.05 * 344)
    last = [sum(material.records[run].losses[-window:]) / window for run in result.runs]
    assert series.x[-1] == 344
    assert series.y[-1] == pytest.approx(sum(last) / 3)


def test_the_power_curve_has_the_half_widths_and_the_margin(material):
    chart = next(chart for chart in curve_charts(material) if chart.name == "power-rte")
    power = next(one for one in material.comparison.power if (one.task, one.method) == ("rte", "lora"))
    series = next(one for one in chart.series if one.label == "lora")
    assert dict(zip(series.x, series.y, strict=True)) == {float(k): v for k, v in power.half_widths.items()}
    assert [level.values for level in chart.levels] == [(1.0,)]


@pytest.mark.parametrize(("methods", "table"), [(2, 1.960), (3, 2.343), (5, 2.728), (10, 3.164)])
def test_critical_differences_are_those_of_the_table_in_the_paper(methods, table):
    """Demšar 2006, table 5a, two-tailed Nemenyi test at 0.05."""
    expected = table * math.sqrt(methods * (methods + 1) / (6 * 14))
    assert critical_difference(methods, 14, 0.05) == pytest.approx(expected, rel=5e-4)


def test_ranks_are_drawn_for_three_tasks_or_more(material):
    assert [picture.labels[0] for picture in rank_pictures(material)]
    fewer = tuple(one.model_copy(update={"tasks": one.tasks[:2]}) for one in material.comparison.suite)
    assert not rank_pictures(collect(material.comparison.model_copy(update={"suite": fewer}), []))


def test_a_picture_of_plotly_is_one_that_plotly_accepts(material):
    """The mappings are written by hand; plotly's own classes refuse an unknown or wrong property."""
    from plotly import graph_objects

    for picture in compose(material).all_pictures:
        spec = _with_colours(figure(picture))
        graph_objects.Figure(data=spec["data"], layout=spec["layout"])
        with pytest.raises(ValueError, match="nonsense"):
            graph_objects.Figure(data=spec["data"], layout=spec["layout"] | {"nonsense": 1})


def _with_colours(value, key=""):
    if isinstance(value, str):
        return "#123456" if key.endswith(("color", "colorscale")) and value.startswith("@") else value
    if isinstance(value, list):
        return [_with_colours(part, key) for part in value]
    return {name: _with_colours(part, name) for name, part in value.items()} if isinstance(value, dict) else value


def test_commands_give_the_recipes_back(material):
    from graft.recipes.flags import parse
    from graft.recipes.recipe import Recipe, canonical

    recipes = [
        {"task": "mrpc", "method": {"name": "lora", "r": 4, "targets": ["query", "it's, odd"]}, "optim": {"lr": 5e-4}},
        {"task": {"name": "rte", "data": "/a b/$c"}, "method": "full", "objective": {"terms": [{"name": "l2sp"}]}},
        {"task": "mrpc", "method": "prefix", "strategy": {"name": "gradual_unfreezing", "share": 0.5}},
    ]
    full = [canonical(Recipe.model_validate({**recipe, "model": "minilm", "seed": 3})) for recipe in recipes]
    results = material.comparison.results[:3]
    records = {
        one.runs[0]: material.records[one.runs[0]].model_copy(update={"recipe": recipe})
        for one, recipe in zip(results, full, strict=True)
    }
    results = tuple(
        one.model_copy(update={"task": recipe["task"]["name"], "method": str(number)})
        for number, (one, recipe) in enumerate(zip(results, full, strict=True))
    )
    comparison = material.comparison.model_copy(update={"results": results})
    script = commands(Material(comparison, records, (), {}, ()))
    shared, *_ = script.partition("\n)\n")
    common = shlex.split(shared.removeprefix("shared=("))
    lines = [line for line in script.splitlines() if "graft train" in line]
    assert len(lines) == 3
    for line, recipe in zip(lines, full, strict=True):
        words = shlex.split(line.replace('"${shared[@]}"', "").replace("$seed", "3"))
        assert canonical(parse([*common, *words[2:]], "graft train").recipe) == recipe


def test_a_report_stands_without_the_runs_it_is_about(invented, tmp_path):
    comparison, _ = invented
    gone = tuple(
        one.model_copy(update={"runs": tuple(f"/gone/{run}" for run in range(len(one.runs)))})
        for one in comparison.results
    )
    page, markdown = write_report(comparison.model_copy(update={"results": gone}), [], tmp_path)
    assert "cannot be read any more" in page.read_text(encoding="utf-8")
    assert "## To make it again" not in markdown.read_text(encoding="utf-8")


def test_a_single_seed_without_margin_is_reported_as_such(tmp_path):
    comparison = invent(
        tmp_path / "runs", tasks=("mrpc",), methods=("full", "bitfit"), seeds=1, examples=60, margin=None
    )
    page, markdown = write_report(comparison, [tmp_path / "runs"], tmp_path, figures=tmp_path / "figures")[:2]
    assert "no size judged" in markdown.read_text(encoding="utf-8")
    assert "single seed" in page.read_text(encoding="utf-8")


def test_hostile_text_stays_text_in_both_forms(tmp_path):
    comparison = invent(
        tmp_path / "runs", tasks=("a", "b", "c"), methods=("full", "lora"), seeds=2, examples=60, hostile=HOSTILE
    )
    page, markdown, *drawn = write_report(comparison, [tmp_path / "runs"], tmp_path, figures=tmp_path / "figures")
    found = outline(page)
    scripts = [attrs for tag, attrs in found.tags if tag == "script"]
    assert len(scripts) == 3
    assert not [tag for tag, _ in found.tags if tag in ("img", "image")]
    assert not [attrs for _, attrs in found.tags if any(key.startswith("on") for key in attrs)]
    assert HOSTILE in "".join(found.text)
    specs = page.read_text(encoding="utf-8").partition('id="specs">')[2].partition("</script>")[0]
    assert not {*specs} & {*"<>&"}  # no tag ends it, and no comment begins in it
    assert json.loads(specs)
    prose, _, code = markdown.read_text(encoding="utf-8").partition("## To make it again")
    assert "&lt;script&gt;" in prose
    assert "<" not in prose
    assert code.count("```") == 2  # within which Markdown has no tags
    for file in drawn:
        assert file.parent == tmp_path / "figures"
        assert not [node for node in ET.parse(file).iter() if node.tag.endswith("script")]


def test_absent_packages_are_named_with_what_installs_them(invented, tmp_path, monkeypatch):
    monkeypatch.setattr(writing.importlib.util, "find_spec", lambda name: None if name == "plotly" else object())
    with pytest.raises(GraftError, match=r"needs plotly; install it with: pip install 'graft-nlp\[report\]'"):
        write_report(invented[0], [], tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (number(0.0), "0"),
        (number(1234567.0), "1,234,567"),
        (number(0.012345), "0.0123"),
        (number(-2.5), f"{MINUS}2.5"),
        (score(81.249, "accuracy"), "81.2"),
        (cost("peak_memory_bytes", 540 * 2**20), "540 MiB"),
        (cost("peak_memory_bytes", 1000.4 * 2**20), "1,000 MiB"),
        (cost("seconds_per_step", 0.0312), "31.2 ms"),
        (cost("train_seconds", 7300), "2.03 h"),
        (cost("trainable", 22_700_000), "22,700,000"),
        (percent(0.0136), "1.4 %"),
        (percent(None), ""),
    ],
)
def test_numbers_have_the_digits_that_matter(found, expected):
    assert found == expected


def test_a_difference_has_a_true_minus_and_its_interval(material):
    result = material.comparison.results[1].model_copy(update={"difference": -0.3, "low": -2.9, "high": 2.3})
    assert difference(result, "accuracy") == f"{MINUS}0.3 ({MINUS}2.9 … +2.3)"


def test_names_of_pictures_are_fit_for_files_and_never_the_same_twice():
    assert named("loss", "../../etc/<b>") == "loss-etc-b"
    assert named("loss", "a/b", taken=["loss-a-b"]) == "loss-a-b-2"


def test_labels_of_points_that_lie_close_do_not_cover_each_other():
    def chart(points):
        series = tuple(Series(label, n, (x,), (y,), (None,), (None,)) for n, (label, x, y) in enumerate(points))
        return Chart("n", "t", "r", "t", "s", "", Axis("x"), Axis("y"), series)

    assert sides(chart([("at the left", 0.0, 0.0), ("at the right", 1.0, 1.0)])) == ["top right", "top left"]
    close = sides(chart([("alpha", 0.5, 0.5), ("beta", 0.51, 0.5), ("far", 0.0, 0.0), ("away", 1.0, 1.0)]))
    assert close[0] != close[1]


def test_axes_hold_what_is_drawn_even_where_all_values_are_the_same_or_zero():
    series = (Series("one", 0, (0.0, 1000.0), (5.0, 5.0), form="marked line"),)
    x, y = scales(Chart("n", "t", "r", "t", "s", "", Axis("x", log=True), Axis("y"), series))
    assert x.low < 3 < x.high
    assert 1000.0 in (x.ticks or ())
    assert y.low < 5 < y.high


def _contrast(one, other):
    """WCAG 2.2's contrast ratio of two colours."""

    def luminance(colour):
        channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_colours_stand_out_from_both_pages():
    assert all(_contrast(colour, "#ffffff") >= 4.5 for colour in DARK_ON_LIGHT)
    assert all(_contrast(colour, "#15181c") >= 4.5 for colour in LIGHT_ON_DARK)


def test_methods_are_told_apart_by_mark_as_well_as_by_colour():
    looks = [style(n) for n in range(50)]
    assert len({look.mark for look in looks[: len(MARKS)]}) == len(MARKS)
    assert len({(look.colour, look.mark) for look in looks}) == 50


def test_a_ratio_of_nothing_is_left_out(material):
    assert "(" not in cost("trainable", Cost(value=5.0, ratio=None).value)
