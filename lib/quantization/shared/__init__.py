"""What several quantization techniques use.

names.py                bits for each layer, by name
hessian_diagonal.py     how much each weight matters: the diagonal of the Hessian and cheaper estimates
joint_codebook.py       one codebook for all layers
whole_steps.py          the smallest file: prune, round to a grid, code by context, and go on training

Grids, and networks on them:

grids.py                affine grids, and rounding to them
activation.py           what flows through a network, rounded to a grid whose range was observed
graph.py                a network as a graph of operations that integers can do
operations.py           those operations, and the functions of torch that mean them
in_place.py             a graph without the trick of computing in place
batch_norm.py           batch norm as part of the layer before it, or as a layer of its own
transposed.py           a transposed convolution as zeros and a plain one
lowering.py             that network with a part for integers in place of each module
fixed_types.py          buffers that keep their types

Networks in integers alone, by TensorFlow Lite's rules:

integer_network.py      the conversion
integer_arithmetic.py   sums of products, and real factors as integers
integer_ends.py         real numbers to integers, and back
integer_layers.py       linear and convolution layers
integer_operations.py   sums, products, means, tables, concatenations
windows.py              sums of integers over the windows of a pooling

Networks on torch's 8-bit integer kernels:

torch_kernels.py        the conversion, and which kernels add exactly
kernel_operations.py    layers, sums and the like on torch's quantized tensors

precisions.py           one network in float32, bfloat16 and int8, to be compared; why one does not convert
"""
