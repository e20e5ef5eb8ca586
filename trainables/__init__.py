"""How one trial is trained: data, models, methods, compression, teachers.

Importing this package loads neither Ray nor torch; ``trainables.trainable`` is
the only module that knows Ray.
"""
