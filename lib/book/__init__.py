"""From sources to pages. No chapter and no technique imports this folder.

Chapters and their runs:

chapters.py       what a chapter is: its source, header and parameters, and what a profile changes
run.py            run one chapter, within time limits
execution.py      run all chapters that are out of date, through Snakemake
warm.py           a server from which chapters start at once, with their libraries loaded
processes.py      other programs: wait for them and end them with all that they started
fingerprints.py   what a run depends on
last_run.py       what a chapter's last run left

Claims and records:

claims.py         what a claim of the survey is, and which rules may decide it
judging.py        how measurements decide a claim
wording.py        judgments in words, for the terminal
telling.py        what was measured for a claim, in one plain sentence
passages.py       which section of a chapter measures a claim
ledger.py         the claims, the catalogue of techniques and the measurements, as files hold them
records.py        the committed results: written on demand, checked, compared
reproduce.py      run chapters again and compare their verdicts with the held ones
catalogue.py      the table of techniques in README.md
history.py        the check that a rule that changed after its result says so
zoo/              every technique on networks that nobody here wrote

The book:

build.py          the commands, from sources to pages and records
pages.py          build the pages, one page alone, or serve them
gates.py          the checks on pages and verdicts
prose.py          the check on prose: no measured number is typed
findings.py       sentences that state an outcome, and the rules that keep them true
quizzes.py        questions to readers, and the rules that keep their answers true
form.py           the checks on the form of a chapter
reading.py        the checks on how a page reads
choices.py        the check that a chapter chooses by the validation split
playground.py     what the sliders show: a classifier at every density and number of bits
sphinx/           extensions of Sphinx for the pages
matrix.py         the jobs of the published book
doctor.py         whether this machine's kernels give right results
trials.py         the trials that say so
processor.py      the name and the abilities of this machine's processor
files.py          write a text file completely or not at all
"""
