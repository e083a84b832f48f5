"""The Ray cluster that a command runs on.

session.py     starts Ray or joins a cluster; environment of its workers
ray_folder.py  where a cluster that starts here keeps its files
capacity.py    what the cluster has, or grows to, for what is about to start
ray_jobs.py    commands as jobs of a cluster: submit, follow, stop, resume
"""
