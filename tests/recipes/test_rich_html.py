"""How objects look in a notebook: what matters is seen, and nothing that comes from a user is taken for HTML."""

from html.parser import HTMLParser

import pytest
from invented_comparison import HOSTILE, invent
from synthetic_runs import write_run

from graft.eval.records import read_record
from graft.eval.report import figures
from graft.eval.rich_html import table
from graft.recipes.recipe import Recipe
from graft.recipes.run import Run

LABELS = ([0, 1, 1], [[2.0, 0.0], [0.0, 1.0], [1.0, 0.0]])


class Seen(HTMLParser):
    """The tags, which must be closed in order, and the text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.open, self.text = set(), [], ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_a_recipe_shows_its_names_and_what_is_not_at_its_default():
    recipe = Recipe(task={"name": "mrpc", "train_size": 77}, method={"name": "lora", "r": 16}, optim={"lr": 2e-3})
    seen, _, whole = Seen(recipe._repr_html_()).text.partition("All settings")
    for line in ("name: mrpc, train_size: 77", "name: minilm", "name: lora, r: 16", "lr: 0.002"):
        assert line in seen
    assert "seed" not in seen
    assert "weight_decay: 0.01" in whole


def test_a_run_shows_scores_its_loss_and_what_it_took(tmp_path):
    changes = {"losses": [0.9, 0.5, 0.4], "warnings": ["a <b>warning</b>"]}
    folder = write_run(tmp_path, {"validation": LABELS}, record_changes=changes)
    page = Run(folder, read_record(folder), reused=True)._repr_html_()
    seen = Seen(page)
    assert "66.7" in seen.text
    assert "was there already" in seen.text
    assert "22,000,000, 21,999,230 of them outside the head, of 22,700,000" in seen.text
    assert "a <b>warning</b>" in seen.text
    (points,) = (part.partition('"')[0].split() for part in page.split('points="')[1:])
    assert len(points) == 3
    heights = [float(point.split(",")[1]) for point in points]
    assert heights == sorted(heights)  # falling, on a screen


@pytest.mark.parametrize("hostile", ["", HOSTILE])
def test_a_comparison_shows_sentences_and_a_row_a_method_and_escapes_them(tmp_path, hostile):
    comparison = invent(tmp_path, methods=("full", "lora"), seeds=3, examples=60, hostile=hostile)
    seen = Seen(comparison._repr_html_())
    for result in comparison.results:
        assert f"{result.mean:.1f}" in seen.text
        if result.direction != "reference":
            assert result.sentence in seen.text
    assert seen.tags <= {"div", "ul", "li", "table", "thead", "tbody", "tr", "th", "td", "details", "summary"}


def test_what_comes_from_a_user_is_no_html_in_recipes_and_runs(tmp_path):
    recipe = Recipe(task={"name": "custom", "text": HOSTILE, "label": HOSTILE}, model=HOSTILE)
    folder = write_run(tmp_path, {"validation": LABELS}, name="<script>x", task="mrpc")
    pages = [recipe._repr_html_(), Run(folder, read_record(folder))._repr_html_(), table((HOSTILE,), [(HOSTILE,)])]
    for page in pages:
        assert Seen(page).tags & {"script", "img"} == set()


def test_pictures_are_those_of_the_report_with_titles_and_colours(tmp_path):
    comparison = invent(tmp_path, tasks=("mrpc",), methods=("full", "lora"), seeds=2, examples=60)
    drawn = figures(comparison)
    assert len(drawn) > 2
    assert all(figure.layout.title.text and figure.layout.paper_bgcolor == "#ffffff" for figure in drawn)
    lora = next(trace for trace in drawn[0].data if trace.name == "lora")
    assert lora.marker.color == "#0b6cb3"
