"""What several techniques of neuroevolution use, or one that would be too long in one file.

genomes.py       NEAT's genes with innovation numbers, and the network that they describe
tasks.py         how well the networks of a population do: XOR, or any Python function of a network
poles.py         a cart that balances two poles, with and without knowing its velocities
graphs.py        graphs that evolve as genomes do, with values in their nodes: modules and blueprints
populations.py   populations of graphs, in species
assembly.py      networks from blueprints and modules
accuracy.py      the fitness of a network that gradient descent trains
"""
