"""What several architectures use, and the general parts of single ones.

network.py           a network that says in one sentence which images and sizes it does not take
strides.py           strides of a network's stages, and the smallest image that they allow
convolutions.py      a convolution with batch norm or a bias, and ReLU; He's weights
heads.py             a network that is trained together with classifiers on its inner layers
googlenet_heads.py   GoogLeNet's two auxiliary heads, and training with them
fused_pools.py       a convolution and the average pool after it as one convolution
flow.py              which input channels reach which output channels
encoder_decoder.py   an encoder that pools, and a decoder that puts values where the pools found theirs
landmarks.py         points in images, and their heat maps
key_points.py        how many points a network found
receptive_field.py   how many pixels a place of the output sees
memory.py            memory that a process keeps, so that a measured time is that of the computation
roofline.py          what a core can do at most, and what a convolution asks of it
"""
