"""What the factorizations have in common.

rows.py    which layers are factorized, at which ranks, and a report on each
parts.py   the small layers that replace a large one, and the sequence that holds them
"""
