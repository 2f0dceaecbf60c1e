"""Knowledge distillation (section 2.1): a student learns from what a teacher answers, not from labels alone.

Each technique has a ``loss(student, teacher, labels)``, and a ``distiller`` that ``training.fit`` takes as
``teaching``.
"""
