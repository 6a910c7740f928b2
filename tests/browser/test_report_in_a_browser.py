"""The report in a real headless Chromium. Debian's package `chromium` is enough; without it these tests are skipped."""

import os
import shutil
from pathlib import Path

import pytest
from invented_comparison import HOSTILE, invent

from graft.eval.report import write_report

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")

CHROMIUM = os.environ.get("GRAFT_CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path(CHROMIUM).is_file(), reason=f"no {CHROMIUM}: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report of three tasks with four methods."""
    root = tmp_path_factory.mktemp("report")
    methods = ("full", "lora", "bitfit", "ia3")
    comparison = invent(root / "runs", tasks=("mrpc", "rte", "cola"), methods=methods, seeds=3, examples=80)
    return write_report(comparison, [root / "runs"], root)[0]


@pytest.fixture(scope="module")
def hostile_report(tmp_path_factory):
    """The same, with text that means something to HTML, plotly and scripts wherever a user's text goes."""
    root = tmp_path_factory.mktemp("hostile")
    methods = ("full", "lora", "bitfit")
    comparison = invent(root / "runs", tasks=("a", "b", "c"), methods=methods, seeds=2, examples=60, hostile=HOSTILE)
    return write_report(comparison, [root / "runs"], root)[0]


class Watched:
    """An open report, and all that happened in it."""

    def __init__(self, browser, report, **context):
        self.context = browser.new_context(**context)
        self.page = self.context.new_page()
        self.page.set_default_timeout(60_000)
        self.said, self.asked, self.alerted = [], [], []
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: (self.alerted.append(dialog.message), dialog.dismiss()))
        address = report.as_uri()
        self.page.route(
            "**/*", lambda route: route.continue_() if route.request.url == address else self._refuse(route)
        )
        self.page.goto(address)

    def _refuse(self, route):
        self.asked.append(route.request.url)
        route.abort()

    def draw_all(self):
        """Scroll through, so that every picture is drawn."""
        self.page.evaluate(
            """async () => {
                for (const plot of document.querySelectorAll("[data-picture]")) {
                    plot.scrollIntoView();
                    await new Promise((resolve) => {
                        const wait = () => plot.querySelector("svg") ? resolve() : requestAnimationFrame(wait);
                        wait();
                    });
                }
            }"""
        )


@pytest.fixture
def opened(browser):
    found = []

    def open_report(report, **context):
        found.append(Watched(browser, report, **context))
        return found[-1]

    yield open_report
    for one in found:
        one.context.close()


def test_every_picture_is_drawn_without_a_word_on_the_console_and_nothing_is_loaded(opened, report):
    watched = opened(report)
    watched.draw_all()
    assert watched.page.locator(".plot").count() == watched.page.locator(".plot:has(svg.main-svg)").count() > 10
    assert watched.said == []
    assert watched.asked == []


def test_a_point_tells_its_values_under_the_pointer(opened, report):
    page = opened(report).page
    plot = page.locator("#trainable-mrpc .plot")
    plot.scroll_into_view_if_needed()
    point = plot.locator(".scatterlayer .trace .point").last
    point.wait_for(state="attached")
    box = point.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2 - 40, box["y"])
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=5)
    told = plot.locator(".hoverlayer .hovertext")
    told.wait_for()
    text = told.text_content()
    assert "score" in text
    assert "parameters that learn" in text


def test_a_click_on_a_heading_sorts_and_another_turns_it_round(opened, report):
    page = opened(report).page
    table = page.locator("#tables table", has=page.locator("caption", has_text="Costs on mrpc"))
    heading = table.locator("th[scope=col]", has_text="peak memory")

    def methods():
        return table.locator("tbody th").all_text_contents()

    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "ascending"
    assert methods() == ["bitfit", "lora", "full", "ia3"]  # 455, 540, 980 MiB, and one that was not measured
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    assert methods() == ["full", "lora", "bitfit", "ia3"]
    name = table.locator("th[scope=col]").first
    name.locator("button").press("Enter")
    assert heading.get_attribute("aria-sort") is None
    assert methods() == ["bitfit", "full", "ia3", "lora"]


def test_hostile_text_stays_text_everywhere(opened, hostile_report):
    watched = opened(hostile_report)
    watched.draw_all()
    page = watched.page
    for point in page.locator("#pictures .plot").all()[:4]:
        box = point.bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert watched.alerted == []
    assert watched.said == []
    assert watched.asked == []
    assert page.locator("script").count() == 3
    assert page.locator("img, .plot a").count() == 0
    shown = page.locator("body").inner_text()
    for text in ("a warning about ", "damaged: ", "/runs/", "lora, note=", "Sentence 1"):
        assert f"{text}" in shown
    assert shown.count(HOSTILE) > 20
    labels = page.locator(".plot text").all_text_contents()
    assert "lora, note=<scr…" in labels
    hovers = page.evaluate(
        """() => [...document.querySelectorAll(".plot")]
            .flatMap((plot) => plot.data.flatMap((trace) => trace.hovertext)).flat(3).filter(Boolean)"""
    )
    assert any("&lt;script&gt;" in text for text in hovers)
    assert not any("<script" in text for text in hovers)


@pytest.mark.parametrize("width", [1280, 375])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_window_in_either_scheme(opened, report, width, scheme):
    watched = opened(report, viewport={"width": width, "height": 800}, color_scheme=scheme)
    watched.draw_all()
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= width
    paper = watched.page.evaluate("getComputedStyle(document.body).backgroundColor")
    text = watched.page.evaluate("getComputedStyle(document.querySelector('.plot .xtick text')).fill")
    assert (paper, text) == {
        "light": ("rgb(255, 255, 255)", "rgb(36, 41, 47)"),
        "dark": ("rgb(21, 24, 28)", "rgb(230, 232, 235)"),
    }[scheme]
    assert watched.said == []


def test_a_change_of_scheme_repaints_the_pictures(opened, report):
    page = opened(report, color_scheme="light").page
    page.locator("#pictures .plot").first.scroll_into_view_if_needed()
    page.emulate_media(color_scheme="dark")
    playwright.expect(page.locator(".plot text").first).to_have_css("fill", "rgb(230, 232, 235)")


def test_the_narrow_page_has_legends_in_place_of_labels(opened, report):
    page = opened(report, viewport={"width": 375, "height": 800}).page
    plot = page.locator("#trainable-mrpc .plot")
    plot.scroll_into_view_if_needed()
    plot.locator(".legend").wait_for()
    assert plot.locator(".textpoint").count() == 0


def test_it_prints_whole_with_every_picture_in_it(opened, report, tmp_path):
    watched = opened(report, color_scheme="dark")
    watched.page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert (tmp_path / "report.pdf").stat().st_size > 50_000
    assert watched.page.locator(".plot").count() == watched.page.locator(".plot:has(svg.main-svg)").count()
    assert watched.said == []


def test_tables_say_all_where_scripts_do_not_run(opened, report):
    page = opened(report, java_script_enabled=False).page
    assert "The tables have the same figures" in page.locator("noscript").inner_text()
    assert page.locator("#tables table").count() > 5
