"""What several hashing techniques use.

mixing.py   a hash of whole numbers that is the same on every machine: buckets and signs
lookup.py   weights from the values of their buckets, and the gradient of the values, each in one pass
"""
