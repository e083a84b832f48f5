"""The commands: each is a frozen dataclass of its arguments, with `execute`.

base.py     the base of all commands; the arguments that many share
setup.py    `rtl config`
data.py     `rtl pack`, `rtl features`
fits.py     `rtl plan`, `rtl train`, `rtl search`, `rtl lr-find`, `rtl report`, `rtl runs`
models.py   `rtl evaluate`, `rtl compare`, `rtl quantize`, `rtl predict`, `rtl export`, `rtl card`
serving.py  `rtl promote`, `rtl rollback`, `rtl canary`, `rtl serve`, `rtl deploy`
jobs.py     `rtl submit`, `rtl jobs`
showcase.py `rtl demo`
"""
