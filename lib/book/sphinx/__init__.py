"""Extensions of Sphinx for the pages of the book.

executed.py          a page shows a chapter's source with the results of its run
page.py              what the directives of the pages share
survey.py            directives and a role for claims and techniques
cost.py              what the run of a chapter used
finding.py           words that state an outcome, with a link to the claim that it decides
means.py             measurements without their spread
units.py             numbers keep their units on the line
bars.py              small figures of a few bars
zoo.py               each technique on networks that nobody here wrote
errata.py            where the survey says other things than its sources
first_page.py        why to care, what came out, where the book stands
parts.py             folded lines, rows of numbers, badges and links as nodes of Docutils
ledger_markdown.py   the claims and techniques as Markdown
ledger_summary.py    bars and a table of verdicts by section, each part a link that sets the filter
repository.py        launch, edit and issue buttons
roadmap.py           the survey's Figure 1 as a map of links
theme.py             what every page has around its text
templates/           what it changes in the theme's templates
icons.py             the theme's icons as one small font
offline.py           pages that load nothing from the network, and only what they use
notebooks.py         each chapter as a notebook to download
citation.py          how to cite the book
sharing.py           what others show of a page that is shared
card.py              the picture that they show with it
previews.py          what a page shows of the places that it links to
search.py            the words of the search
quiz.py              questions with folded answers
playground.py        sliders over recorded runs
weight.py            the gate on what a page loads
"""
