"""What several techniques of numerical precision use.

formats.py            fixed-point formats, and two ways of rounding to them
short_floats.py       floats of fewer bits than 32
straight_through.py   rounding in the forward pass, another function in the backward pass
arithmetic.py         how the numbers of a network are rounded while it computes
gradient_descent.py   stochastic gradient descent in which every number is rounded
chains.py             chains of layers that an integer network can be made of
integers.py           the integer arithmetic of a small processor
"""
