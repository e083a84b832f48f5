"""Two models on the rows of one split: which is better, and where they differ.

compare.py      `rtl compare`
predictions.py  both models' probabilities, each image decoded once
corruptions.py  blur, noise, brightness and JPEG, for robustness
copies.py       rows whose photo is in `train` too
records.py      typed results
verdict.py      the result in sentences
"""
