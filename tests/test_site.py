"""The rendered site. `make test` builds it, and sets SITE to its folder."""

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from bs4 import BeautifulSoup
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from latent_scattering.paths import ROOT

TOC = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf8"))
LISTED = [TOC["root"]] + [
    entry["file"] for part in TOC["parts"] for entry in part["chapters"]
]
# chrome-untrusted: what Chromium's own first tab asks for
LOCAL = ("file:", "data:", "blob:", "about:", "chrome:", "chrome-untrusted:")


@pytest.fixture(scope="session")
def site() -> Path:
    if not os.environ.get("SITE"):
        pytest.skip("SITE does not name a built site; `make test` builds one")
    return (ROOT / os.environ["SITE"]).resolve(strict=True)


@pytest.fixture(scope="session")
def pages(site) -> dict[Path, BeautifulSoup]:
    """All pages; neither the redirect to the index, nor the theme's templates."""
    return {
        path: BeautifulSoup(path.read_text(encoding="utf8"), "html.parser")
        for path in sorted(site.rglob("*.html"))
        if path != site / "index.html" and site / "_static" not in path.parents
    }


def test_every_listed_page_is_rendered(site, pages):
    assert {site / f"{name}.html" for name in LISTED} <= set(pages)


def test_the_root_leads_to_the_index(site):
    page = BeautifulSoup((site / "index.html").read_text(), "html.parser")
    target = page.meta["content"].partition("url=")[2]
    assert (site / target).samefile(site / f"{TOC['root']}.html")


def test_pages_have_a_title_and_a_language(pages):
    for path, page in pages.items():
        assert page.title.get_text(strip=True), path
        assert page.html.get("lang") == "en", path


def test_images_say_what_is_seen(pages):
    for path, page in pages.items():
        for image in page.find_all("img"):
            alt = image.get("alt", "").strip()
            assert len(alt.split()) > 2, f"{path}: {image.get('src')}: alt={alt!r}"
            assert not re.search(r"\.(png|svg|jpe?g)\b|_images/", alt), (path, alt)
        for drawing in page.find_all("svg", role="img"):
            if "pipeline" in drawing.get("class", []):
                assert drawing.title.get_text(strip=True), path


def addresses(page: BeautifulSoup) -> Iterator[tuple[str, str]]:
    for tag, key in (
        *(("a", "href"), ("link", "href"), ("script", "src"), ("img", "src")),
        *(("iframe", "src"), ("source", "src"), ("object", "data"), ("use", "href")),
    ):
        for element in page.find_all(tag, **{key: True}):
            yield tag, element[key]


def test_no_page_asks_another_host(pages):
    for path, page in pages.items():
        for tag, address in addresses(page):
            outside = address.startswith("//") or urlsplit(address).scheme in (
                "http",
                "https",
            )
            assert tag == "a" or not outside, f"{path}: {tag} {address}"


def test_no_style_asks_another_host(site):
    sheets = list(site.rglob("*.css"))
    assert any(sheet.name == "style.css" for sheet in sheets)
    outside = re.compile(r"(?:@import\s*|url\(\s*)['\"]?(?:https?:)?//")
    for sheet in sheets:
        assert not outside.search(sheet.read_text(encoding="utf8")), sheet


def test_no_link_within_the_site_is_broken(site, pages):
    anchors = {
        path: {e["id"] for e in page.find_all(id=True)}
        | {e["name"] for e in page.find_all("a", attrs={"name": True})}
        for path, page in pages.items()
    }
    for path, page in pages.items():
        for tag, address in addresses(page):
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = path
            if parts.path:
                target = (path.parent / unquote(parts.path)).resolve()
                assert target.is_file(), f"{path}: {tag} {address}"
            if parts.fragment and target in anchors:
                assert unquote(parts.fragment) in anchors[target], f"{path}: {address}"


def test_no_markup_is_left_over(pages):
    left = re.compile(
        r"\$\$|\{glue|glue:|\*\*glue|\[glue|\{numref|\{eq\}|\{cite|\]\{\."
    )
    for path, page in pages.items():
        for text in page.body.find_all(string=left):
            inside = {parent.name for parent in text.parents}
            if not inside & {"script", "style", "pre", "code"}:
                raise AssertionError(f"{path}: {text.strip()!r}")


@pytest.fixture(scope="session")
def browser(site, tmp_path_factory) -> Iterator[webdriver.Chrome]:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("no chromium with a chromedriver is installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        *("headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-sync"),
        *("disable-background-networking", "disable-component-update"),
        f"user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(f"--{argument}")
    options.set_capability(
        "goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"}
    )
    chrome = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield chrome
    finally:
        chrome.quit()


def open_page(browser: webdriver.Chrome, path: Path, width: int) -> None:
    """Open a page at a width in pixels, and wait until its formulas are set."""
    browser.get_log("browser"), browser.get_log("performance")
    size = {"width": width, "height": 800, "deviceScaleFactor": 1}
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", size | {"mobile": width < 500}
    )
    browser.get(path.as_uri())
    if browser.find_elements(By.CLASS_NAME, "math"):
        WebDriverWait(browser, 30).until(
            lambda b: b.find_elements(By.TAG_NAME, "mjx-container")
        )
        browser.execute_async_script(
            "MathJax.startup.promise.then(() => document.fonts.ready)"
            ".then(arguments[0])"
        )
    time.sleep(0.1)  # what the page does once it is loaded


@pytest.mark.parametrize("name", LISTED)
def test_a_page_on_a_phone_without_a_network(site, browser, name):
    open_page(browser, site / f"{name}.html", 375)
    wrong = [e for e in browser.get_log("browser") if e["level"] == "SEVERE"]
    assert not wrong
    events = (json.loads(e["message"]) for e in browser.get_log("performance"))
    requests = [
        event["message"]["params"]["request"]["url"]
        for event in events
        if event["message"]["method"] == "Network.requestWillBeSent"
    ]
    assert any("/style.css" in request for request in requests)
    assert not [r for r in requests if not r.startswith(LOCAL)]

    def count(selector: str) -> int:
        return len(browser.find_elements(By.CSS_SELECTOR, selector))

    assert count(".math > mjx-container") == count(".math")
    assert count("mjx-merror") == 0
    assert count("mjx-container [style*='color: red']") == 0  # unknown commands
    width = browser.execute_script("return document.documentElement.scrollWidth")
    assert width <= 375


def test_the_dark_mode_can_be_switched(site, browser):
    open_page(browser, site / f"{TOC['root']}.html", 1400)
    light = {}
    for _ in range(3):  # it goes through auto, light and dark
        theme = browser.execute_script("return document.documentElement.dataset.theme")
        light[theme] = sum(
            int(part)
            for part in re.findall(
                r"\d+",
                browser.execute_script(
                    "return getComputedStyle(document.body).backgroundColor"
                ),
            )[:3]
        ) / (3 * 255)
        browser.find_element(By.CSS_SELECTOR, ".theme-switch-button").click()
        time.sleep(0.5)
    assert light["light"] > 0.9
    assert light["dark"] < 0.2
