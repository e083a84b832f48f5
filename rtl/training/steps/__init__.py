"""One process's network, and a step that trains it.

learner.py  the network, cut into frozen trunk and trainable tail, and what a fit is made of
step.py     a training step: forward and backward, in parts where asked for, and the update
"""
