"""The page in a real browser: it opens without a network, says nothing in the console, and a chart wakes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from curricle.report import queries

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM.exists() and DRIVER.exists()), reason=f"no {CHROMIUM} with {DRIVER}: apt-get install chromium-driver"
)


@pytest.fixture(scope="module")
def browser() -> Iterator:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1200,900",
        "--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    yield driver
    driver.quit()


def requests(driver) -> list[str]:
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


def wake(driver, chart) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    driver.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", chart)
    chart.click()
    WebDriverWait(driver, 20).until(lambda _: chart.get_attribute("data-state") == "awake")


def test_opens_offline_wakes_every_chart_and_logs_nothing(browser, small):
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(small.page.as_uri())
    # On a busy machine the page's load may be told before all of it is laid out.
    WebDriverWait(browser, 20).until(lambda _: len(browser.find_elements("css selector", ".chart")) >= 15)
    charts = browser.find_elements("css selector", ".chart")
    assert all(chart.find_element("css selector", ".still svg").is_displayed() for chart in charts)
    for chart in charts:
        before = chart.size["height"]
        wake(browser, chart)
        assert not chart.find_element("css selector", ".still").is_displayed()
        assert chart.find_element("css selector", ".live svg").is_displayed()
        assert abs(chart.size["height"] - before) <= 2, "waking a chart moves nothing on the page"
    assert browser.get_log("browser") == []
    assert [url for url in requests(browser) if not url.startswith(("file:", "data:"))] == []


def test_a_tooltip_says_the_estimate(browser, small):
    from selenium.webdriver.common.action_chains import ActionChains

    browser.get(small.page.as_uri())
    chart = browser.find_element("id", "ends0")
    wake(browser, chart)
    point = chart.find_elements("css selector", ".live .mark-symbol path")[0]
    ActionChains(browser).move_to_element(point).perform()
    tooltip = browser.find_element("id", "vg-tooltip-element").text
    assert "points" in tooltip and "this strategy" in tooltip


def test_the_answer_equals_a_query_on_the_results(browser, small):
    browser.get(small.page.as_uri())
    ends = [row for row in queries.seed_scores(small.results, "problems") if row["last"] and row["final"]]

    def mean(strategy: str) -> float:
        scores = [row["accuracy"] for row in ends if row["strategy"] == strategy]
        return sum(scores) / len(scores)

    first = browser.find_element("css selector", ".claims data")
    gained = mean("code first") - mean("from scratch")
    assert float(first.get_attribute("value")) == pytest.approx(gained)
    assert first.text == f"{gained:+.1f} points"


def test_hostile_names_and_outputs_run_nothing(browser, made, hostile, tmp_path):
    strategies = {hostile: ["code", "math"], "plain": ["math"]}
    changes = {"strategies": strategies, "baseline": "plain", "question": hostile, "seeds": [0]}
    page = made(tmp_path, changes, output=hostile, study_text=hostile).page
    browser.get(page.as_uri())
    assert browser.find_element("css selector", "h1").text == hostile
    for chart in browser.find_elements("css selector", ".chart")[:3]:
        wake(browser, chart)
    assert browser.find_elements("css selector", "img") == []
    assert browser.get_log("browser") == []


def test_fits_a_telephone(browser, small):
    from selenium.webdriver.support.ui import WebDriverWait

    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    )
    browser.get(small.page.as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 400
    too_wide = """for (const closed of document.querySelectorAll('details')) closed.open = true;
        return [...document.querySelectorAll('caption > span')]
            .filter((span) => span.getBoundingClientRect().right > 400).map((span) => span.textContent)"""
    assert browser.execute_script(too_wide) == [], "captions wrap to what is seen of a table"
    hidden = """const said = (box) => getComputedStyle(box.querySelector('caption > span'), '::after').content;
        const wide = [...document.querySelectorAll('.wide')].filter((box) => box.querySelector('caption'));
        return [wide.filter((box) => box.scrollWidth > box.clientWidth + 1).length,
                wide.filter((box) => said(box).includes('Scroll sideways')).length]"""

    def says_so(_) -> bool:
        wider, told = browser.execute_script(hidden)
        return 0 < wider == told

    WebDriverWait(browser, 20).until(says_so, "a table that is wider than the page says so")
