"""What several techniques that search with supergraphs need.

graph.py             a supergraph as a graph: live edges, connected masks, paths
supernetwork.py      a network with a layer at each edge, its masks, and what a mask leaves of it
convolutions.py      the convolutions at the edges
costs.py             what a mask costs: a sum over its edges, or the steps that n machines need
residual_fabric.py   residual blocks that can be left out, and blocks across the stages
choices.py           candidates as choices, one after another
macro_space.py       whole networks: an operation for each layer, and skips
mobile_space.py      rows of blocks whose layers are alike
policies.py          distributions over candidates
reinforce.py         how a controller learns from rewards
weight_sharing.py    one set of weights for all candidates
"""
