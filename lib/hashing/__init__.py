"""Hashing: weights that share values by chance, and neurons found by a look-up (section 2.2).

feature_hashing.py        sums of inputs that fall into the same bucket: fewer dimensions, the same inner products
hashed_nets.py            the weights of a layer share K values: a hash says which, so only values and a seed are stored
simhash.py                hash tables of signed random projections: vectors of similar direction share a bucket
inner_product_search.py   the largest inner products by hashing: L2-ALSH, Sign-ALSH, Simple-LSH
sparse_layers.py          layers that compute only the units that hashing finds for each input
shared/                   the hash, a compiled look-up of what it groups, products with a few rows, adaptive dropout
"""
