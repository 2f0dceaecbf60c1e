"""Neuroevolution: networks whose weights and connections come from evolution (section 3.2.2).

neat.py                    genomes that grow from none: innovation numbers, species, crossover of matching genes
competing_conventions.py   one function, many encodings: why crossover loses hidden units, and what avoids it
codeepneat.py              modules and blueprints evolve together; gradient descent trains the networks they make
shared/                    genomes and their networks, their variation, and tasks: XOR and two poles on a cart
"""
