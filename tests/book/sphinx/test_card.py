"""The picture that others show with a link to the book."""

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from lib.book.sphinx import card


def test_the_card_has_the_size_that_sites_ask_for(tmp_path: Path):
    for name in ("first.png", "again.png"):
        card.draw(tmp_path / name, "A title")
    picture = matplotlib.image.imread(tmp_path / "first.png")
    assert picture.shape[:2] == (630, 1200)
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    assert (tmp_path / "first.png").stat().st_size < 150_000


@pytest.mark.parametrize(
    "title", ["Deep model compression, executed", "A title that is a good deal longer than ours is"]
)
def test_a_title_fits_on_the_card(tmp_path: Path, title: str):
    card.draw(tmp_path / "card.png", title)
    picture = matplotlib.image.imread(tmp_path / "card.png")
    assert np.all(picture[:, -40:] == picture[0, 0])
    assert not np.all(picture[80:150, 600:1000] == picture[0, 0])


def test_the_stages_prune_and_then_share_values():
    (_, dense), (_, pruned), (_, shared) = card.stages()
    assert np.count_nonzero(dense) == dense.size
    assert np.count_nonzero(pruned) == pytest.approx(0.2 * dense.size, abs=1)
    assert len(np.unique(shared)) == 3
