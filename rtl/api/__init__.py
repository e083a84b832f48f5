"""The Python API: the functions that `import rtl` offers, and their results.

configuration.py  `load_config`, and the config that a call's arguments ask for
data.py           `pack`, `features`
fits.py           `train`, `search`, `report`
labels.py         `label_review`, `label_next`, `label_apply`, `label_curve`
models.py         `load_model`, `evaluate`, `predict`, `export`
registries.py     `Registry`
endpoints.py      `serve`

Each call connects to Ray by itself where it needs it, prints nothing unless `progress=True`, and
returns a frozen result with `uri`, the place of what it made. The functions import heavy packages
themselves, because the variables that silence Ray must be set before Ray is imported.
"""
