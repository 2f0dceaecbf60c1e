"""Numerical precision: networks that train and run with numbers of few bits (section 2.5).

fixed_point.py           training in fixed point, with stochastic rounding
dynamic_fixed_point.py   a range for each kind of number in each layer, moved when numbers overflow
limited_precision.py     short floats and fixed point as studied around 1990, with one hidden layer
embedded_cnn.py          a convolutional network in integers, for processors without floating point
shared/                  what several of these use
"""
