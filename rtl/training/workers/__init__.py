"""The workers of one fit under Ray Train.

trainer.py  starts the workers of a TorchTrainer
faults.py   permanent and transient errors
"""
