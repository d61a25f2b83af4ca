"""The explorer in a real browser: what it says is what the result says, whatever is pressed, and nothing is loaded.

It needs Playwright (``pip install '.[browser]'``) and Chromium or Chrome, such as Debian's package ``chromium``.
"""

from __future__ import annotations

import shutil
from contextlib import contextmanager

import pytest
import torch

from captum_extremal import BlurPyramid, perturbed_inputs
from cli_photos import NETWORK, picture, run_quietly, untrained_network
from explorers import NASTY, make_found, pictures

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
EXECUTABLE = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = pytest.mark.skipif(EXECUTABLE is None, reason=f"none of {', '.join(BROWSERS)} is installed")
WAIT = 60_000  # milliseconds


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=EXECUTABLE, args=["--no-sandbox"], timeout=WAIT)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def result():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make_found(settings={"perturbation": repr(BlurPyramid())})


@pytest.fixture(scope="module")
def page_file(tmp_path_factory, result):
    """Two images, and masks of channels of the same."""
    masks = torch.zeros(2, 3, 12)
    masks[:, 0, 3], masks[:, 1, 3:6], masks[:, 2, :6] = 1.0, 0.9, 0.8
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        channels = make_found(masks, between=False, settings={"layer": "features.0"})
    path = tmp_path_factory.mktemp("page") / "page.html"
    seen = perturbed_inputs(result, pictures(), optimum=True)
    result.to_html(path, pictures(), perturbed=seen, names=[NASTY, "dog"], title=NASTY, others={"channels": channels})
    return path


@pytest.fixture(scope="module")
def channels_file(tmp_path_factory):
    """What ``captum-extremal channels --html`` writes of two targets."""
    folder = tmp_path_factory.mktemp("channels")
    picture(48, 40).save(folder / "a.png")
    torch.save(untrained_network(6).state_dict(), folder / "w.pth")
    model = ["--model", NETWORK, "--weights", folder / "w.pth", "--size", "64", "--device", "cpu"]
    asked = ["--layer", "features.7", "--target", "3", "--target", "4", "--areas", "1,40,256", "--html"]
    short = ["--steps", "2", "--inversion-steps", "1", "--inversion-side", "48", "--score-fraction", "0.5"]
    status, _, told = run_quietly("channels", folder / "a.png", *model, *asked, *short, "--out", folder / "out")
    assert status == 0, told
    return folder / "out" / "a" / "explorer.html"


@contextmanager
def opened(browser, file, width=1100, height=800, **how):
    """A page, of which nothing is logged, no error is raised and no request leaves."""
    context = browser.new_context(viewport={"width": width, "height": height}, **how)
    context.set_default_timeout(WAIT)
    page, noted = context.new_page(), []
    page.on("console", lambda message: noted.append(message.text))
    page.on("pageerror", lambda error: noted.append(str(error)))
    page.on("dialog", lambda dialog: noted.append(dialog.message))
    page.on("request", lambda request: noted.append(request.url) if not request.url.startswith("data:") else None)
    page.goto(file.as_uri())
    page.wait_for_selector("html[data-drawn]")
    yield page
    context.close()
    assert noted == [file.as_uri()]


@pytest.fixture(params=["light", "dark", "phone"])
def page(request, browser, page_file):
    if request.param == "phone":
        with opened(browser, page_file, 360, 740, has_touch=True, color_scheme="light") as made:
            yield made
    else:
        with opened(browser, page_file, color_scheme=request.param) as made:
            yield made


def score(page, which="score"):
    return float(page.inner_text(f"[data-score={which}]").replace("\N{MINUS SIGN}", "-"))


def drawn(page, *what):
    page.wait_for_selector(f"html[data-drawn='{' '.join(map(str, what))}']")


def canvas(page):
    """What the canvas shows, as text."""
    return page.evaluate("document.getElementById('canvas').toDataURL()")


def move(page, at):
    page.evaluate(
        """(at) => { const s = document.getElementById('slider'); s.value = at;
        s.dispatchEvent(new Event('input', {bubbles: true})); }""",
        at,
    )


def test_the_slider_moves_and_tells_the_results_scores(page, result):
    assert page.title() == NASTY
    assert page.inner_text("h1").split() == NASTY.split()
    drawn(page, 0, 0, 1, "outline")
    assert score(page) == pytest.approx(float(result.optimal_score[0]), rel=1e-3)  # it begins at a*
    assert page.inner_text("#a-star") == "20 %"
    assert page.inner_text("#is-enough") == "yes"
    right = 0.625  # the axis ends a quarter beyond the largest area
    for area, expected in zip((0.1, 0.25, 0.5), result.scores[0].tolist()):
        move(page, area / right)
        assert score(page) == pytest.approx(expected, rel=1e-3)
        assert page.inner_text("#label") == f"Measured mask: {100 * area:.0f} %."
    assert score(page, "complement") == pytest.approx(float(result.complement_scores[0, 2]), rel=1e-3)
    move(page, 0.42 / right)
    assert score(page) == pytest.approx(float(result.scores[0, 2]), rel=1e-3)
    assert "At 42 %, between measured masks. The nearest measured mask is shown: 50 %." in page.inner_text("#label")
    assert "Nearest measured mask 50 %, score 9.5, enough" in page.get_attribute("#slider", "aria-valuetext")
    assert float(page.input_value("#slider")) == pytest.approx(0.42 / right, abs=1e-6)
    sync_api.expect(page.locator("#said")).to_contain_text("Mask of 50 %: score 9.5", timeout=WAIT)


def test_keys_reach_everything(page, result):
    page.focus("#slider")
    before = float(page.input_value("#slider"))
    page.keyboard.press("ArrowRight")
    assert float(page.input_value("#slider")) == pytest.approx(before + 0.01, abs=1e-6)
    page.keyboard.press("PageUp")
    assert score(page) == pytest.approx(float(result.scores[0, 1]), rel=1e-3)
    page.keyboard.press("PageDown")
    assert score(page) == pytest.approx(float(result.optimal_score[0]), rel=1e-3)
    shown = set()
    for key, view in {"o": "outline", "d": "dark", "p": "seen", "e": "order"}.items():
        page.keyboard.press(key)
        drawn(page, 0, 0, 1, view)
        shown.add(canvas(page))
    assert len(shown) == 4
    page.keyboard.press("]")
    page.keyboard.press("]")
    assert score(page) == pytest.approx(float(result.scores[0, 2]), rel=1e-3)
    page.keyboard.press("a")
    page.keyboard.press("n")
    assert score(page) == pytest.approx(float(result.optimal_score[1]), rel=1e-3)
    assert page.inner_text("#a-star") == "30 %"
    page.keyboard.press("b")
    assert score(page, "clean") == 8.0


def test_what_the_model_saw_is_drawn(page, result):
    page.keyboard.press("p")
    drawn(page, 0, 0, 1, "seen")
    seen = perturbed_inputs(result, pictures(), optimum=True)[0, 3]
    script = """() => { const c = document.getElementById('canvas');
        return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]; }"""
    shown = torch.tensor(page.evaluate(script)).view(*seen.shape[1:], 4)[..., :3] / 255
    torch.testing.assert_close(shown, seen.permute(1, 2, 0), atol=0.5 / 63 + 0.5 / 255 + 1e-5, rtol=0)


def test_another_result_is_chosen(page):
    page.select_option("#explanation", "1")
    assert page.inner_text("#columns-name") == "The 6 channels that this mask keeps most"
    sync_api.expect(page.locator("#column-list li")).to_have_count(6, timeout=WAIT)
    assert page.inner_text("#a-star") == "6 of 12 channels"
    page.keyboard.press("n")
    assert score(page) == 8.0


def test_channels_have_maps_and_inversions(browser, channels_file):
    with opened(browser, channels_file) as page:
        assert page.inner_text("h1") == "Which channels of features.7 are enough?"
        page.wait_for_selector("html[data-drawn$=' heat']")
        assert "smallest number of channels found" in page.inner_text("#lede")
        assert page.inner_text("#slider-name") == "How many channels the mask keeps"
        move(page, 1)
        assert page.inner_text("#columns-name") == "The 8 channels that this mask keeps most"
        maps = page.locator("#column-list canvas")
        sync_api.expect(maps).to_have_count(8, timeout=WAIT)
        assert "channel " in page.inner_text("#column-list li:first-child")
        assert len({one.evaluate("one => one.toDataURL()") for one in maps.all()}) > 1
        seen = page.locator("#inversions img")
        sync_api.expect(seen).to_have_count(2, timeout=WAIT)
        height = "async one => { await one.decode(); return one.naturalHeight; }"
        assert [one.evaluate(height) for one in seen.all()] == [48, 48]
        page.keyboard.press("n")
        page.wait_for_selector("html[data-drawn^='0 1 ']")
        assert "class 4, mask of" in page.inner_text("#caption")
        sync_api.expect(seen).to_have_count(2, timeout=WAIT)


def test_it_is_accessible(page):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed").Axe()
    for summary in page.query_selector_all("summary"):
        summary.click()
    for choice in ("0", "1"):
        page.select_option("#explanation", choice)
        found = axe.run(page).response["violations"]
        assert [(one["id"], one["nodes"][0]["html"]) for one in found] == []
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0  # nothing is beside the screen
