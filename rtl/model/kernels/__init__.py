"""The network's parts, faster on a CPU.

blocks.py       blocks with fewer passes over memory
convolution.py  a convolution whose weights are laid out once
gradient.py     a convolution whose weights' gradient is a matrix product
graph.py        a frozen part as one call, without Python between its operators
int8.py         the network in 8 bits
"""
