"""Object storage: a local folder or `s3://`, which no other package tells apart.

objects.py       read, write, list, commit; the rest of rtl calls `storage.read_bytes` and so on
s3.py            the client of an S3 store
uri.py           URIs and paths, as people write them
walk.py          the files below a folder or prefix, and what is no file
destinations.py  where a command may write, checked before its work
faults.py        what went wrong, in words that say what to do
lease.py         one process at a time, by a lock with a heartbeat
local_s3.py      an S3 server on loopback, for the demo and the tests
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
