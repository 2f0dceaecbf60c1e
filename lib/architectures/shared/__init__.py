"""What several architectures use.

network.py       a network that says in one sentence which images and sizes it does not take
strides.py       strides of a network's stages, and the smallest image that they leave a place of
activations.py   bytes of the activations that are alive at once
roofline.py      what a core can do at most, and what a convolution asks of it
"""
