"""What several self-organizing networks use.

schedules.py   step sizes and radii that change as learning goes on
inputs.py      what every estimator checks: its parameters, its samples, its seed

Maps:

steps.py       distances to units, and how far each unit follows the winner
blocks.py      many steps of a map at once, to the same weights

Networks without a grid:

estimator.py   nearest units, distances and snapshots
graphs.py      units, their edges, and the shape that they make together
cells.py       a mesh of triangles, or of simplices of another dimension
"""
