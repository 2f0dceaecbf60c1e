"""What several techniques of network morphism use.

checks.py            which networks can be morphed, and the proof that a morph keeps the function
graphs.py            a network as a graph that can be edited
paths.py             how many paths lead through a network
layers.py            layers to morph: which there are, how far they reach, new ones like them
channels.py          new channels for a group of layers: those that compute, carry and read them
widening.py          more channels that change nothing
deepening.py         a layer that begins as the identity
p_activation.py      an activation that begins as the identity
kernels.py           larger kernels
skips.py             a later layer adds, or reads, what an earlier one computes
subnets.py           one layer replaced by several, or by branches of several
branches.py          how branches get their inputs and merge their outputs
parts.py             the same function in several pieces
factors.py           one convolution as two
edit_distance.py     how much must change to turn one architecture into another
embedding.py         points of any metric space as vectors
gaussian_process.py  what is known about a function from a few of its values
tree_search.py       the most promising morph in a tree of morphs
chooser.py           what to evaluate next
"""
