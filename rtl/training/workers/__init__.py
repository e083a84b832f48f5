"""The workers of one fit under Ray Train.

trainer.py  starts the workers of a TorchTrainer
worker.py   one of them: its part of the fit, its commits, and its early ends
faults.py   permanent and transient errors
"""
