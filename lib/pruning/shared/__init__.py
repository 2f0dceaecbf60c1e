"""What several pruning techniques use.

selection.py        which weights to keep: the largest, in the share that is asked for
groups.py           the groups of filters that a criterion scores
reconstruction.py   what the next layer reads of each channel, and new weights that make up for removed ones
cholesky.py         a Cholesky factor that gains and loses one row and column at a time
"""
