"""rtl: labelled images in object storage in, a served classifier out."""

import gc

__version__ = "0.1.0"

GC_THRESHOLD = gc.get_threshold()
"""How often Python looks for garbage by default."""

# Importing Ray and PyTorch makes 400,000 objects that stay. Python would look through all of them
# seven times meanwhile, a quarter of the time that it takes.
gc.set_threshold(10_000, *GC_THRESHOLD[1:])
