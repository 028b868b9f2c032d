"""The report as a person sees it, in headless Chromium."""

from __future__ import annotations

import base64
import dataclasses
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import flowercnn as fc

EVIL = "<img src=x onerror=alert(1)>"
CLASSES = ("rose", EVIL, *(f"class {number}" for number in range(2, 17)))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, pictures: Any) -> Path:
    """A report on 300 pictures of 17 classes, some names of which are markup."""
    random = np.random.default_rng(0)
    y_true = random.integers(len(CLASSES), size=300)
    y_prob = (
        random.dirichlet(np.full(len(CLASSES), 0.2), size=300) + 0.4 * np.eye(len(CLASSES))[y_true]
    )
    y_prob = (y_prob / y_prob.sum(axis=1, keepdims=True)).astype(np.float32)
    textures = [pictures.encoded(pictures.texture(number, (300, 400))) for number in range(30)]
    samples = tuple(
        fc.Sample(f"{EVIL}{number}.jpg", CLASSES[label], textures[number % 30])
        for number, label in enumerate(y_true)
    )
    evaluation = fc.Evaluation(
        CLASSES, tuple(sample.key for sample in samples), y_true, y_prob, samples=samples
    )
    audit = fc.Dataset.from_source(fc.InMemory(textures * 2, [EVIL, "rose"] * 30)).audit(
        progress=False
    )
    history = {"accuracy": [0.2, 0.5, 0.7], "loss": [2.0, 1.2, 0.9], "val_loss": [2.1, 1.5, 1.1]}
    evaluation = dataclasses.replace(evaluation, history=history, audit=audit, info={"model": EVIL})
    return evaluation.save_report(tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip(reason="chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(executable_path=driver)
    opened = webdriver.Chrome(options=options, service=service)
    yield opened
    opened.quit()


@pytest.fixture
def page(browser: Any, report: Path) -> Any:
    """The report, opened anew at desktop width in light colours."""
    look(browser, "light", 1200)
    browser.get(report.as_uri())
    return browser


def look(browser: Any, scheme: str, width: int) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def find(page: Any, selector: str) -> list[Any]:
    return list(page.find_elements("css selector", selector))


def test_no_error_is_logged_and_no_request_leaves_the_file(page: Any, report: Path) -> None:
    for button in find(page, ".matrix td button")[:5] + find(page, ".sortable thead button"):
        button.click()
    assert page.get_log("browser") == []
    sent = [
        entry["message"]
        for entry in page.get_log("performance")
        if "Network.requestWillBeSent" in entry["message"]
    ]
    assert all(report.as_uri() in message or '"url":"data:' in message for message in sent)
    assert page.execute_script("return document.querySelectorAll('img[src=x]').length") == 0
    assert EVIL in page.find_element("id", "classes").text


def test_choosing_a_number_shows_its_pictures(page: Any) -> None:
    button = find(page, ".matrix td.wrong button")[0]
    button.click()
    panel = page.find_element("id", "cell")
    assert f"({button.text})" in panel.text
    assert len(panel.find_elements("tag name", "img")) == int(button.text)
    widths = page.execute_script(
        "return [...document.querySelectorAll('#cell img')].map(i => i.naturalWidth)"
    )
    assert min(widths) > 50
    assert button.get_attribute("aria-pressed") == "true"


def test_numbers_can_be_reached_by_keyboard_alone(page: Any) -> None:
    first = find(page, ".matrix td button")[0]
    assert [b.get_attribute("tabindex") for b in find(page, ".matrix td button")].count("0") == 1
    page.execute_script("arguments[0].focus()", first)
    first.send_keys("\ue014")  # arrow right
    second = page.switch_to.active_element
    assert second.get_attribute("data-row") == first.get_attribute("data-row")
    assert second.get_attribute("data-column") != first.get_attribute("data-column")
    second.send_keys("\ue007")  # enter
    assert second.get_attribute("aria-pressed") == "true"


def test_the_table_of_classes_sorts_both_ways_by_every_column(page: Any) -> None:
    for column, button in enumerate(find(page, ".sortable thead button")):
        orders = []
        for _ in range(2):
            button.click()
            cells = find(page, f".sortable tbody tr > :nth-child({column + 1})")
            values = [cell.get_attribute("data-value") or cell.text for cell in cells]
            orders.append([float(v) for v in values] if column else [v.casefold() for v in values])
        assert orders[0] == orders[1][::-1] or sorted(orders[0]) == sorted(orders[1])
        if column:
            assert orders[0] == sorted(orders[0], reverse=True)
            assert orders[1] == sorted(orders[1])
    assert find(page, "th[aria-sort]")[0].get_attribute("aria-sort") == "ascending"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390])
def test_it_looks_right(page: Any, report: Path, scheme: str, width: int) -> None:
    look(page, scheme, width)
    page.get(report.as_uri())
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    shot = page.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})["data"]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(shot))).convert("L"), dtype=float)
    ground = np.median(pixels)
    assert ground > 240 if scheme == "light" else ground < 50
    assert (
        0.01 < (np.abs(pixels - ground) > 90).mean() < 0.6
    )  # there is text and there are pictures
    contrast = page.execute_script(
        "const rgb = (c) => c.match(/[0-9.]+/g).slice(0, 3).map(Number);"
        "const linear = (v) => v <= 10 ? v / 255 / 12.92 : ((v / 255 + .055) / 1.055) ** 2.4;"
        "const light = (c) => rgb(c).map(linear)"
        ".reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);"
        "const paper = light(getComputedStyle(document.querySelector('section')).backgroundColor);"
        "return ['.note', '.name', '.took', 'h2', '.facts th', 'nav a'].map((s) => {"
        "const ink = light(getComputedStyle(document.querySelector(s)).color);"
        "return (Math.max(ink, paper) + .05) / (Math.min(ink, paper) + .05); });"
    )
    assert min(contrast) >= 4.5  # WCAG AA


def test_a_screen_reader_is_told_what_things_are(page: Any) -> None:
    assert page.find_element("tag name", "html").get_attribute("lang") == "en"
    assert len(find(page, "h1")) == 1
    assert all(figure.get_attribute("aria-label") for figure in find(page, "svg[role=img]"))
    assert all(image.get_attribute("alt") for image in find(page, "img"))
    assert all(
        find(table, "caption, th[scope]")
        for table in find(page, "table.sortable, .matrix table, .facts")
    )
    ids = page.execute_script("return [...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(set(ids)) == len(ids)


def test_it_prints(page: Any) -> None:
    printed = page.execute_cdp_cmd("Page.printToPDF", {})["data"]
    assert base64.b64decode(printed).startswith(b"%PDF")
