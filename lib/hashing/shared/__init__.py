"""What several hashing techniques use, and what one compares itself with.

mixing.py             a hash of whole numbers that is the same on every machine: buckets and signs
lookup.py             weights from the values of their buckets, and the gradient of the values, each in one pass
active_products.py    the products of a layer with a few of its rows for each sample, and their gradients
linear_layers.py      layers in the place of linear ones that use a part of their units: which are accepted, their work
adaptive_dropout.py   units that are kept the more probably, the larger their output is
"""
