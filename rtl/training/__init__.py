"""One fit: the network's tail is trained on images or on cached features.

train.py            `rtl train`: a fit from its config to a registered model
checks.py           what a fit demands of its data, checked before any work
trainer.py          the fit on Ray Train's workers
loop.py             epochs and steps
optimizer.py        parameter groups and the learning rate's schedule
regularization.py   mixup, label smoothing, drop path
checkpoint.py       what is committed after an epoch
split_evaluator.py  the network's predictions for a split
finalize.py         the best epoch's scores, calibration and bundle
faults.py           which errors may pass, and are tried again
"""
