"""The first page of the book itself: its headline's numbers, and the code that it shows."""

import re
from pathlib import Path

import pytest

from lib import models
from lib.book.sphinx.first_page import headline

PROJECT = Path(__file__).parents[3]
RECORDS = {
    "quantization.lenet300.dense_bytes": {"values": [1_066_440.0]},
    "quantization.lenet300.file_bytes": {"values": [18_000.0, 20_000.0]},
    "quantization.lenet300.trained_on_error_pct": {"values": [2.0, 2.2]},
    "quantization.lenet300.error_pct": {"values": [1.6, 1.7]},
}


def test_the_headline_has_means_and_the_share_that_is_left():
    words, share = headline(RECORDS)
    assert [word.replace("\N{NO-BREAK SPACE}", " ") for word in words] == ["1,066 kB", "19 kB", "2.1 %", "1.6 %"]
    assert share == pytest.approx(100 * 19_000 / 1_066_440)


@pytest.mark.parametrize("missing", RECORDS)
def test_without_one_of_its_records_there_is_no_headline(missing):
    assert headline({key: record for key, record in RECORDS.items() if key != missing}) is None


def test_the_calls_of_the_first_page_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = re.search(r"```python\n(.*?)```", (PROJECT / "index.md").read_text("utf-8"), re.DOTALL)[1]
    model = models.lenet_300_100(0)
    dense = 4 * sum(part.numel() for part in model.parameters())
    exec("\n".join(line.removeprefix("  ") for line in code.splitlines()), {"model": model})
    assert 0 < (tmp_path / "model.slim").stat().st_size < dense / 10
