"""What a training or search leaves in storage, and how it goes meanwhile.

run.py          a run: made or resumed, its attempts, its result
trials.py       a search's trials: their records, the best, their cost
listing.py      all runs of a storage root
progress.py     events from the workers to the driver
ray_metrics.py  metrics for Prometheus, by Ray
tensorboard.py  curves for TensorBoard
mlflow_log.py   a finished run in MLflow
"""
