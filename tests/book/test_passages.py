"""Which section of a chapter measures a claim."""

from pathlib import Path

import pytest

from lib.book import claims, ledger, passages

PROJECT = Path(__file__).parents[2]
SOURCE = """# %% [markdown]
# # Pruning: fewer weights
#
# An opening with {mean}`pruning.a.error_pct`.
#
# ## First
#
# ```
# ## No heading: it is code
# ```

# %%
# ## A comment is no heading
record("a.drop_pct", drops)
for name in names:
    record(f"{name}.bytes_ratio", ratios)

# %% [markdown]
# (sec-second)=
# ### Second
#
# {glue:text}`pruning.a.drop_pct` and {glue:text}`pruning.a.error_pct`, {verdict}`C2.3-02`.
#
# ## In short
#
# {verdict}`C2.3-01` {verdict}`C2.3-03` {mean}`pruning.a.error_pct` {mean}`pruning.a.drop_pct`
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "chapters").mkdir()
    (tmp_path / "chapters" / "pruning.py").write_text(SOURCE)
    (tmp_path / "chapters" / "hashing.py").write_text(
        "# %% [markdown]\n# # Hashing\n#\n# ## Nets\n#\n# `hashing.b.x`\n"
    )
    return tmp_path


def claim(*keys: str, id: str = "C2.3-09") -> claims.Claim:
    rules = [{"key": key, "at_most": 1} for key in keys]
    raw = {"id": id, "section": "2.3", "says": "A sentence.", "verdict": "supported", "decided_by": {"quick": rules}}
    return claims.parsed(raw, "pruning", set())


@pytest.mark.parametrize(
    ("one", "place"),
    [
        (claim("pruning.a.drop_pct"), "First"),  # the first that names it
        (claim("pruning.a.drop_pct", "pruning.a.error_pct"), "Second"),  # the one that names most
        (claim("pruning.a.drop_pct", id="C2.3-02"), "Second"),  # the one with the badge
        (claim("pruning.b.bytes_ratio"), "First"),  # recorded of a subject that a variable names
        (claim("pruning.b.nothing", id="C2.3-03"), "In short"),  # nothing but a summary
        (claim("pruning.a.error", id="C2.3-04"), None),  # part of a key is another key
    ],
)
def test_a_claim_is_measured_where_its_keys_and_badge_stand(root, one, place):
    assert passages.measuring(one, root) == ("pruning", place)


def test_another_chapter_that_records_the_keys_is_named(root):
    assert passages.measuring(claim("hashing.b.x"), root) == ("hashing", "Nets")


def test_code_and_comments_are_no_headings(root):
    titles = [part.title for part in passages.passages(root, "pruning")]
    assert titles == ["Pruning: fewer weights", "First", "Second", "In short"]
    assert passages.title(root, "pruning") == "Pruning"
    (root / "chapters" / "bare_one.py").write_text("# %%\nprint(1)\n")
    assert passages.title(root, "bare_one") == "Bare one"


def test_almost_every_claim_of_the_book_leads_to_a_section():
    tested = [one for one in ledger.load_claims(PROJECT) if one.verdict != claims.NOT_TESTABLE]
    bare = [one.id for one in tested if passages.measuring(one, PROJECT)[1] is None]
    assert len(bare) <= len(tested) / 50, bare
