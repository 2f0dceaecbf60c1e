"""Extensions of Sphinx for the pages of the book.

executed.py          a page shows a chapter's source with the results of its run
survey.py            directives and a role for claims, techniques and the cost of a run
ledger_markdown.py   the claims and techniques as Markdown
repository.py        launch, edit and issue buttons
offline.py           pages that load nothing from the network
"""
