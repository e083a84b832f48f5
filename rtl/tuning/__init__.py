"""The search for the depth and the learning rate.

search.py         `rtl search`: trials, finalists, the winner
budget.py         a search that ends in a given time
throughput.py     how fast the cluster is, measured for seconds
proposals.py      the points that Optuna proposes
sweep.py          trials under Ray Tune
tracker.py        trials as Tune reports them to the driver
trial_process.py  one trial's process
group_trial.py    a trial of several workers
lr_find.py        `rtl lr-find`: where to search the learning rate
"""
