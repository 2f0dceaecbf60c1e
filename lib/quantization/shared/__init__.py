"""What several quantization techniques use.

names.py                bits for each layer, by name
hessian_diagonal.py     how much each weight matters: the diagonal of the Hessian and cheaper estimates
joint_codebook.py       one codebook for all layers
whole_steps.py          the smallest file: prune, round to whole steps, train on, code by context

Grids, and networks on them:

grids.py                affine grids, and rounding to them
activation.py           activations rounded to a grid, whose range is observed on data
graph.py                a network as a graph of operations that have an integer form
operations.py           those operations, and the torch functions that do the same
in_place.py             how in-place operations are removed from a graph
batch_norm.py           batch norm as part of the layer before it, or as a layer of its own
transposed.py           a transposed convolution as inserted zeros and a plain convolution
lowering.py             that network with each module replaced by one for integers
fixed_types.py          buffers that keep their types

Integer-only networks, by TensorFlow Lite's rules:

integer_network.py      the conversion
integer_arithmetic.py   sums of products, and real factors as integers
integer_ends.py         real numbers to integers, and back
integer_layers.py       linear and convolution layers
integer_operations.py   sums, products, means, tables, concatenations
windows.py              sums of integers over pooling windows

Networks on torch's 8-bit integer kernels:

torch_kernels.py        the conversion, and which kernels add exactly
kernel_operations.py    layers, sums and the like on torch's quantized tensors

precisions.py           one network in float32, bfloat16 and int8 for comparison, and why a network does not convert
"""
