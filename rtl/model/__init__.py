"""The network and the folder that holds a finished one.

inception.py   Inception V3 of torchvision's modules, cut between any two blocks
pretrained.py  where its weights come from
device.py      CPU or GPU, precision, threads
kernels/       takes the network, gives one of equal output that is faster on a CPU
inference.py   the whole network: probabilities, features, heatmaps
bundle.py      one finished model in storage
golden.py      its answers for the golden images, compared before each use
registry.py    bundles by name and version, and which is current
weights/       the packaged weights
"""
