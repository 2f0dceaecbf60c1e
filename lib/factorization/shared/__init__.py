"""What the factorizations have in common.

rows.py    which layers are factorized, at which ranks, and the report of what became of each
parts.py   the small layers that take the place of a large one, and the row they stand in
"""
