"""Parts of pages as the nodes that they are made of."""

from docutils import nodes

from lib.book.sphinx import parts


def test_a_fold_is_a_line_and_what_it_hides():
    fold = parts.fold([nodes.Text("open "), nodes.strong(text="me")], [nodes.paragraph(text="hidden")])
    line, hidden = fold.children
    assert isinstance(line, parts.Summary) and line.astext() == "open me"
    assert hidden.astext() == "hidden" and fold["classes"] == ["fold"]


def test_a_tile_leads_somewhere_only_if_it_has_an_address():
    (row,) = parts.tiles([("3", "claims", "claims.html"), ("86", "techniques", None)])
    assert [item.astext() for item in row.children] == ["3 claims", "86 techniques"]
    first, second = (list(item.findall(nodes.reference)) for item in row.children)
    assert [link["refuri"] for link in first] == ["claims.html"] and second == []


def test_a_verdict_is_a_style_of_one_word():
    badge = parts.label("supported in part", nodes.Text("in part"))
    assert badge["classes"] == ["verdict", "verdict-supported-in-part"] and badge.astext() == "in part"


def test_links_to_claims_and_chapters_warn_where_nothing_is():
    claim, chapter = parts.link("index", "C2.3-11", "its card"), parts.chapter_link("index", "pruning")
    assert (claim["reftarget"], claim.astext()) == ("claim-c2.3-11", "its card")
    assert parts.anchor("C2.3-11").lower() == claim["reftarget"]
    assert chapter["reftarget"] == "/chapters/pruning" and claim["refwarn"] and chapter["refwarn"]
