"""What turns the sources into the pages of the book. No chapter and no technique imports this folder.

Chapters and their runs:

chapters.py       what a chapter is: its source, header and parameters, and what a profile changes
run.py            run one chapter, within time limits
execution.py      run all chapters that are out of date, through Snakemake
warm.py           a server from which chapters start at once, with their libraries loaded
processes.py      wait for other programs, and end them with everything they started
fingerprints.py   what a run depends on
last_run.py       what a chapter's last run left behind

Claims and records:

claims.py         what a claim of the survey is, and which rules may decide it
judging.py        how measurements decide a claim
wording.py        judgments in words, for the terminal
telling.py        what was measured for a claim, in one plain sentence
passages.py       which section of a chapter measures a claim
ledger.py         reads the files of claims, techniques and measurements
records.py        the committed results: written on demand, checked, compared
reproduce.py      run chapters again and compare their verdicts with those in the ledger
catalogue.py      the table of techniques in README.md
history.py        the check that a rule which changed after its result was known says so
zoo/              every technique on networks it was not written for

The book:

build.py          the commands, from sources to pages and records
pages.py          build the pages, one page alone, or serve them
gates.py          the checks on pages and verdicts
prose.py          the check that no measured number is typed by hand
findings.py       sentences that state an outcome, and the rules that keep them true
quizzes.py        questions to readers, and the rules that keep their answers true
form.py           the checks on the form of a chapter
reading.py        the checks on how a page reads
choices.py        the check that a chapter makes its choices on the validation split
playground.py     what the sliders show: a classifier at every density and number of bits
sphinx/           extensions of Sphinx for the pages
matrix.py         the jobs of the published book
doctor.py         whether this machine's kernels give right results
trials.py         the trials by which the doctor decides
processor.py      the name and the vector instructions of this machine's processor
files.py          write a text file completely or not at all
"""
