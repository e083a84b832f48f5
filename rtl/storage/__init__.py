"""Object storage: a local folder or `s3://`, behind one set of functions.

objects.py       read, write, list, commit; the rest of rtl calls `storage.read_bytes` and so on
retry.py         attempts at a request, and the waits between them
s3.py            clients of an S3 store
uri.py           spelling of URIs and paths
walk.py          listing of a folder or prefix
destinations.py  checks of where a command may write, before its work
faults.py        kinds of faults, and the remedy for each
lease.py         lock with a heartbeat: one process at a time
local_s3.py      S3 server on loopback, for the demo and the tests
"""

from rtl.storage.objects import (
    COMMIT,
    commit,
    create,
    delete,
    describe,
    exists,
    is_committed,
    is_local,
    join,
    list_files,
    list_names,
    list_tree,
    normalize,
    read_bytes,
    read_committed,
    read_json,
    read_range,
    read_verified,
    seal,
    write_bytes,
    write_json,
)

__all__ = [
    "COMMIT",
    "commit",
    "create",
    "delete",
    "describe",
    "exists",
    "is_committed",
    "is_local",
    "join",
    "list_files",
    "list_names",
    "list_tree",
    "normalize",
    "read_bytes",
    "read_committed",
    "read_json",
    "read_range",
    "read_verified",
    "seal",
    "write_bytes",
    "write_json",
]
