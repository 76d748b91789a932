"""Rows as the trainer's own code forms them, where that trainer is installed: here or in an environment of its own.

``finding`` says in which Python it is, ``asking`` hands that Python the rows that were read and takes what became of
them, ``child`` is what runs there. Only the trainer's code runs; a module of the user's needs ``--run-data``.
"""
