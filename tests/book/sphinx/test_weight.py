"""The gate on what a page loads, on pages made for it."""

from pathlib import Path

import pytest

from lib.book.sphinx import weight

HEAD = """<link rel="stylesheet" href="_static/style.css?v=1"><link rel="next" href="other.html">
<script src="_static/script.js"></script><script src="https://example.org/a.js"></script>
<img src="_static/picture.png" alt=""><img src="data:image/gif;base64,AA" alt="">"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    static = tmp_path / "_static"
    static.mkdir()
    (static / "base.css").write_text('@import "style.css"; b {background: url(icon.svg)}')
    (static / "icon.svg").write_text("<svg/>")
    (static / "style.css").write_text(
        '@import "base.css"; @font-face {src: url("font.woff?x#y")} a {background: url(missing.png)}'
    )
    for name in ("font.woff", "script.js", "picture.png", "unused.js"):
        (static / name).write_bytes(b"1" * 1000)
    (tmp_path / "other.html").write_text("<p>Another page</p>")
    path = tmp_path / "page.html"
    path.write_text(HEAD)
    return path


def test_what_html_and_style_sheets_name_is_counted_once(page):
    names = {path.name for path in weight.loaded(page)}
    assert names == {"page.html", "style.css", "base.css", "icon.svg", "font.woff", "script.js", "picture.png"}


@pytest.mark.parametrize(
    ("text", "size", "says"),
    [
        ("", 1_100_000, None),
        (
            "",
            1_200_000,
            "page.html loads 1.20 MB, and a page without formulas may load 1.2 MB: the heaviest is script.js",
        ),
        ('<span class="math notranslate">x</span>', 2_400_000, None),
        ('<span class="math notranslate">x</span>', 2_550_000, "a page with formulas may load 2.55 MB"),
    ],
)
def test_a_page_that_is_too_heavy_is_named_with_its_cause(page, text, size, says):
    page.write_text(HEAD + text)
    (page.parent / "_static" / "script.js").write_bytes(b"1" * size)
    assert weight.fault(page) is None if says is None else says in weight.fault(page)
