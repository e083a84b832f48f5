"""The search for the depth and the learning rate.

search.py         `rtl search`: rounds of trials, finalists, the winner
rounds.py         the rounds of a search, with and without a time budget
first_answer.py   the probe, registered before anything is fine-tuned
budget.py         plans a search that ends in a given time
throughput.py     how fast the cluster is, measured for seconds
proposals.py      the points: a grid, or what Optuna proposes
sweep.py          one round of trials under Ray Tune
tracker.py        the trials in the driver, as Tune reports them
trial/            one trial: its process, or its group of workers
lr_find.py        `rtl lr-find`: where to search the learning rate
"""
