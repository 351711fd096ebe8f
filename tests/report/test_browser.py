"""The pages in a browser: hovering, sorting, a phone, darkness, the keyboard, and no request to anywhere."""

import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qvtune.lab.store import Store
from qvtune.report.class_parts import class_parts, mistakes_table
from qvtune.report.document import Page, render
from qvtune.report.page import write_report
from qvtune.training.folder import RunFolder

webdriver = pytest.importorskip("selenium.webdriver")

from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="no chromium and chromedriver here")

DESKTOP, PHONE = (1200, 900), (360, 740)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    settings = webdriver.ChromeOptions()
    settings.binary_location = CHROMIUM
    flags = "headless=new no-sandbox disable-gpu disable-background-networking disable-component-update disable-sync"
    for flag in (*flags.split(), "no-first-run", "disable-dev-shm-usage"):
        settings.add_argument(f"--{flag}")
    settings.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(settings, webdriver.ChromeService(DRIVER)) as driver:
        yield driver


@pytest.fixture(scope="module")
def pages(sweep: Store, comparison: Store, single: RunFolder) -> dict[str, Path]:
    folders = {"sweep": sweep.path, "comparison": comparison.path, "run": single.path}
    return {name: write_report(path)[0] for name, path in folders.items()}


def visit(browser: Any, page: Path, size: tuple[int, int] = DESKTOP, scheme: str = "light") -> None:
    width, height = size
    phone = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == PHONE}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    set_scheme(browser, scheme)
    browser.get(page.as_uri())
    drawn = "return [...document.querySelectorAll('.plot')].every(plot => plot.querySelector('svg text'))"
    WebDriverWait(browser, 20).until(lambda b: b.execute_script(drawn))


def set_scheme(browser: Any, scheme: str) -> None:
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


@pytest.mark.parametrize("name", ["sweep", "comparison", "run"])
def test_page_opens_without_errors_and_asks_nobody(browser: Any, pages: dict, name: str) -> None:
    browser.get_log("browser"), browser.get_log("performance")
    visit(browser, pages[name])
    assert [entry["message"] for entry in browser.get_log("browser")] == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert pages[name].as_uri() in asked
    assert [url for url in asked if url.partition(":")[0] not in ("file", "data", "blob")] == []
    assert browser.execute_script("return document.querySelectorAll('.plot svg').length") > 0


@pytest.mark.parametrize("name", ["sweep", "comparison", "run"])
@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_page_is_not_wider_than_the_screen(browser: Any, pages: dict, name: str, size: tuple) -> None:
    visit(browser, pages[name], size)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= size[0]
    boxes = browser.execute_script(
        "return [...document.querySelectorAll('.scroll')].map(b => [b.clientWidth, getComputedStyle(b).overflowX])"
    )
    assert all(width <= size[0] and overflow == "auto" for width, overflow in boxes)


def hover(browser: Any, column: int, row: int) -> list[str]:
    """Return what is said of a place in the first picture, a heat map of three columns, when it is pointed at."""
    x, y = browser.execute_script(
        """const plot = document.querySelector('.plot'); plot.scrollIntoView({block: 'center'});
        const places = plot.querySelectorAll('.hover_marks path');
        const box = places[3 * arguments[1] + arguments[0]].getBoundingClientRect();
        return [box.left + box.width / 2, box.top + box.height / 2];""",
        column,
        row,
    )
    for offset in (-3, 0):
        browser.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": x + offset, "y": y})
    WebDriverWait(browser, 5).until(lambda b: b.find_elements(By.CSS_SELECTOR, ".tip:not([hidden])"))
    lines = browser.find_element(By.CLASS_NAME, "tip").text.splitlines()
    browser.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": 2, "y": 2})
    WebDriverWait(browser, 5).until(lambda b: not b.find_elements(By.CSS_SELECTOR, ".tip:not([hidden])"))
    return lines


def test_hovering_a_cell_shows_its_numbers(browser: Any, pages: dict, sweep: Store) -> None:
    visit(browser, pages["sweep"])
    runs = [o for o in sweep.outcomes() if (o.labels["lr"], o.labels["value_lr"]) == (1e-3, 1e-2)]
    metrics = [run.metric for run in runs]
    mean, half = sum(metrics) / 2, abs(metrics[0] - metrics[1]) / 2**0.5
    unlearned = sum(run.learned is False for run in runs)
    marked = [f"∅ {unlearned} of 2 runs learned nothing"] if unlearned else []
    lines = ["η_QK 1e-3, η_V 0.01, λ 10", f"accuracy {mean:.4f} ± {half:.4f} (2 seeds)", *marked]
    assert hover(browser, 0, 1) == lines


def test_pointing_beside_a_point_shows_its_numbers(browser: Any, pages: dict) -> None:
    visit(browser, pages["run"])
    script = """const plot = document.querySelector('.plot'); plot.scrollIntoView({block: 'center'});
        const box = plot.querySelector('svg').getBoundingClientRect();
        return [box.left + box.width / 2, box.top + box.height / 3];"""
    x, y = browser.execute_script(script)
    for offset in (-3, 0):
        browser.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": x + offset, "y": y})
    WebDriverWait(browser, 5).until(lambda b: b.find_elements(By.CSS_SELECTOR, ".tip:not([hidden])"))
    name, numbers = browser.find_element(By.CLASS_NAME, "tip").text.splitlines()
    chart = json.loads(browser.execute_script("return document.querySelector('script.figure').textContent"))
    shown = {row["series"]: dict(zip(row["x"], row["y"], strict=True)) for row in chart["data"]["values"]}
    step, _, value = numbers.partition(": ")
    assert float(value) == pytest.approx(shown[name][int(step)], rel=1e-4)


def test_names_below_a_picture_are_in_sight_at_any_width(browser: Any, pages: dict) -> None:
    script = """return [...document.querySelectorAll('.plot')].every(plot => {
        const box = plot.querySelector('svg').getBoundingClientRect();
        return [...plot.querySelectorAll('.role-legend-label text')].every(text => {
            const name = text.getBoundingClientRect();
            return name.bottom <= box.bottom + 1 && name.right <= box.right + 1 && name.left >= box.left - 1;
        });
    })"""
    for size in (DESKTOP, PHONE):
        visit(browser, pages["comparison"], size)
        assert browser.execute_script(script)


def test_hovering_a_failed_cell_shows_the_reasons_as_text(browser: Any, pages: dict) -> None:
    visit(browser, pages["sweep"])
    lines = hover(browser, 2, 1)
    assert lines[1:] == [
        "1 diverged",
        "1 failed",
        "loss is nan at step 3",
        "out of memory <script>alert('x')</script>&\"$_^",
    ]


def column(browser: Any, table: Any, name: str) -> list[str]:
    script = """const [table, name] = arguments, heads = [...table.tHead.rows[0].cells];
    const at = heads.findIndex(h => h.textContent.trim() === name);
    return [...table.tBodies[0].rows].map(row => row.cells[at].textContent);"""
    return browser.execute_script(script, table, name)


def head(table: Any, name: str) -> Any:
    return next(h for h in table.find_elements(By.TAG_NAME, "th") if h.text.startswith(name))


def test_click_sorts_numbers_as_numbers_and_says_so(browser: Any, pages: dict) -> None:
    visit(browser, pages["sweep"])
    table = browser.find_element(By.CSS_SELECTOR, "table.sortable")
    name, button = head(table, "seconds"), head(table, "seconds").find_element(By.TAG_NAME, "button")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', inline: 'center'})", button)
    button.click()
    ascending = column(browser, table, "seconds")
    assert name.get_attribute("aria-sort") == "ascending"
    numbers = [float(text) for text in ascending if text]
    assert numbers == sorted(numbers)
    assert ascending[-1] == ""  # pending
    button.click()
    descending = column(browser, table, "seconds")
    assert name.get_attribute("aria-sort") == "descending"
    assert [float(text) for text in descending if text] == numbers[::-1]
    assert descending[-1] == ""
    head(table, "lr").find_element(By.TAG_NAME, "button").click()
    assert column(browser, table, "lr") == ["1e-3"] * 5 + ["3e-3"] * 4 + ["0.01"] * 4
    assert name.get_attribute("aria-sort") is None


@pytest.mark.parametrize("key", [Keys.ENTER, Keys.SPACE], ids=["enter", "space"])
def test_keyboard_sorts_and_the_focus_is_seen(browser: Any, pages: dict, key: str) -> None:
    visit(browser, pages["comparison"])
    summary, runs = browser.find_elements(By.CSS_SELECTOR, "table.sortable")
    body = browser.find_element(By.TAG_NAME, "body")
    body.send_keys(Keys.TAB)  # the box that scrolls
    assert browser.switch_to.active_element.get_attribute("class") == "scroll"
    browser.switch_to.active_element.send_keys(Keys.TAB)
    button = browser.switch_to.active_element
    assert (button.tag_name, button.text.strip("↕")) == ("button", "method")
    assert button.value_of_css_property("outline-style") == "solid"
    before = column(browser, summary, "method")
    button.send_keys(key)
    assert column(browser, summary, "method") == sorted(before) != before
    assert head(summary, "method").get_attribute("aria-sort") == "ascending"
    assert head(runs, "method").get_attribute("aria-sort") is None


def brightness(colour: str) -> float:
    red, green, blue = (float(part) for part in colour.partition("(")[2].rstrip(")").split(",")[:3])
    return (0.299 * red + 0.587 * green + 0.114 * blue) / 255


def shades(browser: Any) -> tuple[float, float, float]:
    """Return how bright the page, its text and the text of an axis are."""
    script = """const style = (e, p) => getComputedStyle(e)[p];
    const label = document.querySelector('.plot .role-axis-label text');  // none while it is drawn anew
    return [style(document.documentElement, 'backgroundColor'), style(document.querySelector('h1'), 'color'),
            label ? style(label, 'fill') : 'rgb(127, 127, 127)'];"""
    return tuple(map(brightness, browser.execute_script(script)))


@pytest.mark.parametrize("name", ["sweep", "run"])
def test_dark_and_light_pages_and_plots(browser: Any, pages: dict, name: str) -> None:
    visit(browser, pages[name], scheme="dark")
    page, text, axis = shades(browser)
    assert page < 0.2
    assert text > 0.8
    assert axis > 0.8
    set_scheme(browser, "light")  # while it is open
    WebDriverWait(browser, 5).until(lambda b: shades(b)[2] < 0.3)
    page, text, axis = shades(browser)
    assert page > 0.9
    assert text < 0.3


def test_pictures_have_words_and_nothing_moves(browser: Any, pages: dict) -> None:
    visit(browser, pages["sweep"])
    plots = browser.find_elements(By.CSS_SELECTOR, ".plot")
    assert all(plot.get_attribute("role") == "img" and plot.get_attribute("aria-label") for plot in plots)
    assert "Heat map of accuracy" in plots[0].get_attribute("aria-label")
    moving = "return [...document.querySelectorAll('main *')].filter(e => getComputedStyle(e).animationName !== 'none')"
    assert browser.execute_script(moving) == []


@pytest.fixture(scope="module")
def matrices(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Pages with the classes, the confusion matrix and the mistakes of 2, 7 and 43 classes."""
    found = {}
    for classes in (2, 7, 43):
        names = [f"{'a rather long name of a class' if i % 3 == 0 else 'class'} {i}" for i in range(classes)]
        counts = [[(40 if i == j else (i + 2 * j) % 5 == 0) * (i + 1) for j in range(classes)] for i in range(classes)]
        entries = [{"label": name, "precision": 0.5, "recall": 1, "f1": 0.2, "support": 9} for name in names]
        result = {"classes": [entry | {"predicted": 1} for entry in entries], "confusion": counts}
        mistake = {"text": "word " * 60, "label": names[0], "prediction": names[1], "probability": 0.9}
        parts = [*class_parts(result | {"reported_on": ["x"]}), *mistakes_table([mistake | {"label_probability": 0.1}])]
        found[classes] = tmp_path_factory.mktemp("matrix") / "page.html"
        found[classes].write_text(render(Page("x", [], [], parts, ["Warning: " + "word " * 40])), encoding="utf-8")
    return found


@pytest.mark.parametrize("classes", [2, 7, 43])
@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_matrix_fits_or_scrolls_beside_its_labels(browser: Any, matrices: dict, classes: int, size: tuple) -> None:
    visit(browser, matrices[classes], size)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= size[0]
    script = """const table = document.querySelector('.matrix'), box = table.parentElement;
        const left = e => e.getBoundingClientRect().left - box.getBoundingClientRect().left;
        box.scrollLeft = 1e6;
        const label = table.querySelector('tbody th'), cells = [...table.querySelectorAll('tbody td')];
        return [box.scrollWidth - box.clientWidth, left(label), cells.every(c => c.scrollWidth <= c.clientWidth),
                cells.length, Math.min(...cells.map(c => parseFloat(getComputedStyle(c).fontSize)))];"""
    hidden, label, fits, cells, letters = browser.execute_script(script)
    assert label == pytest.approx(0, abs=1)  # in sight also where the rest has scrolled
    assert fits
    assert cells == classes**2
    assert letters >= 11
    assert (hidden > 1) == (classes == 43) if size == PHONE else hidden <= 1 or classes == 43


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_numbers_of_a_matrix_stand_out_from_their_colour(browser: Any, matrices: dict, scheme: str) -> None:
    """By 4.5 to 1, as WCAG wants it, from the fullest to the palest."""
    visit(browser, matrices[7], scheme=scheme)
    script = """const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
        const page = getComputedStyle(document.documentElement).backgroundColor;
        const paint = (...colours) => { for (const c of colours) { canvas.fillStyle = c; canvas.fillRect(0, 0, 1, 1); }
                                        return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3); };
        const light = rgb => rgb.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
                                .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0.05);
        const shades = [];
        for (const kind of ['right', 'wrong']) for (const share of [0.02, 0.3, 0.6, 1]) {
            const cell = document.querySelector('.matrix .' + kind);
            cell.style.setProperty('--share', share);
            const style = getComputedStyle(cell);
            const [back, ink] = [light(paint(page, style.backgroundColor)), light(paint(page, style.color))];
            shades.push(Math.max(back, ink) / Math.min(back, ink));
        }
        return shades;"""
    shades = browser.execute_script(script)
    assert min(shades) >= 4.5
    assert shades[0] > shades[1] > shades[3]


def test_mistakes_stand_below_each_other_on_a_phone(browser: Any, matrices: dict) -> None:
    visit(browser, matrices[2], PHONE)
    cells = browser.find_elements(By.CSS_SELECTOR, ".stacked tbody td")
    boxes = [cell.rect for cell in cells]
    assert all(box["x"] + box["width"] <= PHONE[0] for box in boxes)
    assert all(below["y"] >= above["y"] + above["height"] - 1 for above, below in itertools.pairwise(boxes))
    script = "return getComputedStyle(arguments[0], '::before').content"
    assert [browser.execute_script(script, cell) for cell in cells[1:3]] == ['"label: "', '"prediction: "']
    visit(browser, matrices[2])
    assert len({cell.rect["y"] for cell in browser.find_elements(By.CSS_SELECTOR, ".stacked tbody td")}) == 1


def test_label_of_a_script_does_not_run(browser: Any, pages: dict) -> None:
    visit(browser, pages["comparison"])
    code = "return [...document.scripts].filter(s => !s.type && s.textContent.includes('alert(\\'x')).length"
    assert browser.execute_script(code) == 0
    assert "<script>alert('x')</script>" in browser.find_element(By.TAG_NAME, "main").text
