"""The directives on real pages: a small book with two chapters, built with every warning an error."""

from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from survey_book import HEADER, build, stamp_run, tiny_book

REPOSITORY, SITE = "https://github.com/someone/some-book", "https://example.org/book/"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tiny_book(tmp_path_factory.mktemp("book"))
    done = build(root, SURVEY_REPOSITORY=REPOSITORY, SURVEY_SITE=SITE)
    assert done.returncode == 0, done.stdout + done.stderr
    return root


@pytest.fixture(scope="module")
def site(root: Path) -> dict[str, BeautifulSoup]:
    html = root / "_build" / "html"
    return {
        path.relative_to(html).as_posix(): BeautifulSoup(path.read_text("utf-8"), "html.parser")
        for path in (p for p in html.rglob("*.html") if "_static" not in p.parts)
    }


def words(tag) -> str:
    return " ".join(tag.get_text(" ").split())


def test_the_ledger_holds_every_claim_with_its_anchor_values_and_verdict(site):
    card = site["claims.html"].find(id="claim-C2.4-12")
    text = words(card)
    assert "✓ supported" in text
    assert "40×, Table 1" in text
    assert "Measured for LeNet-300-100: file ratio 19.5×, 4.5 above the required 15×; both other rules hold." in text
    assert "quantization.lenet300.file_ratio , at least 15×: 19.5 ± 1.2×, ✓ holds." in text
    assert "points ( 3.20 ± 0.25 % against 3.10 ± 0.25 % )".replace("( ", "(").replace(" )", ")") in text
    assert "Standard profile" in text
    assert [site["claims.html"].find(id=f"claim-{id}") is not None for id in ("C2.3-09", "C2.3-38", "C2.4-13")] == [
        True
    ] * 3


def test_a_verdict_that_depends_on_the_processor_says_so(site):
    text = words(site["claims.html"].find(id="claim-C2.4-12"))
    assert "Processor The verdict depends on it: other processors give supported in part ." in text
    assert "depends on it" not in words(site["claims.html"].find(id="claim-C2.4-13"))


def test_an_erratum_and_a_reason_stand_beside_the_verdict(site):
    text = words(site["claims.html"].find(id="claim-C2.3-09"))
    assert "– not testable here" in text
    assert "Erratum The method is that of Han" in text
    assert "Not testable here: A sentence about an author." in text


def test_a_claim_of_another_profile_shows_that_profile_and_says_so(site):
    text = words(site["claims.html"].find(id="claim-C2.4-13"))
    assert "✓ supported (standard profile)" in text
    assert "Measured (standard profile) for LeNet-300-100: file ratio 49.5×" in text


def test_a_chapter_lists_its_own_claims_and_links_to_the_ledger(site):
    page = site["chapters/pruning.html"]
    cards = page.select("div.claim")
    assert len(cards) == 2
    assert cards[1].find("a")["href"] == "../claims.html#claim-C2.3-38"
    assert "✗ contradicted" in words(cards[1])
    assert "C2.4-12" not in words(page.article)


def test_the_claims_of_a_chapter_fold_into_one_computed_line(site):
    fold = site["chapters/pruning.html"].find("div", class_="claim").parent
    assert (fold.name, fold.has_attr("open")) == ("details", False)
    assert words(fold.summary) == "2 claims of the survey: 1 contradicted , 1 not testable here"
    assert fold.summary.select_one(".verdict-contradicted").text == "1 contradicted"
    assert [claim["id"] for claim in fold.select("div.claim")] == ["claim-C2.3-09", "claim-C2.3-38"]


def test_what_a_page_needs_folds_into_one_computed_line(site):
    fold = site["chapters/quantization.html"].select_one("div.facts").parent
    assert (fold.name, fold.has_attr("open")) == ("details", False)
    assert words(fold.summary) == "What this page needs: quick profile, digits, 12 s on 1 thread"


def test_the_cost_of_a_run_is_shown(site):
    text = words(site["chapters/quantization.html"].select_one("div.facts"))
    for part in ("Profile quick", "12 s", "410 MiB", "1,078 training", "3 for each measurement", "torch 2.13.0"):
        assert part in text


def test_a_tile_leads_to_the_claims_that_it_counts(site):
    for name, ledger in (("claims.html", ""), ("index.html", "claims.html")):
        tiles = {words(tile): tile["href"] for tile in site[name].select("ul.tiles a")}
        assert tiles["1 ✗ contradicted"] == f"{ledger}?verdict=contradicted"
        assert tiles["1 · not measured in this profile"] == f"{ledger}?verdict=not-measured-in-this-profile"
    cards = site["claims.html"].select("div.claim[id]")
    kinds = sorted(style for card in cards for style in card["class"] if style.startswith("is-"))
    assert kinds == ["is-contradicted", "is-not-measured-in-this-profile", "is-not-testable-here", "is-supported"]


def test_the_keys_of_a_card_are_folded(site):
    fold = site["claims.html"].find(id="claim-C2.4-12").details
    assert not fold.has_attr("open")
    assert words(fold.summary) == "3 rules"
    assert "quantization.lenet300.file_ratio , at least 15×" in words(fold)
    fold.extract()
    assert "file_ratio" not in words(site["claims.html"].find(id="claim-C2.4-12"))


def test_a_card_and_the_place_that_measures_it_lead_to_each_other(site):
    place = site["claims.html"].find(id="claim-C2.4-12").select_one(".claim-place")
    assert words(place) == "Measured in Part sec-deep-compression (Quantization)"
    assert place.a["href"] == "chapters/quantization.html#part-sec-deep-compression"
    section = site["chapters/quantization.html"].select_one("#part-sec-deep-compression")
    for mark in (section.select_one(".finding"), section.select_one(".verdict")):
        assert mark.a["href"] == "../claims.html#claim-C2.4-12"
    assert words(section.select_one(".finding")) == "shrinks"
    for id, chapter in (("C2.3-09", "pruning"), ("C2.3-38", "pruning"), ("C2.4-13", "quantization")):
        assert (
            site["claims.html"]
            .find(id=f"claim-{id}")
            .select_one(".claim-place")
            .a["href"]
            .startswith(f"chapters/{chapter}.html")
        )


def test_claims_that_no_measurement_decides_are_counted_apart(site):
    page = site["claims.html"]
    measured, apart = page.select("ul.tiles")
    assert "not testable here" in words(apart) and "not testable here" not in words(measured)
    bars = {words(item.select_one(".name")): item for item in page.select("ul.section-bars > li")}
    assert words(bars["2.3 Pruning"].select_one(".apart")) == "– 1 not testable here, section 2.3 Pruning"
    assert words(bars["2.3 Pruning"].select_one(".bar")) == "✗ 1 contradicted, section 2.3 Pruning"
    (total,) = [row for row in page.select(".section-table tr") if words(row).startswith("All sections")]
    assert sum(int(cell.text) for cell in total.select("td")) == 4


def test_the_catalogue_links_each_technique(site):
    page = site["techniques.html"]
    row = page.find(id="deep-compression")
    assert {link["href"] for link in row.find_all("a")} >= {
        "chapters/quantization.html#sec-deep-compression",
        "claims.html#claim-C2.4-12",
    }
    assert "✓ supported" in words(row)


def test_the_first_page_counts_what_there_is(site):
    text = words(site["index.html"].find(id="where-the-book-stands"))
    for part in ("4 techniques", "2 chapters", "4 claims", "1 ✗ contradicted", "those of the quick profile"):
        assert part in text


def test_the_headline_is_computed_and_drawn(site):
    page = site["index.html"]
    text = words(page.select_one("div.headline"))
    for part in (
        "a file of 1,066 kB .",
        "a file of 19 kB .",
        "misclassifies 3.2 % of",
        "without compression, it misclassifies 3.1 %",
    ):
        assert part in text
    assert [bar["style"] for bar in page.select(".sizes .bar")] == ["width: 100.0%", "width: 1.8%"]
    said = page.select_one(".sizes")["aria-label"].replace("\N{NO-BREAK SPACE}", " ")
    assert said == "Two bars: the file has 1,066 kB before and 19 kB after, 1.8 % of it"


def test_a_finding_shows_sentence_verdict_and_chapter(site):
    first, second, third = site["index.html"].select("ul.findings > li")
    says = (
        "How many weights can go? The survey: Pruning removes a tenth to a third of the weights. ✗ contradicted Pruning"
    )
    assert words(first) == says
    assert [link["href"] for link in first.select("a")] == ["claims.html#claim-C2.3-38", "chapters/pruning.html"]
    assert "✓ supported" in words(second)
    assert "claim-contradicted" in first["class"]
    assert words(third) == "One network alone times smaller on paper 40× here 19.5× Quantization"
    assert [link["href"] for link in third.select("a")] == ["chapters/quantization.html"]


def test_errata_stand_in_their_section_and_lead_to_their_cards(site):
    page = site["index.html"]
    entry = page.find(id="erratum-C2.3-09")
    assert words(entry).startswith("C2.3-09 – not testable here The survey Signorini and others proposed")
    assert "Its source The method is that of Han" in words(entry)
    assert entry.a["href"] == "claims.html#claim-C2.3-09"
    (row,) = page.select("ul.errata-bars a")
    assert words(row) == "2.3 Pruning 1"
    assert page.find(id=row["href"].removeprefix("#")) in entry.parents


def test_every_page_names_its_profile_and_quick_ones_at_the_top(site):
    pages = [page for name, page in site.items() if name not in ("genindex.html", "search.html")]
    assert len(pages) == 7
    for page in pages:
        assert "Profile of this build: quick." in words(page)
        assert "standard profile" in words(page.select_one(".bd-header-announcement"))


def test_every_page_says_what_it_is_to_those_who_share_it(site):
    for name, page in site.items():
        tags = {tag.get("name") or tag.get("property"): tag["content"] for tag in page.select("head meta[content]")}
        assert len(page.select("head meta[name=viewport]")) == 1, name
        assert page.select_one("head link[rel*=icon]")["href"].endswith("_static/favicon.svg"), name
        if name in ("genindex.html", "search.html"):
            continue
        assert tags["og:title"] == words(page.h1).rstrip("# "), name
        assert tags["og:image"] == f"{SITE}_static/card.png"
        assert tags["author"]
    assert site["index.html"].title.text == "Deep model compression, executed"
    assert site["claims.html"].title.text == "The ledger of claims — Deep model compression, executed"
    (about,) = site["techniques.html"].select("head meta[name=description]")
    assert about["content"].startswith("Each technique is one file of lib, one test file")


def test_a_chapter_offers_its_notebook_and_others_do_not(site, root):
    button = site["chapters/pruning.html"].select_one("a.btn-download-notebook-button")
    assert button["href"] == "../_sources/chapters/pruning.ipynb"
    notebook = nbformat.read(root / "_build" / "html" / "chapters" / button["href"], as_version=4)
    assert "# Pruning" in notebook.cells[1].source
    assert site["claims.html"].select("a.btn-download-notebook-button") == []


def test_the_first_page_says_how_to_cite_it(site):
    entry = site["index.html"].find(id="how-to-cite").pre.text
    assert "@misc{deep2026," in entry
    assert f"url    = {{{REPOSITORY}}}" in entry


def test_a_known_repository_is_offered_to_clone(site):
    assert site["reproduce.html"].article.pre.text == f"git clone {REPOSITORY}.git\ncd some-book\n"


def test_what_pages_ask_for_in_vain_fails_the_build(tmp_path):
    root = tiny_book(tmp_path)
    asks = ["{verdict}`C9-99`", *(f"```{{{name}\n```" for name in ("claims} hashing", "cost} hashing"))]
    asks += ["```{findings}\nC9-99: Why?\n```"]
    (root / "index.md").write_text("\n\n".join(["# Title", "(reading-a-verdict)=\n## Part", *asks]))
    (root / "chapters" / "pruning.py").write_text(HEADER + "# %% [markdown]\n# # Pruning\n")
    stamp_run(root, "pruning")
    done = build(root)
    assert done.returncode != 0
    for says in (
        "a claim must be one of those in survey/claims, not 'C9-99'",
        "a chapter with claims must be one of pruning, quantization, not 'hashing'",
        "show and lines `name = key`, not 'C9-99: Why?'",
        "the chapter 'hashing' has no finished run of the quick profile",
        "undefined label: 'sec-magnitude'",
    ):
        assert says in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("survey/claims/pruning.yml", "- id: C2.3-01\n", "claim C2.3-01: its section must be, in quotes, one of"),
        ("_build/results/quick/pruning.json", "{}", "pruning.json of the quick profile is damaged"),
    ],
)
def test_wrong_data_fail_the_build(tmp_path, file, text, says):
    root = tiny_book(tmp_path)
    (root / file).write_text(text)
    done = build(root)
    assert done.returncode != 0
    assert says in done.stdout + done.stderr
