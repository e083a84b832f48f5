"""Faults of a data set, found before money is spent on it: `rtl audit`.

findings.py   one record for each kind of fault
facts.py      shape, light, camera and a small picture of each image
duplicates/   near-duplicates
classes.py    classes that are small, rare or absent from a split
shortcuts.py  properties of the files that give the label away
outliers.py   photos unlike all others, odd sizes, even pictures
doubts.py     labels that are probably wrong, and groups in a class that do worse
pretraining.py   photos that the weights may have been trained on
run.py        all of them, the worst first
fix.py        a new version without near-duplicates, or with each group in one split
"""
