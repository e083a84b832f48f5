"""Labels: which are wrong, which photos to label next, and what more of them would bring.

rows.py     ids, labels and features of a data set
kernel.py   many least-squares probes for the price of one Gram matrix
errors.py   `rtl label review`: labels that are probably wrong
"""
