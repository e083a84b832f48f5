"""The records that a training or search keeps in storage, and its progress.

records.py      the records and the names of their files
run.py          a run: made or resumed, held by one process, its result
trials.py       a search's trials: their records, the best, their cost
listing.py      all runs of a storage root
progress.py     events from the workers to the driver
stalls.py       advice where a fit waits for its data
ray_metrics.py  metrics for Prometheus, by Ray
tensorboard.py  curves for TensorBoard
mlflow_log.py   a finished run in MLflow
"""
