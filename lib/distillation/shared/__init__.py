"""What several techniques of distillation use.

distiller.py         a teacher, the losses with which its student copies it, and the checks
agreement.py         how often two networks choose the same class, or make the same mistake
retrieval.py         how well embeddings rank, and how alike two networks rank
row_transformer.py   a small transformer that reads the rows of an image
"""
