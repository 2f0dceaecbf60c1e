"""What the factorizations have in common.

rows.py   one layer becomes several in a row: ranks, checks, and the report of what became of each layer
"""
