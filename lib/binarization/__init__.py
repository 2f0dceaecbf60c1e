"""Binarization: weights, and activations, of one bit or of three values (section 2.6).

binaryconnect.py         both passes use the signs of the weights; real weights accumulate the updates
bipolar_regularizer.py   a penalty that pulls weights to +1 and -1, where weight decay pulls them to 0
bnn.py                   weights and activations are signs
bwn.py                   one bit per weight and one scale per filter
xnor_net.py              signs of weights times signs of inputs, with scales
abc_net.py               weights and activations as sums of a few matrices of signs
gxnor_dst.py             three values for both, and no real copy of the weights in training
bulat_binary_block.py    a block for binary networks without 1 x 1 convolutions
shared/                  what several of these use
"""
