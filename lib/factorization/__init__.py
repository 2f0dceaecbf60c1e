"""Factorization: one large layer becomes several small ones (section 2.3).

low_rank.py   a matrix becomes the product of two thin ones, by singular values
spatial.py    a d x d convolution becomes a d x 1 and a 1 x d one
cp.py         a convolution becomes four, two of them depthwise (CP decomposition)
tucker.py     a small convolution between two 1 x 1 ones, with ranks chosen by Bayesian matrix factorization
shared/       what all of these use
"""
