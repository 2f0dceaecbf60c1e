"""What several hashing techniques share, and adaptive dropout, with which one of them is compared.

mixing.py             a hash of whole numbers that is the same on every machine: buckets and signs
lookup.py             weights from the values of their buckets, and the gradient of the values, each in one pass
hashed_layers.py      hashed layers for inference, which look weights up instead of writing a matrix
lookup_kernels.py     their inner loops
active_products.py    products with only a few rows of a layer, other rows for each sample, and their gradients
linear_layers.py      how layers that use only some of their units replace linear layers, and what they cost
adaptive_dropout.py   dropout that is more likely to keep units with large outputs
"""
