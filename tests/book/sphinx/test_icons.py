"""The small font of icons: which icons the themes name, and that the font has them."""

from pathlib import Path

import pytest
from fontTools.ttLib import TTFont

from lib.book.sphinx import icons

STYLE = (
    r'.fa-rub:before,.fa-ruble:before{content:"\f158"}.fa-sun:before{content:"\f185"}.fa-bell:before{content:"\f0f3"}'
)


@pytest.fixture
def theme(tmp_path: Path) -> Path:
    (tmp_path / "page.html").write_text('<i class="fa-solid fa-sun"></i><i class="fa-unknown"></i>')
    (tmp_path / "style.css").write_text(r'a::after{content:"\f0f3"} b{--star:"\f005"}')
    (tmp_path / "vendor" / "fontawesome").mkdir(parents=True)
    (tmp_path / "vendor" / "fontawesome" / "all.css").write_text(STYLE)
    return tmp_path


def test_only_icons_that_the_theme_names_are_asked_for(theme):
    codes = icons.icon_codes(STYLE)
    assert codes == {"fa-rub": "f158", "fa-ruble": "f158", "fa-sun": "f185", "fa-bell": "f0f3"}
    assert icons.asked_for([theme], codes) == {"fa-sun": "f185", "f0f3": "f0f3"}


def test_a_font_holds_the_signs_it_was_asked_for_and_no_others(tmp_path):
    source = next(Path(icons.pydata_sphinx_theme.__file__).parent.rglob("fa-solid-900.ttf"))
    target = tmp_path / "small.woff"
    icons.write_subset(source, target, {"f185", "f0f3", "e000"})  # the last is in no font
    assert set(TTFont(target).getBestCmap()) == {0xF185, 0xF0F3}
    assert target.stat().st_size < 3000 < source.stat().st_size
