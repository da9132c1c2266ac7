"""The pages of the documentation fit together: links, anchors, paths of files, the public API, and the built site."""

import importlib
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import icecore

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")), *sorted(DOCS.rglob("*.md"))]
#: pages that `make docs` adds from outside docs/, by the path in the navigation
ADDED = {"contributing.md", "changes.md", "results/index.html"}


def without_code(page: Path) -> str:
    """The text of a page without its code blocks, in which `#` is no heading."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.S | re.M)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and mkdocs make them."""
    found: Counter[str] = Counter()
    for heading in re.findall(r"^#+ (.+)$", without_code(page), re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        found[re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())] += 1
    repeated = [anchor for anchor, count in found.items() if count > 1]
    assert not repeated, f"{page.name} has several headings {repeated}, whose anchors differ between generators"
    return set(found)


def links(page: Path) -> Iterator[tuple[str, str]]:
    """(path, anchor) of every link and picture of a page that does not lead to the internet."""
    for target in re.findall(r"\]\((?!\w+:)([^)\s]+)\)", without_code(page)):
        path, _, anchor = target.partition("#")
        yield path, anchor


def identifiers() -> list[str]:
    """What the pages of the API reference document."""
    pages = sorted((DOCS / "api").glob("*.md"))
    return [name for page in pages for name in re.findall(r"^::: ([\w.]+)$", page.read_text(), re.M)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for path, anchor in links(page):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {path}, which does not exist"
        assert target.is_relative_to(ROOT), f"{page.name} links to {path}, outside the repository"
        if anchor:
            assert anchor in anchors(target), f"{page.name} links to {path}#{anchor}; there are {anchors(target)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_named_files_exist(page: Path) -> None:
    text = without_code(page)
    for path in re.findall(r"`((?:src|tests|benchmarks|docs)/[\w./-]*)`", text):
        assert (ROOT / path).exists(), f"{page.name} names {path}, which does not exist"
    for path in re.findall(r"`((?:core|tasks|backbones|training|experiments|user_data|paper)/[\w/]+\.\w+)`", text):
        assert (ROOT / "src/icecore" / path).exists(), f"{page.name} names {path}, which does not exist"


def test_documented_names_exist() -> None:
    for name in identifiers():
        module, _, attribute = name.rpartition(".")
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            assert hasattr(importlib.import_module(module), attribute), f"the API reference documents {name}"


def test_the_reference_has_the_whole_public_api() -> None:
    names = set(icecore.__all__) - {"__version__"}
    missing = {f"icecore.{name}" for name in names} - set(identifiers())
    assert not missing, f"docs/api does not document {missing}"
    overview = (DOCS / "api" / "index.md").read_text()
    unlisted = {name for name in names if f"| [`icecore.{name}`][icecore.{name}] |" not in overview}
    assert not unlisted, f"docs/api/index.md does not list {unlisted}"


def test_every_page_is_in_the_navigation() -> None:
    navigation = re.findall(r"^ +- [^:\n]+: ([\w/]+\.(?:md|html))$", (ROOT / "mkdocs.yml").read_text(), re.M)
    pages = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    assert set(navigation) == pages | ADDED
    assert len(navigation) == len(set(navigation))


@pytest.mark.slow
def test_the_site_needs_no_network(tmp_path: Path) -> None:
    """The command of `make docs`, which fails for a broken link or an unknown name."""
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path)]
    built = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert built.returncode == 0, built.stdout
    pages = {path.relative_to(tmp_path).as_posix(): path.read_text() for path in tmp_path.rglob("*.html")}
    loaded = r"<(?:script|img|iframe)[^>]+src=[\"']?(?:https?:)?//|<link[^>]+rel=[\"']?stylesheet[^>]+//"
    assert not [name for name, text in pages.items() if re.search(loaded, text)]
    reference = "".join(text for name, text in pages.items() if name.startswith("api/"))
    assert not [name for name in icecore.__all__ if name != "__version__" and f'id="icecore.{name}"' not in reference]
    # the aligned fields of docstrings are lists, and the examples are code
    assert "<strong>target</strong>" in pages["api/user_data.html"]
    assert "&gt;&gt;&gt;" not in re.sub(r"<pre.*?</pre>", "", reference, flags=re.S)


def test_the_documents_have_the_version_of_the_package() -> None:
    assert f"\nversion: {icecore.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    latest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert latest is not None
    assert latest[1] == icecore.__version__
