"""Self-organization: networks that find the order of their inputs, on a given map or by growing (sections 3.2, 3.2.1).

Each file holds one estimator in the form of scikit-learn: fit, partial_fit, predict, transform.

The beginnings:

perceptron.py                 fixed random detectors and one unit that learns from its errors
willshaw_malsburg.py          connections between two sheets that learn to keep neighbors together
self_organizing_map.py        a grid of units that unfolds over the inputs

Without a grid:

neural_gas.py                 units that move by their rank, and edges between the nearest two
growing_cell_structures.py    a mesh of triangles that gains a unit where it errs most
growing_neural_gas.py         a graph that gains a unit where it errs most, and loses old edges
shared/                       what several of these use
"""
