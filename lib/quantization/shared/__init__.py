"""What several quantization techniques use.

names.py              bits for each layer, by name
hessian_diagonal.py   how much each weight matters: the diagonal of the Hessian and cheaper estimates
joint_codebook.py     one codebook for all layers
whole_steps.py        the smallest file: prune, round to a grid, code by context, and go on training
graph.py              a network as a graph of operations that integers can do
integer_network.py    that network in integers alone, by TensorFlow Lite's rules
torch_kernels.py      that network on torch's 8-bit integer kernels
"""
