"""One fit: the network's tail is trained on images or on cached features.

train.py            `rtl train`: a fit from its config to a registered model
checks.py           checks of a data set against a config, before any work
setup.py            one process's network and rows
loop.py             a fit, epoch by epoch
steps/              the network of one process, and a step that trains it
optimizer.py        parameter groups and the learning rate's schedule
regularization.py   dropout, mixup, flips, label smoothing
checkpoint.py       what is committed after an epoch
split_evaluator.py  the network's predictions for a split
finalize.py         the best epoch's scores, calibration, bundle, and the run's result
probe/              the linear classifier that stands first, and the head that fits start from
workers/            Ray Train's part: how workers start and fail
"""
