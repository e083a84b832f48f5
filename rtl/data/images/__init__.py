"""Encoded images to pixels, as a person sees them.

decoding.py     decode, resize, augment
framing.py      images of any shape to the network's square
golden.py       images whose answers show whether decoding, framing or a model has changed
orientation.py  how Exif says to turn an image, in every format
samples.py      samples of any depth and sign, scaled to 8 bits
tiff.py         what a TIFF's header says of its samples
unreadable.py   why an image cannot be read, truly
"""
