"""The Ray cluster that a command runs on.

session.py      starts Ray or joins a cluster, and keeps it quiet
environment.py  environment variables of a node: the one table
ingress.py      HAProxy before the replicas of an endpoint
ray_folder.py   folder of a cluster that starts on this machine
capacity.py     CPUs and GPUs of the cluster, and whether a request for them can be met
nodes.py        CPUs and GPUs of each node, free and in all
task_errors.py  rtl's own errors out of Ray's
ray_jobs.py     commands as jobs of a cluster: submit, follow, stop, resume
ray_private.py  private names of Ray, one function each
"""
