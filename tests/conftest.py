"""One thread and one browser for each test process, and a small book to try the way from source to page on.

With two threads the order of a sum, and so its last bit, depends on what else the machine does.
"""

from __future__ import annotations

import functools
import gc
import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
from given_browser import CHROMIUM, NO_NETWORK, SCREENS
from small_book import copy_book

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

for _library in ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "NUMBA", "VECLIB_MAXIMUM"):  # as chapters run
    os.environ[f"{_library}_NUM_THREADS"] = "1"

hypothesis.settings.register_profile("patient", deadline=None)  # a busy machine is slow, not wrong
hypothesis.settings.load_profile("patient")

YOUNG = "--js-flags=--min-semi-space-size=64"  # MiB: axe leaves much garbage, which is then collected less often
HEADER = """# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
{survey}# ---

# %% [markdown]
# # {title}

# %%
"""


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for garbage only afterwards, and never in modules and tests, which stay: a fifth of the time went there."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, the pages in the browser and then what runs chapters.

    Begun last, one of them would keep one process busy while the other waits.
    """
    first = ("browser", "book")
    marks = {item: {mark.name for mark in item.iter_markers()} for item in items}
    items.sort(key=lambda item: next((i for i, name in enumerate(first) if name in marks[item]), len(first)))  # stable


@pytest.fixture
def small_book(tmp_path: Path) -> Path:
    """The root of a fresh copy of the small book."""
    return copy_book(tmp_path / "book")


@pytest.fixture
def add_chapter(small_book: Path) -> Callable[..., None]:
    """Write a chapter of one code cell into the small book: ``add_chapter(name, code, survey="needs: [other]")``."""

    def add(name: str, code: str, survey: str = "") -> None:
        lines = f"#   survey:\n#     {survey}\n" if survey else ""
        text = HEADER.format(survey=lines, title=name.capitalize()) + code + "\n"
        (small_book / "chapters" / f"{name}.py").write_text(text)
        with (small_book / "_toc.yml").open("a") as toc:
            toc.write(f"  - file: chapters/{name}\n")

    return add


@pytest.fixture(scope="session")
def one_table_for_onnx() -> Iterator[None]:
    """torch reads its table of translations to ONNX once; again for each file, it is most of a small one's time."""
    registry = pytest.importorskip("torch.onnx._internal.exporter._registration").ONNXRegistry
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "from_torchlib", staticmethod(functools.cache(registry.from_torchlib)))
        yield


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium with the network shut. A process can start playwright only once, so all tests share it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        args = ["--no-sandbox", "--disable-gpu", NO_NETWORK, YOUNG]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=args)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Callable[..., Page]]:
    """Open a page of the test file's ``address``: ``visit("claims.html")``; more arguments are those of a context.

    No script may fail, nothing may be missing, and nothing may be asked of another address.
    """
    contexts, wrong = [], []

    def visit(name: str, **options: object) -> Page:
        contexts.append(browser.new_context(**SCREENS["wide"] | options))
        contexts[-1].set_default_timeout(60_000)  # a busy machine is slow, not wrong
        page = contexts[-1].new_page()
        inside = (address, "data:", "blob:")
        page.on("pageerror", lambda error: wrong.append(error.message))
        page.on("request", lambda asked: asked.url.startswith(inside) or wrong.append(f"asks for {asked.url}"))
        page.on("response", lambda said: said.status >= 400 and wrong.append(f"{said.status} for {said.url}"))
        page.goto(f"{address}/{name}", wait_until="load")
        return page

    yield visit
    for context in contexts:
        for page in context.pages:
            page.wait_for_load_state("networkidle")  # what is asked for late may be missing, too
        context.close()
    assert wrong == []
