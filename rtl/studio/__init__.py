"""The studio: a local web application to look at data, label, retrain, and put models to work.

`server` runs it; `app` puts it together; `guard` keeps strangers out; `workspace` holds what is
open; `background/` has long work. Pages lie in `page/`, what they ask for in `routes/`; each theme
has a package: `photos/`, `labelling/`, `runs/`, `models/`.
"""
