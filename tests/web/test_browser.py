"""The page in headless Chromium: drop pictures, enlarge, compare, save."""

import os
import shutil
import zipfile
from contextlib import suppress

import pytest
from selenium import webdriver
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from sr_quant_cli.imaging.io import write_rgb
from sr_quant_cli.modelfiles.card import Card
from sr_quant_cli.modelfiles.modelfile import save_model
from sr_quant_cli.system.files import user_models_dir
from tests.helpers import picture, tiny_edsr
from tests.web.serving import serving, stopped

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

FITS = "return document.documentElement.scrollWidth <= innerWidth"
"""Script that tells if nothing lies beside the window."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="needs Chromium and chromedriver (chromium-driver)"
    ),
]


@pytest.fixture
def address():
    """The address of a page that has the model ``tiny``."""
    save_model(user_models_dir() / "tiny.safetensors", tiny_edsr(), Card(name="tiny"))
    with serving("--runtime", "torch") as (process, address):
        yield address
        assert stopped(process)[0] == 130


@pytest.fixture
def browser(tmp_path):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--disable-gpu", "--window-size=1280,900"):
        options.add_argument(argument)
    if os.geteuid() == 0:  # Chromium's sandbox refuses the superuser
        options.add_argument("--no-sandbox")
    options.add_experimental_option(
        "prefs", {"download.default_directory": str(tmp_path / "saved")}
    )
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, Service(DRIVER))
    try:
        yield driver
        told = [entry["message"] for entry in driver.get_log("browser")]
        assert not [line for line in told if "Content Security Policy" in line or "Error" in line]
    finally:
        driver.quit()


def find(browser, selector):
    return browser.find_element(By.CSS_SELECTOR, selector)


def wait_for(browser, condition):
    return WebDriverWait(browser, 120, 0.05).until(lambda _: condition())


def drop(browser, *files):
    """Drop files onto the page, as from a file manager.

    A busy Chromium can lose a drop before any page sees it, so it is repeated until one arrives.
    """
    browser.execute_script(
        "window.drops = 0; addEventListener('drop', () => { window.drops += 1; })"
    )
    place = find(browser, "#drop").rect
    where = {"x": place["x"] + place["width"] / 2, "y": place["y"] + place["height"] / 2}
    data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}

    for _ in range(6):
        for kind in ("dragEnter", "dragOver", "drop"):
            event = {"type": kind, **where, "data": data}
            browser.execute_cdp_cmd("Input.dispatchDragEvent", event)
        with suppress(TimeoutException):
            arrived = WebDriverWait(browser, 10, 0.05)
            return arrived.until(lambda _: browser.execute_script("return window.drops"))
    raise AssertionError("no drop reached the page")


def states(browser):
    return [state.text for state in browser.find_elements(By.CSS_SELECTOR, ".state")]


def rows(browser):
    return browser.find_elements(By.CSS_SELECTOR, "#list li")


def clip(browser, image):
    return find(browser, image).value_of_css_property("clip-path")


def choose(browser, name, value):
    option = f"select[name={name}] option[value='{value}']"
    wait_for(browser, lambda: browser.find_elements(By.CSS_SELECTOR, option))
    find(browser, option).click()


def test_pictures_are_dropped_enlarged_compared_and_saved(browser, address, tmp_path, srq):
    for name, seed in (("a.png", 0), ("b.png", 1)):
        write_rgb(tmp_path / name, picture(60, 80, seed=seed))
    (tmp_path / "broken.png").write_text("no picture")
    browser.get(address)
    drop(browser, *(tmp_path / name for name in ("a.png", "broken.png", "b.png")))
    wait_for(browser, lambda: len(rows(browser)) == 2 and find(browser, "#message").text)
    assert find(browser, "#message").text.startswith("cannot read broken.png: ")
    choose(browser, "model", "tiny")
    find(browser, "[name=size][value='3']").click()
    enlarge = find(browser, "#enlarge")
    assert enlarge.text == "Enlarge 2 pictures"
    enlarge.click()
    wait_for(browser, lambda: all(state.startswith("done in") for state in states(browser)))
    assert (enlarge.text, enlarge.is_enabled()) == ("Enlarged", False)
    assert "180" in find(browser, ".sizes").text

    title = find(browser, "#comparison h2")
    assert title.text.startswith("a.png")
    browser.find_elements(By.CSS_SELECTOR, ".show")[1].click()
    assert title.text.startswith("b.png")
    after = find(browser, "#after")
    wait_for(browser, lambda: after.get_property("naturalWidth") == 240)
    assert find(browser, "#before").get_property("naturalWidth") == 80
    for side in ("width", "height"):
        assert find(browser, "#before").rect[side] == pytest.approx(after.rect[side], abs=0.1)
    slider = find(browser, "#slider")
    assert (clip(browser, "#before"), clip(browser, "#after")) == (
        "inset(0px 50% 0px 0px)",
        "inset(0px 0px 0px 50%)",
    )
    slider.send_keys(Keys.HOME)
    assert clip(browser, "#after") == "inset(0px 0px 0px 0%)"
    webdriver.ActionChains(browser).move_to_element_with_offset(
        slider, slider.rect["width"] // 4, 0
    ).click().perform()
    assert float(slider.get_property("value")) == pytest.approx(75, abs=4)

    find(browser, "[name=zoom][value=full]").click()
    assert after.rect["width"] == 240
    assert browser.execute_script(FITS)

    saved = tmp_path / "saved"
    find(browser, ".save").click()
    wait_for(browser, (saved / "a_x3.png").is_file)
    options = ("--model", "tiny", "--runtime", "torch", "--scale", "3")
    assert srq("upscale", tmp_path / "a.png", *options, "-o", tmp_path / "a3.png")[0] == 0
    assert (saved / "a_x3.png").read_bytes() == (tmp_path / "a3.png").read_bytes()
    find(browser, "#save-all").click()
    wait_for(browser, (saved / "enlarged.zip").is_file)
    with zipfile.ZipFile(saved / "enlarged.zip") as archive:
        assert archive.namelist() == ["a_x3.png", "b_x3.png"]

    find(browser, "#clear").click()
    wait_for(browser, lambda: not rows(browser))
    assert not find(browser, "#comparison").is_displayed()


def test_the_page_works_by_keyboard_on_a_narrow_screen(browser, address, tmp_path):
    write_rgb(tmp_path / "a.png", picture(30, 40))
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True},
    )
    browser.get(address)
    find(browser, "#files").send_keys(str(tmp_path / "a.png"))
    wait_for(browser, lambda: len(rows(browser)) == 1)
    choose(browser, "model", "tiny")
    find(browser, "[name=size][value='4']").send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    width = find(browser, "input[name=width]")
    assert width.is_displayed()
    width.clear()
    width.send_keys("100", Keys.ENTER)
    wait_for(browser, lambda: states(browser)[0].startswith("done in"))
    wait_for(browser, lambda: find(browser, "#after").get_property("naturalWidth") == 100)
    assert browser.execute_script(FITS)
    reached = set()
    for _ in range(30):
        webdriver.ActionChains(browser).send_keys(Keys.TAB).perform()
        element = browser.switch_to.active_element
        reached.add(element.get_attribute("id") or element.get_attribute("class"))
    assert reached >= {"files", "slider", "show", "button save", "remove"}
    browser.execute_script("document.querySelector('.remove').focus()")
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    wait_for(browser, lambda: not rows(browser))


def test_a_page_whose_server_is_gone_says_so(browser, tmp_path):
    with serving() as (process, address):
        browser.get(address)
        choose(browser, "format", "jpg")
        assert stopped(process)[0] == 130
    write_rgb(tmp_path / "a.png", picture(30, 40))
    find(browser, "#files").send_keys(str(tmp_path / "a.png"))
    wait_for(browser, lambda: "srq does not answer" in find(browser, "#message").text)
    browser.get_log("browser")  # of the failed request


def test_the_token_is_needed(browser, address):
    browser.get(address.rsplit("/", 2)[0])
    assert "the address lacks its token" in find(browser, "body").text
    browser.get_log("browser")  # of the refusal
    browser.get(address)
    assert browser.title == "srq"
