"""What several pruning techniques use.

selection.py        which weights to keep: a given share, the largest ones
groups.py           the groups of filters that a criterion scores
patches.py          what convolution and linear layers read and answer, at random places of random images
reconstruction.py   what the next layers read of each channel
refitting.py        new weights for layers that read removed channels
cholesky.py         a Cholesky factor that gains and loses one row and column at a time
"""
