"""What several binarization techniques use.

signs.py             the sign and its gradient, weights of signs, and a layer that reads signs
conversion.py        how a network gets such layers: the choice of layers, batch norm before them, limits of weights
states.py            weights in discrete states, and the rule by which they move from one to another
state_optimizer.py   the optimizer for such weights
inference.py         run a trained binary network on kernels that count bits
kernels.py           products of signs by counting bits
ternary_bits.py      products of ternary values by counting bits
vector.py            vector instructions of 512 bits for numba
speed.py             the same operations on bits and on floats, ready to be timed
"""
