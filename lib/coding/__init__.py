"""Symbols to bytes and back, without loss: what :mod:`lib.storage` writes its files with.

coders.py    codes of one length, Huffman's code, a range code, and the entropy they are compared with
context.py   a code that learns from neighboring symbols, for weights that are mostly zero
fields.py    numbers, names and coded streams in a file, and their reader
gaps.py      the places of the few weights that are kept, as gaps between them
"""
