"""The first batches of a script's own training: it is run in a child process up to its training, and no further.

``request`` says what is run and within what bounds, ``running`` is the parent's side, ``child`` the process in which
the script runs; there ``core.confining`` closes the network and bounds the memory, ``stand_ins`` keeps weights and GPUs
out of it, and ``drawing`` turns the batches into facts.
"""
