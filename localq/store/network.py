"""File systems on which the locks and the shared memory of a queue do not hold.

SQLite's write-ahead log needs one memory that all its users share, and the gate needs locks that all of them see.
What other machines (or the host of a virtual one) write to as well has neither, for all that one machine can tell.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

MOUNTS = "/proc/self/mountinfo"

NETWORK = {
    "nfs", "nfs3", "nfs4", "cifs", "smb2", "smb3", "smbfs", "ncp", "ncpfs", "afs", "coda", "davfs",
    "ceph", "glusterfs", "lustre", "gpfs", "beegfs", "fhgfs", "orangefs", "pvfs2", "panfs",
}  # fmt: skip
"""Of a server, or of a cluster of them."""
SHARES = {
    "9p", "virtiofs", "drvfs", "vboxsf", "prl_fs", "prl_fsd", "vmhgfs", "fakeowner", "osxfs", "grpcfuse",
}  # fmt: skip
"""Of a virtual machine's host, as WSL and Docker Desktop mount it."""
FUSE = {
    "sshfs", "s3fs", "s3ql", "gcsfuse", "goofys", "geesefs", "mount-s3", "blobfuse", "blobfuse2", "rclone",
    "davfs2", "curlftpfs", "cephfs", "ceph-fuse", "glusterfs", "juicefs", "mfs", "moosefs", "lizardfs", "seaweedfs",
    "gvfsd-fuse", "vmhgfs-fuse", "osxfs", "grpcfuse", "smbnetfs", "google-drive-ocamlfuse", "onedriver",
}  # fmt: skip
"""The same by way of FUSE, whose types are called ``fuse.NAME``. Others of FUSE's are local."""

_ESCAPED = ("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")


def network_type(folder: str) -> str | None:
    """The type of the file system that the folder is on, if it is one of those; None also where the system does
    not say.

    Parameters:
      folder: its real path, without links.
    """
    try:
        if os.major(os.stat(folder).st_dev):  # a disk: all others have numbers that the system makes up
            return None
        with open(MOUNTS, encoding="utf-8", errors="surrogateescape") as mounts:
            kind = type_of(folder, mounts)
    except (OSError, AttributeError):
        return None
    return kind if is_network(kind) else None


def is_network(kind: str) -> bool:
    """Whether a type of file system is one of those.

    >>> is_network("nfs4"), is_network("fuse.sshfs"), is_network("ext4")
    (True, True, False)
    """
    name = kind.removeprefix("fuse.")
    return name in FUSE if name != kind else name in NETWORK or name in SHARES


def type_of(folder: str, mounts: Iterable[str]) -> str:
    """The type of the file system that a folder is on, by the lines of a mountinfo file (proc(5)).

    The longest mount point above it counts; of several at one place the last, which hides the others.
    """
    longest, kind = -1, ""
    for line in mounts:
        place, _, system = line.partition(" - ")
        fields = place.split(" ")
        if len(fields) < 5 or not system:
            continue
        point = fields[4]
        for code, character in _ESCAPED:
            point = point.replace(code, character)
        if len(point) >= longest and os.path.commonpath((point, folder)) == point:
            longest, kind = len(point), system.split(" ")[0]
    return kind
