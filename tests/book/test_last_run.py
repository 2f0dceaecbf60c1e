"""What is left of a run, with the present text."""

from lib.book import last_run
from lib.book.run import run


def test_a_profile_s_own_parameters_stay_on_the_page_with_new_words(small_book):
    run(small_book, "passes", "standard")
    source = small_book / "chapters" / "passes.py"
    source.write_text(source.read_text().replace("The answer is", "We get"))
    cells = last_run.executed(small_book, "passes", "standard").cells
    assert "We get" in cells[0].source
    tags = [cell.metadata.get("tags", []) for cell in cells]
    assert tags[1] == ["parameters"] and "injected-parameters" in tags[2] and "terms = 5" in cells[2].source
    assert [cell.cell_type for cell in cells[3:]] == ["code", "markdown", "code", "markdown", "code"]
