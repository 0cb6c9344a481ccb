"""The page of a report in a browser: on a phone, light and dark, by keyboard and screen reader."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sktransfer import PretrainedFeatureExtractor
from sktransfer.inspection import report
from tests.support import tiny_backbone

for library in ("selenium", "jinja2", "captum", "cleanlab"):
    pytest.importorskip(library)

from selenium.webdriver.common.keys import Keys  # noqa: E402

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def page(colours, tmp_path_factory) -> Path:
    """A report on files with hostile and long names."""
    X, y = colours
    folder = tmp_path_factory.mktemp("report")
    paths = []
    for i, image in enumerate(X):
        paths.append(folder / f"{'very_long_name_' * 9}<img src=x onerror=document.title=1>{i}.png")
        Image.fromarray(np.kron(image, np.ones((9, 9, 1), np.uint8))).save(paths[-1])
    paths[4].write_bytes(b"")
    paths.append(paths[0])
    y = np.where(y == "dark", "<b onclick=alert(1)>dark", "light_without_any_place_to_break_a_line")
    model = make_pipeline(PretrainedFeatureExtractor(tiny_backbone()), LogisticRegression())
    return report(model, paths, np.append(y, y[0]), folder / "page.html", cv=3).path


@pytest.fixture
def driver(browser, page):
    for log in ("browser", "performance"):  # of pages of other tests
        browser.get_log(log)
    browser.get(page.as_uri())
    return browser


def resize(driver, width: int, scheme: str = "light") -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


CONTRAST = """
function channels(colour) { return colour.match(/[\\d.]+/g).map(Number); }
function luminance(colour) {
  const part = channels(colour).slice(0, 3).map(c => c / 255)
    .map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2];
}
function background(element) {
  for (let e = element; e; e = e.parentElement) {
    const colour = getComputedStyle(e).backgroundColor, alpha = channels(colour)[3];
    if (alpha === undefined || alpha === 1) return colour;
  }
  return "rgb(255, 255, 255)";
}
const texts = "h1, h2, p, a, th, td, figcaption, .file, pre, caption, summary";
return [...document.querySelectorAll(texts)]
  .filter(e => e.innerText.trim() && e.checkVisibility()).map(e => {
    const pair = [getComputedStyle(e).color, background(e)].map(luminance).sort((a, b) => b - a);
    return [(pair[0] + 0.05) / (pair[1] + 0.05), e.innerText.slice(0, 40)];
  }).sort((a, b) => a[0] - b[0])[0];
"""


def test_nothing_runs_nothing_is_fetched_and_nothing_is_complained_about(driver, page):
    assert driver.title == "Report: Pipeline on tinynet"
    assert driver.execute_script("return document.scripts.length") == 0
    assert driver.execute_script("return document.querySelectorAll('[onclick]').length") == 0
    assert driver.get_log("browser") == []
    messages = [json.loads(e["message"])["message"] for e in driver.get_log("performance")]
    urls = [
        m["params"]["request"]["url"]
        for m in messages
        if m["method"] == "Network.requestWillBeSent"
    ]
    own = ("data:", "chrome:", "devtools:", page.as_uri())  # of the browser's first page, too
    assert [url for url in urls if not url.startswith(own)] == []
    assert page.as_uri() in urls
    loaded = "return [...document.images].every(image => image.complete && image.naturalWidth > 0)"
    assert driver.execute_script(loaded)


@pytest.mark.parametrize("width", [320, 390, 768, 1400])
def test_the_page_is_as_wide_as_the_screen(driver, width):
    resize(driver, width)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_have_a_contrast_of_four_and_a_half(driver, scheme):
    resize(driver, 1200, scheme)
    ratio, text = driver.execute_script(CONTRAST)
    assert ratio >= 4.5, text
    colour = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (colour == "rgb(255, 255, 255)") == (scheme == "light")


def test_all_parts_can_be_reached_and_opened_by_keyboard(driver):
    def focused(property: str) -> str:
        return driver.execute_script(f"return document.activeElement.{property}")

    def press(key) -> None:
        driver.switch_to.active_element.send_keys(key)

    press(Keys.TAB)
    assert focused("innerText") == "Skip to the content"
    assert driver.execute_script("return document.activeElement.getBoundingClientRect().left") >= 0
    press(Keys.ENTER)
    assert focused("id") == "content"
    names = []
    for _ in range(40):
        press(Keys.TAB)
        names.append(focused("tagName"))
        if names[-1] == "SUMMARY":
            break
    assert names[-1] == "SUMMARY"
    outline = "return getComputedStyle(document.activeElement).outlineStyle"
    assert driver.execute_script(outline) == "solid"
    press(Keys.ENTER)
    assert driver.execute_script("return document.querySelector('details').open")


@pytest.mark.slow
def test_a_screen_reader_is_given_names_of_pictures_tables_and_sections(driver):
    tree = driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles: dict[str, list[str]] = {}
    for node in tree:
        if not node["ignored"]:
            name = node.get("name", {}).get("value", "")
            roles.setdefault(node["role"]["value"], []).append(name)
    pictures = roles["image"]
    assert len(pictures) > 8
    assert all(pictures)
    assert all(roles["table"])
    assert {"Data", "Model", "Scores", "Confusion", "Worst errors"} <= set(roles["region"])
    assert {"main", "navigation", "banner"} <= roles.keys()
    levels = driver.execute_script(
        "return [...document.querySelectorAll('h1, h2, h3')].map(h => Number(h.tagName[1]))"
    )
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    ids = driver.execute_script("return [...document.querySelectorAll('[id]')].map(e => e.id)")
    targets = driver.execute_script(
        "return [...document.querySelectorAll('a')].map(a => a.hash.slice(1))"
    )
    assert set(targets) <= set(ids)
    assert len(ids) == len(set(ids))
