"""Search for an architecture: what a space is, what a search returns, and the searches to compare with.

history.py                what every search takes and returns: space, evaluation, history
random_search.py          candidates drawn at random, each once
regularized_evolution.py  a population that loses its oldest member at each step
exhaustive.py             all candidates, in their order
constrained.py            a space within a limit
regret.py                 how far a search is from the best, after each evaluation
chains.py                 a tiny space: chains of operations
networks.py               networks of chains
table.py                  the truth about the tiny space: every candidate trained, chains.csv
latency_table.py          the time of every operation on this machine, and of networks composed of them
"""
