# The environment of Ray on every node of aws.yaml and machines.yaml; ~/.bashrc reads it.
export PATH="$HOME/rtl/venv/bin:$PATH"

# The token closes every port, in every process.
export RAY_AUTH_TOKEN_PATH="$HOME/.ray/auth_token"
# HAProxy before the endpoint's replicas: docs/decisions/0009-serving.md.
export RAY_SERVE_HAPROXY_BINARY_PATH="$HOME/rtl/haproxy"
# `ray up` sets OMP_NUM_THREADS=1 in its shells, and every worker would inherit it.
unset OMP_NUM_THREADS PYTHONWARNINGS

# Written by cluster/environment.py from rtl/runtime/environment.py:
export RAY_AUTH_MODE=token
export RAY_USAGE_STATS_ENABLED=0
export RAY_worker_niceness=0
export MALLOC_ARENA_MAX=1
export MALLOC_MMAP_THRESHOLD_=1073741824
export MALLOC_TRIM_THRESHOLD_=1073741824
export GLIBC_TUNABLES=glibc.malloc.hugetlb=1
export OMP_WAIT_POLICY=active
export GOMP_SPINCOUNT=300000
export RAY_SERVE_ENABLE_HA_PROXY=1
export RAY_SERVE_HAPROXY_NBTHREAD=1
export RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S=45
export RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S=2
export RAY_SERVE_CONTROL_LOOP_INTERVAL_S=0.5
export RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD=0
# End of what cluster/environment.py writes.

# RTL_TOKEN, and S3 keys where no role gives them: your own file, never the project's.
. "$HOME/rtl/secrets.sh"
# Written by aws.yaml and machines.yaml.
if [ -e "$HOME/rtl/node.sh" ]; then . "$HOME/rtl/node.sh"; fi
