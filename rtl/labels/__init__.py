"""Labels: which are wrong, which photos to label next, and what more of them would bring.

rows.py     ids, labels and features of a data set
kernel.py   many least-squares probes for the price of one Gram matrix
versions.py new versions of a data set, with their history: `rtl label apply`
tables.py   CSV files that people fill in
errors.py   labels that are probably wrong: `rtl label review`
selection.py, queue.py, pool.py   what to label next: `rtl label next`
audit/      faults of a data set: `rtl audit`
curve/     what more labels would bring: `rtl label curve`
images.py   encoded images of some rows
"""
