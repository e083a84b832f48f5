"""WebDataset tars: an image beside its label.

tars.py     a tar's members, read in ranges, never extracted
samples.py  members to samples: which label belongs to which image
"""
