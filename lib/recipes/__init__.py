"""Recipes: shrink a network of your own by a few calls, and measure it before and after.

methods.py    the recipes by name: what each gives, what it needs, and the calls that it consists of
costs.py      what a network costs: error, file, multiply-adds, memory, time
following.py  one whole run: shrink, retrain and measure, next to the unchanged network trained equally long
rebuilding.py rebuilds the shrunk network from the files of a run
inputs.py     what a user brings: network, weights and images, each checked
report.py     the results, as text and as a figure
results.py    writes what a run leaves: files, report, figure
command.py    the same from the command line: ``python -m lib shrink``
"""
