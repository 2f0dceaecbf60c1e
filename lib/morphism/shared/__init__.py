"""What several techniques of network morphism use.

checks.py            what a morph may be asked of, and the proof that it keeps the function
graphs.py            a network as a graph that can be edited
paths.py             how many paths lead through a network
layers.py            layers to morph: which there are, how far they reach, new ones like them
channels.py          new channels for a group of layers, in all that computes, carries and reads them
widening.py          more channels that change nothing
deepening.py         a layer that begins as the identity
p_activation.py      an activation that begins as the identity
kernels.py           larger kernels
skips.py             a later layer adds, or reads, what an earlier one computes
subnets.py           several layers, or branches of them, in place of one
branches.py          how branches get their inputs and merge their outputs
parts.py             the same function in several pieces
factors.py           one convolution as two
edit_distance.py     how much must change to turn one architecture into another
embedding.py         points of any metric space as vectors
gaussian_process.py  what is known about a function after a few of its values
tree_search.py       the morph that promises most, in a tree of morphs
chooser.py           what to evaluate next
"""
