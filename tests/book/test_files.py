"""Files are whole or not there."""

import pytest

from lib.book import files


def test_a_text_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "folder" / "results.json"
    files.write(path, "before")
    with pytest.raises(UnicodeEncodeError):
        files.write(path, "x" * 100_000 + "\ud800")
    assert path.read_text() == "before"
    assert list(path.parent.iterdir()) == [path]
