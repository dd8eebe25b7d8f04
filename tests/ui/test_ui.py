"""MLflow's pages on a store that real runs made show what they must; pictures of them in ``build/screenshots``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.ui
SECONDS = 120
"""When to give up on a page; 10 are enough for it alone."""


def shows(browser: Any, page: str, *texts: str) -> None:
    """Open a page and wait until all the texts are on it."""
    browser.get("about:blank")  # the pages differ behind the #, which alone loads nothing
    browser.get(page)
    await_texts(browser, *texts)


def await_texts(browser: Any, *texts: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    found = WebDriverWait(browser, SECONDS)
    found.until(lambda at: all(text in at.find_element("tag name", "body").text for text in texts), str(texts))


def test_the_list_shows_runs_by_name(site: Any, browser: Any, shoot: Callable[[str], Path]) -> None:
    shows(browser, site.page("runs"), "tiny-0001", "sweep_mask_ratio-0001")
    shoot("runs")


def test_a_search_by_tag_shows_a_sweep_s_trials(site: Any, browser: Any, shoot: Callable[[str], Path]) -> None:
    wanted = "tags.tats.kind %3D 'run' and tags.tats.sweep %3D 'sweep_mask_ratio-0001'"
    shows(browser, site.page(f"runs?searchFilter={wanted.replace(' ', '%20')}"), "4 matching runs")
    folded = f"//a[contains(@href, '{site.sweep.run_id}')]/ancestor::*[@role='gridcell'][1]//button"
    browser.find_element("xpath", folded).click()
    await_texts(browser, *site.trials)
    assert "tiny-0001" not in browser.find_element("tag name", "body").text
    shoot("trials")


def test_a_run_s_page_says_what_it_is(site: Any, browser: Any, shoot: Callable[[str], Path]) -> None:
    shows(browser, site.page(f"runs/{site.run.run_id}"), "tiny-0001", "Sampler tats hides 80 % of 128 tokens")
    shoot("run")


def test_a_run_s_curves_are_drawn(site: Any, browser: Any, shoot: Callable[[str], Path]) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    shows(browser, site.page(f"runs/{site.run.run_id}/model-metrics"), "autoencoder_grad_norm")
    few = "_loss|mask_error"  # as many as fit on the screen: charts are drawn where they are seen
    browser.find_element("css selector", "input[placeholder='Search metric charts']").send_keys(few)
    await_texts(browser, "tiny-0001 (ppo/value_loss)", "tiny-0001 (validation/random_mask_error)")
    drawn = "return document.querySelectorAll('.js-plotly-plot .scatterlayer path.js-line').length"
    WebDriverWait(browser, SECONDS).until(lambda at: at.execute_script(drawn) > 0)
    shoot("metrics")


def test_a_picture_is_shown(site: Any, browser: Any, shoot: Callable[[str], Path]) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    shows(browser, site.page(f"runs/{site.run.run_id}/artifacts/pictures/{site.picture}"), site.picture)
    large = "return [...document.images].some(image => image.complete && image.naturalWidth > 200)"
    WebDriverWait(browser, SECONDS).until(lambda at: at.execute_script(large))
    shoot("picture")
