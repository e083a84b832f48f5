"""The network and the folder that holds a finished one.

inception.py   Inception V3, cut between any two blocks
pretrained.py  where its weights come from
device.py      CPU or GPU, precision, threads
inference.py   the whole network: probabilities, features, heatmaps
bundle.py      one finished model in storage
registry.py    bundles by name and version, and which is current
kernels/       the same network, faster on a CPU
weights/       the packaged weights
"""
