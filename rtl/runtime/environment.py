"""Environment variables of a node of the Ray cluster: the one table that all nodes are made from.

`session.connect` sets them for a cluster that starts on this machine, and `cluster/local` for its
nodes. `python cluster/environment.py` writes them into `cluster/environment.sh` and
`cluster/Dockerfile`.
"""

from __future__ import annotations

COMPUTE = {
    # Ray's workers start with a malloc that returns the network's activations to the system after
    # each step, which halves the speed on a CPU.
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "1073741824",
    # Huge pages for the activations, where the system gives them on request: 6 to 10 % faster.
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    # libgomp counts a thread of Ray's as one too many. An OpenMP team then spins for only a hundred
    # rounds before it sleeps at the end of each layer: 24.4 ms an image instead of 20.9. "active"
    # makes that a thousand rounds; the count keeps the default for all other waits.
    "OMP_WAIT_POLICY": "active",
    "GOMP_SPINCOUNT": "300000",
}
"""Variables with which a process computes at the speed of the machine."""

SCHEDULING = {
    # A process of lower priority on the same cores would preempt half of an OpenMP team and stall
    # the other half.
    "RAY_worker_niceness": "0",
}
"""Priority of Ray's workers."""

CLUSTER = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Variables of a cluster of several nodes: closed by a token for every port, and no telemetry."""

INGRESS = {
    # HAProxy before the endpoint's replicas: docs/decisions/0009-serving.md.
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_HAPROXY_NBTHREAD": "1",
    "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "45",  # serve.timeout_s ends a request earlier
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",  # ten times a second stalls the replica
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",  # the engine has threads of its own
}
"""Settings of Ray Serve. The paths and ports of HAProxy depend on the node and are not here."""

QUIET = {
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    # Ray reports the controller of Serve when it is shut down, as if it had failed.
    "RAY_DEDUP_LOGS_SKIP_REGEX": r"^Task ServeController\.",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # their files are thrown away; rtl has records
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends a search; Tune would call it finished
}
"""Variables of a driver, which keep Ray from printing what no user needs."""

NODE = {**CLUSTER, **SCHEDULING, **COMPUTE, **INGRESS}
"""All variables of a node of a cluster."""
