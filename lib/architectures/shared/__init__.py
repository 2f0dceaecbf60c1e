"""What several architectures use.

network.py   a network that says in one sentence which images and sizes it does not take
"""
