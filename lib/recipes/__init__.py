"""Recipes: a network of your own, made smaller by a few calls of techniques, measured before and after.

methods.py    the recipes by name: what each gives, what it needs, and the calls that are it
costs.py      what a network costs: error, file, multiply-adds, memory, time
following.py  one whole run: measure, shrink, retrain, measure again, beside the unchanged network trained as long
rebuilding.py the shrunk network again, from the files of a run
inputs.py     what a user brings: network, weights and images, each checked
report.py     what came out, as text and as a figure
results.py    what a run leaves: files, report, figure
command.py    the same from the command line: ``python -m lib shrink``
"""
