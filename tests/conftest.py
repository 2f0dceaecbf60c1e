"""One thread for each test process, and a small book to try the way from source to page on: a chapter, a page, a claim.

With two threads the order of a sum, and so its last bit, depends on what else the machine does.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from small_book import copy_book

for _library in ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "NUMBA", "VECLIB_MAXIMUM"):  # as chapters run
    os.environ[f"{_library}_NUM_THREADS"] = "1"

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
