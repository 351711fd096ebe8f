"""The site of the documentation: what it has that no file of docs/ holds, and what a reader's browser asks for."""

import importlib.util
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote

import pytest

import qvtune
from qvtune.cli import theory
from qvtune.cli.main import VERBS, main

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_pages", REPOSITORY / "tools" / "site_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Found(HTMLParser):
    """The places that a page names, and where its links lead."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.places: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.places |= {given[name] for name in ("id", "name") if name in given}
        if "href" in given and (tag == "a" or given.get("rel") in ("canonical", "next", "prev")):
            self.links.append(given["href"])
        else:
            self.loaded += [given[name] for name in ("src", "href", "srcset") if name in given]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for name in ("mkdocs", "material", "mkdocstrings_handlers"):
        pytest.importorskip(name)
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("command", [*(v for v in VERBS if v != "theory"), *(f"theory {v}" for v in theory.VERBS)])
def test_every_option_of_a_command_is_on_its_page(
    command: str, pages: ModuleType, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    listed = re.findall(r"^  (--[a-z][a-z0-9-]+)", capsys.readouterr().out, re.MULTILINE)
    text = pages.command_pages()[f"reference/commands/{command.replace(' ', '-')}.md"]
    assert [option for option in listed if f"`{option}" not in text] == []


def test_every_public_name_is_in_the_reference(pages: ModuleType) -> None:
    text = "".join(pages.name_pages().values())
    assert sorted(re.findall(r"^::: qvtune\.(\w+)$", text, re.MULTILINE)) == sorted(qvtune.__all__)


def test_help_is_shown_as_it_is(pages: ModuleType) -> None:
    assert pages._text("a_b * <c> of --lr-ratio, [d]") == r"a\_b \* \<c\> of `--lr-ratio`, \[d\]"


@pytest.mark.parametrize(
    ("source", "text", "wanted"),
    [
        ("README.md", "[docs/train.md](docs/train.md#warnings)", "[Train](train.md#warnings)"),
        ("README.md", "![Loss](docs/demo.png)", "![Loss](demo.png)"),
        ("docs/train.md", "[Install](../README.md#install)", "[Install](index.md#install)"),
        ("docs/benchmarks/cost.md", "[all](../index.md), [there](#here)", "[all](../questions.md), [there](#here)"),
        ("CONTRIBUTING.md", "[glossary](docs/glossary.md)", "[glossary](glossary.md)"),
        ("docs/editors.md", "[shtab](https://docs.iterative.ai/shtab/)", "[shtab](https://docs.iterative.ai/shtab/)"),
    ],
)
def test_links_lead_to_the_same_places(pages: ModuleType, source: str, text: str, wanted: str) -> None:
    assert pages.with_links(text, source) == wanted


def test_the_site_asks_no_other_host_and_its_links_lead_somewhere(site: Path) -> None:
    found = {page: Found(page.read_text(encoding="utf-8")) for page in site.rglob("*.html")}
    assert len(found) > 60
    for page, what in found.items():
        assert [url for url in what.loaded if re.match(r"(https?:)?//", url)] == [], page.name
        for link in what.links:
            target, _, place = link.partition("#")
            if re.match(r"[a-z]+:", target) or page.name == "404.html":
                continue
            there = (page.parent / unquote(target)).resolve() if target else page
            assert there.exists(), f"{page.name}: {link}"
            if place and there.suffix == ".html" and not place.startswith("__"):
                assert unquote(place) in found[there].places, f"{page.name}: {link}"
    for style in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*['\"]?(https?:)?//", style.read_text(encoding="utf-8")), style


def test_the_site_can_be_searched(site: Path) -> None:
    entries = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))["docs"]
    for place in (
        "reference/functions.html#qvtune.param_groups",
        "tutorial-grid.html",
        "reference/commands/train.html",
    ):
        assert any(entry["location"] == place for entry in entries), place
    schema = json.loads((site / "reference" / "qvtune.schema.json").read_text(encoding="utf-8"))
    assert schema == qvtune.config_schema()


def test_pictures_are_small() -> None:
    tool = [sys.executable, str(REPOSITORY / "tools" / "pictures.py"), "--check"]
    done = subprocess.run(tool, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
