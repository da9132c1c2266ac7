"""The page in a real browser: cards, form, upload, error, attention, a program that is added while it is open."""

import importlib.util
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import icecore
from icecore.serving.web_app import Access
from icecore.user_data import DataSettings
from live_server import LiveServer, running
from serving_samples import Samples

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = [
    pytest.mark.skipif(
        CHROMIUM is None or importlib.util.find_spec("playwright") is None,
        reason="needs chromium and playwright: apt-get install chromium; pip install playwright",
    ),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any, server: LiveServer) -> Iterator[Any]:
    """The page with the cards. It reports no error, and asks no other host for anything."""
    context = browser.new_context()
    opened = context.new_page()
    faults: list[str] = []
    hosts: set[str] = set()
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on(
        "console", lambda line: faults.append(line.text) if line.type == "error" and "422" not in line.text else None
    )
    opened.on(
        "request", lambda request: hosts.add(request.url.split("/")[2]) if request.url.startswith("http") else None
    )
    opened.goto(server.url)
    opened.wait_for_selector(".cards a")
    yield opened
    context.close()
    assert not faults
    assert hosts <= {server.url.removeprefix("http://")}


def test_a_form_is_filled_in_and_answered(page: Any) -> None:
    assert page.locator(".cards a").count() == 7
    page.fill("#filter", "cultivar")
    page.click("text=wine")
    page.wait_for_selector("#field-0")
    assert page.evaluate("document.activeElement.tagName") == "H1"
    page.get_by_label("alcohol", exact=False).first.fill("14.1")
    page.get_by_role("button", name="Predict").click()
    answer = page.get_by_label("Answer")
    answer.locator(".answer").wait_for()
    assert answer.locator(".answer").inner_text().startswith("cultivar ")
    shares = answer.locator("table.bars").first.locator("td.number").all_inner_texts()
    assert sum(float(share.split()[0]) for share in shares) == pytest.approx(100, abs=2)
    assert "Where it looked" in answer.inner_text()
    code = page.locator("pre").all_inner_texts()
    assert "14.1" in code[0]
    assert code[0].startswith("curl")
    assert 'client.predict("wine", rows)' in code[1]
    assert "trained without controls" in page.inner_text("main")


def test_the_python_example_of_the_page_runs(page: Any) -> None:
    page.goto(page.url.split("#")[0] + "#people")
    page.wait_for_selector("#field-0")
    page.select_option("select", "")
    page.get_by_role("button", name="Predict").click()
    page.get_by_label("Answer").locator(".answer").wait_for()
    values: dict[str, Any] = {}
    exec(page.locator("pre").nth(1).inner_text(), values)
    assert set(values["answer"].columns) == {"tall", "tall probability"}


def test_a_wrong_cell_is_marked_at_its_field(page: Any) -> None:
    page.goto(page.url.split("#")[0] + "#wine")
    page.wait_for_selector("#field-2")
    page.fill("#field-2", "much")
    page.keyboard.press("Enter")
    page.wait_for_selector("[role=alert]")
    field = page.locator("#field-2")
    assert field.get_attribute("aria-invalid") == "true"
    assert page.locator("#field-2-error").inner_text() == "it must hold a number, but has 'much'."
    assert page.evaluate("document.activeElement.id") == "field-2"


def test_files_are_uploaded(page: Any, samples: Samples, tmp_path: Path) -> None:
    base = page.url.split("#")[0]
    page.goto(f"{base}#digits")
    page.set_input_files("#file", next(samples.data["digits"].rglob("*.png")))
    page.wait_for_selector(".over-image canvas")
    assert page.locator(".answer").inner_text() in "012"
    page.goto(f"{base}#wine")
    page.wait_for_selector("#field-0")
    page.set_input_files("#file", samples.data["wine"])
    page.wait_for_selector("text=178 rows.")
    with page.expect_download() as download:
        page.click("text=Download all as CSV")
    assert len(Path(download.value.path()).read_text().splitlines()) == 179
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    page.set_input_files("#file", tmp_path / "bad.csv")
    page.wait_for_selector("[role=alert]")
    assert "The table lacks 13 columns" in page.inner_text("[role=alert]")


def test_a_program_appears_while_the_page_is_open(browser: Any, samples: Samples) -> None:
    with running([samples.program("wine")]) as live:
        opened = browser.new_context().new_page()
        opened.goto(live.url)
        opened.wait_for_selector("text=wine")
        live.registry.put_file(samples.program("proteins"))
        opened.wait_for_selector("text=proteins", timeout=10_000)
        opened.click("text=proteins")
        opened.fill("#text", ">p1\nACDEF\nGHIK")
        opened.click("button.main")
        opened.wait_for_selector(".letters")
        assert opened.locator(".letters").inner_text() == "ACDEFGHIK"
        opened.context.close()


def test_the_token_is_asked_for_once(browser: Any, samples: Samples) -> None:
    with running([samples.program("wine")], Access(token="right-token")) as live:
        opened = browser.new_context().new_page()
        opened.goto(live.url)
        opened.fill("#token", "right-token")
        opened.keyboard.press("Enter")
        opened.click(".cards a")
        opened.click("button.main")
        opened.wait_for_selector(".answer")
        assert "$TOKEN" in opened.locator("pre").first.inner_text()
        assert "right-token" not in opened.inner_text("main")
        opened.context.close()


@pytest.mark.parametrize("path", ["", "#wine", "#digits", "docs"])
def test_a_phone_shows_the_page_without_scrolling_sideways(browser: Any, server: LiveServer, path: str) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 740}, color_scheme="dark")
    opened = context.new_page()
    opened.goto(f"{server.url}/{path}")
    opened.wait_for_selector("h1")
    opened.wait_for_timeout(100)
    assert opened.evaluate("document.documentElement.scrollWidth") <= 360
    assert opened.evaluate("document.documentElement.dataset.theme") == "dark"
    unnamed = opened.evaluate(
        "[...document.querySelectorAll('input, select, textarea')].filter((e) => !e.labels.length).map((e) => e.id)"
    )
    assert unnamed == []
    context.close()


def test_a_series_is_forecast(browser: Any, bodies: Mapping[str, str], tmp_path: Path) -> None:
    values = [10 + t + 5 * (t % 4) for t in range(40)]
    (tmp_path / "sales.csv").write_text("\n".join(["sales", *map(str, values)]))
    settings = DataSettings(task="forecast", horizon=2, length=8)
    few: dict[str, Any] = {"backbone": bodies["bert"], "lrs": (1e-2,), "steps": 4, "batch_size": 8, "layers": 1}
    program = tmp_path / "next.safetensors"
    icecore.fit(str(tmp_path / "sales.csv"), out=program, data_settings=settings, device="cpu", **few)
    expected = icecore.predict(program, str(tmp_path / "sales.csv"), device="cpu")
    with running([program]) as live:
        opened = browser.new_context().new_page()
        opened.goto(f"{live.url}#next")
        opened.fill("#text", ", ".join(map(str, values)))
        opened.click("button.main")
        opened.wait_for_selector("[aria-label=Predictions]")
        cells = opened.locator("[aria-label=Predictions] tbody tr").first.locator("td").all_inner_texts()
        assert cells[0] == expected.columns["time"][0]
        assert float(cells[1]) == pytest.approx(expected.columns["sales"][0], rel=1e-4)
        opened.set_input_files("#file", tmp_path / "sales.csv")
        opened.wait_for_selector("text=MASE")
        opened.context.close()
