"""Sphinx extensions for the pages of the book.

executed.py          shows a chapter's source with the results of its run
page.py              what the directives share
survey.py            directives and a role for claims and techniques
cost.py              what the run of a chapter used
finding.py           words that state an outcome, linked to the claim that it decides
means.py             measurements without their spread
units.py             keeps numbers and their units on one line
bars.py              small figures of a few bars
zoo.py               each technique on networks it was not written for
errata.py            where the survey differs from its sources
first_page.py        why it matters, what came out, and what the book holds
parts.py             folded lines, rows of numbers, badges and links, as Docutils nodes
ledger_markdown.py   the claims and techniques as Markdown
ledger_summary.py    bars and a table of verdicts by section, each part a link that sets the filter
repository.py        launch, edit and issue buttons
roadmap.py           the survey's Figure 1 as a map of links
theme.py             what every page has around its text
templates/           our changes to the theme's templates
icons.py             the theme's icons as one small font
offline.py           pages load nothing from the network, and only what they use
notebooks.py         each chapter as a notebook to download
citation.py          how to cite the book
sharing.py           what sites show for a shared link
card.py              the picture they show with it
previews.py          previews of the places that a page links to
search.py            how the search splits text into words
quiz.py              questions with folded answers
playground.py        sliders over recorded runs
weight.py            the gate on what a page loads
"""
