"""The report in a headless Chromium: drawn, sorted, filtered, told by keyboard, and nothing in it runs or is fetched.

Skipped where Playwright's driver or a Chromium is missing; `.ci/run` installs the latter.
"""

import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pages
import pytest

from fastvit_bench import files
from fastvit_bench.paper import study_table
from fastvit_bench.render.page import compose

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
if CHROMIUM is None:
    pytest.skip("no Chromium on this machine: apt-get install chromium", allow_module_level=True)

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SHOWN = " ".join(pages.HOSTILE.split())


class Opened:
    """A page and everything it complained about or asked for."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: (self.said.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        self.asked: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url.split(":")[0]))
        self.page.goto(path.as_uri())
        self.page.wait_for_function("document.documentElement.dataset.ready", timeout=20_000)

    def texts(self, selector: str) -> list[str]:
        """Of every element, as a person sees it."""
        return self.page.eval_on_selector_all(selector, "found => found.map(each => each.textContent)")

    def column(self, number: int) -> list[str]:
        """Of the table of figures."""
        return self.texts(f"#figures-table tbody td:nth-child({number})")


@pytest.fixture(scope="module")
def browser() -> Generator[Any]:
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    text = compose.html(
        pages.few(),
        pages.verdicts(),
        studies=pages.studies(),
        title=pages.HOSTILE,
        footer="Made.",
        reference="fastvit_t8",
    )
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.slow
def test_it_opens_without_a_word_and_draws_every_chart(browser: Any, report: Path) -> None:
    opened = Opened(browser, report)
    assert opened.said == []
    assert set(opened.asked) <= {"file", "data"}
    kinds = opened.page.eval_on_selector_all(".chart", "found => found.map(each => each.dataset.kind)")
    assert kinds == ["accuracy", "latency", "ratio", "study", "comparison"]
    marks = "found => found.map(each => each.querySelectorAll('.mark-symbol.role-mark path').length)"
    assert opened.page.eval_on_selector_all(".chart", marks) == [4, 12, 12, 4, 4 + 41]  # the last with every block
    names = opened.page.eval_on_selector_all(
        ".chart[role=graphics-document]", "found => found.map(each => each.getAttribute('aria-label'))"
    )
    assert len(names) == 5
    assert all(name and len(name) > 20 for name in names)
    opened.context.close()


@pytest.mark.slow
def test_a_script_for_a_name_stays_text(browser: Any, report: Path) -> None:
    opened = Opened(browser, report)
    assert SHOWN in opened.column(1)
    assert opened.page.title() == SHOWN
    assert opened.page.evaluate("document.querySelectorAll('script').length") == 3
    assert opened.page.evaluate("document.querySelectorAll('img').length") == 0
    assert any("script" in text for text in opened.texts(".chart text"))
    opened.page.click("details summary")
    opened.page.wait_for_selector("details td")  # made when it is unfolded
    assert any(SHOWN in text for text in opened.texts("details td"))
    opened.page.click(".told:last-of-type summary")
    opened.page.wait_for_selector(".told td")
    assert any(SHOWN in text for text in opened.texts(".told td"))
    assert any("FastViT-S12@256" in text for text in opened.texts(".told td"))
    for place in (".chart[data-kind=accuracy]", ".chart[data-kind=comparison]", ".chart[data-kind=study]"):
        for mark in opened.page.query_selector_all(f"{place} .mark-symbol.role-mark path"):
            mark.hover(force=True)
            mark.focus()
    assert opened.said == []
    opened.context.close()


@pytest.mark.slow
def test_tables_sort_by_number_and_filter(browser: Any, report: Path) -> None:
    opened = Opened(browser, report)
    latency = "#figures-table thead th:nth-child(3)"
    opened.page.click(f"{latency} button")
    figures = [float(text.split()[0]) for text in opened.column(3)]
    assert len(figures) == 12
    assert figures == sorted(figures)
    assert opened.page.get_attribute(latency, "aria-sort") == "ascending"
    opened.page.click(f"{latency} button")
    assert [float(text.split()[0]) for text in opened.column(3)] == figures[::-1]
    opened.page.fill("#figures-table input", "MA36 256")
    assert opened.column(1) == ["fastvit_ma36"]
    assert opened.texts("#figures-table output") == ["1 of 12 lines"]
    opened.page.fill("#figures-table input", "nothing of the kind")
    assert opened.texts("#figures-table tbody td") == ["No line fits the filter."]
    opened.page.fill("#figures-table input", "")
    opened.page.select_option("#figures-table select[aria-label='Only size px']", "512")
    assert set(opened.column(2)) == {"512"}
    assert opened.said == []
    opened.context.close()


@pytest.mark.slow
def test_numbers_tell_how_they_were_measured_by_keyboard(browser: Any, report: Path) -> None:
    opened = Opened(browser, report)
    page = opened.page
    page.focus("#figures-table .figure[tabindex='0']")
    page.wait_for_timeout(200)  # what scrolling does comes later
    assert page.is_visible("#tip")
    told = page.inner_text("#tip")
    for part in ("median of 100 runs", "compute window", "Example Processor 9000", "2026-01-31"):
        assert part in told
    assert page.evaluate("document.activeElement.getAttribute('aria-describedby')") == "tip"
    page.keyboard.press("ArrowDown")
    assert page.inner_text("#tip") != told
    page.keyboard.press("Escape")
    assert page.is_hidden("#tip")
    page.wait_for_timeout(200)  # what scrolling does comes later
    page.focus(".chart[data-kind=accuracy] path[tabindex='0']")
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(200)
    assert page.is_visible("#tip")
    told = page.inner_text("#tip")
    for part in ("published", "on the frontier with", "compute window", "Example Processor 9000", "2026-01-31"):
        assert part in told
    opened.context.close()


@pytest.mark.slow
def test_the_theme_follows_the_system_and_the_button(browser: Any, report: Path) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    dark = Opened(browser, report, color_scheme="dark")
    light = Opened(browser, report, color_scheme="light")
    night, day = dark.page.evaluate(paper), light.page.evaluate(paper)
    assert night != day
    for theme, expected in (("light", day), ("dark", night), ("auto", day)):
        light.page.click("#theme")
        assert light.texts("#theme") == [f"Theme: {theme}"]
        assert light.page.evaluate(paper) == expected
    stroke = "getComputedStyle(document.querySelector('.chart .mark-symbol.role-mark path')).fill"
    assert dark.page.evaluate(stroke) != light.page.evaluate(stroke)
    dark.context.close()
    light.context.close()


@pytest.mark.slow
def test_it_fits_a_phone_and_prints_light(browser: Any, report: Path) -> None:
    phone = Opened(browser, report, viewport={"width": 390, "height": 844}, color_scheme="dark")
    assert phone.page.evaluate("document.documentElement.scrollWidth") <= 390
    widest = "Math.max(...[...document.querySelectorAll('.chart svg')].map(each => each.getBoundingClientRect().right))"
    assert phone.page.evaluate(widest) <= 390
    assert phone.said == []
    phone.page.emulate_media(media="print")
    assert phone.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert phone.page.is_hidden("#theme")
    phone.context.close()


SHEET = (210 - 2 * 12) / 25.4 * 96  # pixels between the margins of A4, as the style sheet has them
LETTERS = """() => {
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const drawn = element.getClientRects().length && getComputedStyle(element).visibility !== "hidden";
    if (!drawn || !walker.currentNode.textContent.trim()) continue;
    const picture = element.closest("svg"); // which may be printed smaller than it was drawn
    const shrunk = picture ? picture.getBoundingClientRect().width / picture.viewBox.baseVal.width : 1;
    const points = 0.75 * parseFloat(getComputedStyle(element).fontSize) * Math.min(1, shrunk);
    found.push([points, element.textContent.slice(0, 40)]);
  }
  return found;
}"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_no_printed_letter_is_below_eight_points(browser: Any, tmp_path: Path, width: int) -> None:
    """Planted: charts were shrunk to the sheet with their letters, and tables had 7.5 points."""
    path = tmp_path / "report.html"
    found = pages.histories()
    text = compose.html(
        pages.few(),
        pages.verdicts(),
        # those that came with the package have the widest tables
        studies=[*pages.studies(), *study_table.newest([files.find("cpu-reference")])[0]],
        histories=compose.developed(found),
        title="t",
        footer="m",
        reference="fastvit_t8",
    )
    path.write_text(text, encoding="utf-8")
    opened = Opened(browser, path, viewport={"width": width, "height": 844}, color_scheme="dark")
    page = opened.page
    page.set_viewport_size({"width": int(SHEET), "height": 844})
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.wait_for_selector("html[data-printing=ready]", state="attached")
    letters = page.evaluate(LETTERS)
    assert len(letters) > 300
    assert min(letters)[0] >= 7.999, min(letters)
    # what is wider than the sheet would shrink all of it
    assert page.evaluate("document.documentElement.scrollWidth") <= SHEET
    page.emulate_media(media="screen")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    page.wait_for_selector("html[data-printing='']", state="attached")
    assert opened.said == []
    opened.context.close()


@pytest.mark.slow
def test_a_history_tells_its_runs_and_fits_a_phone(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    found = pages.histories()
    text = compose.html(pages.few(), [], histories=compose.developed(found), title="t", footer="m")
    path.write_text(text, encoding="utf-8")
    opened = Opened(browser, path, viewport={"width": 390, "height": 844})
    page = opened.page
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.focus(".chart[data-kind=history] path[tabindex='0']")
    page.wait_for_timeout(200)  # what scrolling does comes later
    assert "run 20260101-120000-aaaaaa" in page.inner_text("#tip")
    page.click(".contents a[href='#history']")
    assert page.evaluate("location.hash") == "#history"
    assert opened.said == []
    opened.context.close()


@pytest.mark.slow
def test_a_model_has_one_colour_in_every_chart_and_theme(browser: Any, report: Path) -> None:
    for scheme, wanted in (("light", "rgb(82, 4, 8)"), ("dark", "rgb(255, 241, 241)")):
        opened = Opened(browser, report, color_scheme=scheme)
        for kind in ("accuracy", "latency", "ratio"):
            marks = f".chart[data-kind={kind}] .mark-symbol.role-mark path[aria-label*=fastvit_ma36]"
            fills = "found => [...new Set(found.map(each => getComputedStyle(each).fill))]"
            assert opened.page.eval_on_selector_all(marks, fills) == [wanted]
        opened.context.close()


@pytest.mark.slow
def test_5000_figures_are_ready_in_3_seconds_and_10_megabytes(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(compose.html(pages.many(), [], title="t", footer="m", reference="model_000"), encoding="utf-8")
    assert path.stat().st_size < 10_000_000
    opened = Opened(browser, path)
    assert int(opened.page.evaluate("document.documentElement.dataset.ready")) < 3000
    assert opened.texts("#figures-table output") == ["5,000 lines"]
    opened.page.evaluate("window.before = performance.now()")
    opened.page.fill("#figures-table input", "model_07")
    opened.page.select_option("#figures-table select[aria-label='Only size px']", "512")
    opened.page.click("#figures-table thead th:nth-child(3) button")
    assert opened.page.evaluate("performance.now() - window.before") < 3000
    assert opened.texts("#figures-table output") == ["50 of 5,000 lines"]
    assert opened.said == []
    opened.context.close()
