"""Quantization: weights in few bits, and arithmetic on small integers (section 2.4).

Shared values:

scalar_kmeans.py                 the weights of a layer share k values, found by k-means
optimal_kmeans.py                k-means on a line: the exact optimum, and Lloyd's iteration
product_quantization.py          short pieces of rows share a few codewords
residual_quantization.py         whole rows share codewords, and the remaining error is quantized again
sign_quantization.py             one bit per weight, without training
deep_compression.py              prune, share trained centroids, Huffman-code the result

With the cost in loss or in bits taken into account:

hessian_weighted_kmeans.py       one codebook for all layers, with errors weighted by their cost in loss
uniform_quantization.py          cells of equal width, and an entropy code for their numbers
entropy_constrained.py           k-means that pays for the bits of each code

Integers:

affine.py                        weights and activations as small integers on an even grid
quantization_aware_training.py   training that rounds as the integer network will
shared/                          what several of these use
"""
