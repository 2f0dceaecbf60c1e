"""Lossless codes from symbols to bytes and back, with which :mod:`lib.storage` writes its files.

coders.py    fixed-length codes, Huffman's code, a range code, and the entropy they are compared with
context.py   a code that learns from neighboring symbols, for weights that are mostly zero
fields.py    numbers, names and coded streams in a file, and their reader
gaps.py      the positions of the few weights that are kept, as gaps between them
"""
