"""Network file systems: recognised by what the system says of its mounts, and refused with the way out."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from localq.errors import StoreError, UnsafeLocation
from localq.store import network, open_store

from ..mounts import mounted

ROOT = "22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,errors=remount-ro\n"
HOME = "96 22 0:52 / /home/me rw,relatime shared:48 - {kind} host:/export rw,vers=4.2\n"


@pytest.mark.parametrize(
    "kind",
    ["nfs", "nfs4", "cifs", "smb3", "afs", "ceph", "lustre", "9p", "virtiofs", "vboxsf", "prl_fs", "drvfs",
     "fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.rclone", "fuse.vmhgfs-fuse"],
)  # fmt: skip
def test_what_other_machines_may_use_is_recognised(kind: str) -> None:
    assert network.type_of("/home/me/project", [ROOT, HOME.format(kind=kind)]) == kind
    assert network.is_network(kind)


@pytest.mark.parametrize(
    "kind",
    ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "fuseblk", "fuse.fuse-overlayfs", "fuse.encfs",
     "fuse.mergerfs", "fuse", "squashfs", ""],
)  # fmt: skip
def test_what_is_this_machines_own_is_not(kind: str) -> None:
    assert not network.is_network(kind)


NFS = HOME.format(kind="nfs4")
OF_OLD_KERNELS = "96 22 0:52 / /home/me rw,relatime - nfs host:/export rw\n"
WITH_MANY_TAGS = "96 22 0:52 / /home/me rw shared:4 master:2 propagate_from:1 unbindable - nfs host:/ rw\n"
IN_A_FOLDER_WITH_A_BLANK = r"96 22 0:52 / /mnt/my\040files rw shared:4 - cifs //host/my\040files rw" + "\n"
WITH_ODD_CHARACTERS = r"96 22 0:52 / /mnt/a\134b\011c rw shared:4 - cifs //host rw" + "\n"
BACK_ON_A_DISK = "97 96 254:2 / /home/me/local rw - xfs /dev/vdb rw\n"
OVER_IT = "98 96 0:60 / /home/me rw - tmpfs tmpfs rw\n"


@pytest.mark.parametrize(
    ("folder", "mounts", "kind"),
    [
        ("/home/me", [ROOT, NFS], "nfs4"),
        ("/home/me/a/b", [ROOT, NFS], "nfs4"),
        ("/home/me/a/b", [NFS, ROOT], "nfs4"),
        ("/home/meier", [ROOT, NFS], "ext4"),
        ("/home", [ROOT, NFS], "ext4"),
        ("/", [ROOT, NFS], "ext4"),
        ("/home/me", [ROOT, OF_OLD_KERNELS], "nfs"),
        ("/home/me", [ROOT, WITH_MANY_TAGS], "nfs"),
        ("/mnt/my files/queue", [ROOT, IN_A_FOLDER_WITH_A_BLANK], "cifs"),
        ("/mnt/my", [ROOT, IN_A_FOLDER_WITH_A_BLANK], "ext4"),
        ("/mnt/a\\b\tc", [ROOT, WITH_ODD_CHARACTERS], "cifs"),
        ("/home/me/local/x", [ROOT, NFS, BACK_ON_A_DISK], "xfs"),
        ("/home/me/x", [ROOT, NFS, BACK_ON_A_DISK], "nfs4"),
        ("/home/me/x", [ROOT, NFS, OVER_IT], "tmpfs"),
        ("/home/me", [ROOT, "no line of such a file\n", "\n"], "ext4"),
        ("/home/me", [], ""),
    ],
)
def test_the_nearest_mount_counts_and_of_several_at_one_place_the_last(
    folder: str, mounts: list[str], kind: str
) -> None:
    assert network.type_of(folder, mounts) == kind


def test_where_the_system_does_not_say_nothing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "MOUNTS", str(tmp_path / "nothing"))
    with mounted(tmp_path / "mnt", "tmpfs", "size=1m"):
        assert network.network_type(str(tmp_path / "mnt")) is None


def test_a_real_mount_is_found_by_its_place(tmp_path: Path) -> None:
    with mounted(tmp_path / "my files", "tmpfs", "size=1m"), open(network.MOUNTS, encoding="utf-8") as mounts:
        assert network.type_of(f"{tmp_path}/my files/below", mounts) == "tmpfs"


FUSE_DAEMON = """
import os, struct, sys
ME = os.getuid(), os.getgid()
INIT, GETATTR, FORGET, INTERRUPT, BATCH_FORGET = 26, 3, 2, 36, 42
end = int(sys.argv[1])
folder = struct.pack("=QQQQQQIIIIIIIIII", 1, 0, 0, 0, 0, 0, 0, 0, 0, 0o40755, 2, *ME, 0, 4096, 0)
answers = {INIT: struct.pack("=IIIIHHI", 7, 19, 0, 0, 0, 0, 4096), GETATTR: struct.pack("=QII", 1, 0, 0) + folder}
while True:
    try:
        request = os.read(end, 1 << 17)
    except OSError:  # unmounted
        break
    _, operation, number = struct.unpack_from("=IIQ", request)
    if operation not in (FORGET, INTERRUPT, BATCH_FORGET):
        answer = answers.get(operation)
        status = 0 if answer else -38  # not implemented
        os.write(end, struct.pack("=IiQ", 16 + len(answer or b""), status, number) + (answer or b""))
"""
"""What stands behind the mount: a server with one empty folder."""


@contextmanager
def another_machine(folder: Path) -> Iterator[None]:
    """A real mount that says that it is sshfs's."""
    try:
        end = os.open("/dev/fuse", os.O_RDWR)
    except OSError as error:
        pytest.skip(f"no FUSE here: {error}")
    options = f"fd={end},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
    try:
        with mounted(folder, "fuse.sshfs", options, "host:/"):
            daemon = subprocess.Popen([sys.executable, "-c", FUSE_DAEMON, str(end)], pass_fds=[end])
            try:
                yield
            finally:
                daemon.kill()
                daemon.wait()
    finally:
        os.close(end)


def test_a_queue_on_another_machine_is_refused_with_type_reason_and_way_out(tmp_path: Path) -> None:
    folder = tmp_path / "mnt"
    with another_machine(folder):
        with pytest.raises(UnsafeLocation) as refused:
            open_store(f"sqlite:///{folder}/jobs.db")
        for words in (str(folder), "fuse.sshfs", "locks", "local disk", "?network=allow"):
            assert words in str(refused.value)
        link = tmp_path / "link"
        link.symlink_to(folder)
        with pytest.raises(UnsafeLocation):
            open_store(f"sqlite:///{link}/jobs.db")

        # Whoever insists comes further: to a server that can make no file.
        with pytest.raises(StoreError) as refused_by_it:
            open_store(f"sqlite:///{folder}/jobs.db?network=allow")
        assert not isinstance(refused_by_it.value, UnsafeLocation)
