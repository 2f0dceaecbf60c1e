"""What several binarization techniques use.

signs.py             the sign and its gradient, weights of signs, and a layer that reads signs
staircase.py         a sum of signs with trained thresholds, which ABC-Net's layers read
conversion.py        how a network gets such layers: the choice of layers, batch norm before them, limits of weights
plans.py             which layers of any network read signs, and which activations the signs replace
graphs.py            the steps of a network, traced or seen in a run
flow.py              what flows from step to step: its bounds, where it comes from and where it goes
shifts.py            batch norm and an optimizer whose factors are powers of two
states.py            discrete weights, and the rule by which they move from state to state
state_optimizer.py   the optimizer for such weights
restarts.py          training of such weights that keeps the best network and restarts from random states
inference.py         run a trained binary network on kernels that count bits
bit_layer.py         one such layer
bit_network.py       a network in which such layers hand bits to each other
chains.py            what lies between two such layers, as thresholds of integer sums
bit_images.py        images of bits: count, compare and pack in one pass, and max pooling
bisection.py         where a comparison changes, among whole numbers or all floats
bit_planes.py        a first layer that reads pixels of 8 bits and counts bits too
kernels.py           products of signs by counting bits
ternary_bits.py      products of ternary values by counting bits
compiled.py          the loops of the kernels, for numba
vector.py            vector instructions of 512 bits for numba
speed.py             the same operations on bits and on floats, ready to be timed
"""
