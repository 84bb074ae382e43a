"""Which shared file systems are named: by tables of mounts as Linux writes them."""

import logging

import pytest

from cache import folder_checks
from cache.errors import StorageError
from cache.folder_checks import check_locks, mount_of
from tests.cli.test_commands import call, config_file

TABLE = r"""/dev/vda / ext4 rw,relatime 0 0
tmpfs /tmp tmpfs rw 0 0
server:/export {root}/data nfs4 rw,vers=4.2,hard,proto=tcp,local_lock=none,addr=10.0.0.1 0 0
server:/other {root}/data/old nfs rw,vers=3,nolock,local_lock=all,addr=10.0.0.1 0 0
server:/half {root}/half nfs rw,vers=3,local_lock=flock 0 0
server:/posix {root}/posix nfs rw,vers=3,local_lock=posix 0 0
//nas/share {root}/nas cifs rw,vers=3.1.1,nobrl 0 0
//nas/good {root}/nas2 cifs rw,vers=3.1.1 0 0
me@host: {root}/ssh fuse.sshfs rw,nosuid 0 0
gluster:/v {root}/gluster fuse.glusterfs rw 0 0
lustre@tcp:/l {root}/scratch lustre rw,flock 0 0
lustre@tcp:/l {root}/scratch2 lustre rw,localflock 0 0
/dev/vdb {root}/with\040space ext4 rw 0 0
/dev/vdc {root}/twice ext4 rw 0 0
server:/late {root}/twice nfs rw,nolock 0 0
"""
ONLY_HERE = ("data/old", "data/old/runs/x", "half", "nas", "ssh", "scratch2", "twice")
REACHING = ("data", "data/older", "posix", "nas2", "gluster", "scratch", "with space", "elsewhere")


@pytest.fixture
def table(tmp_path, monkeypatch):
    """The table of mounts instead of this machine's."""
    file = tmp_path / "mounts"
    file.write_text(TABLE.replace("{root}", str(tmp_path)))
    monkeypatch.setattr(folder_checks, "MOUNTS", file)


@pytest.mark.parametrize("name", ONLY_HERE)
def test_locks_that_stay_on_a_machine(name, table, tmp_path, caplog):
    """A warning where one machine works, a refusal before a cluster does."""
    check_locks(tmp_path / name, cluster=False)
    assert "do not reach other machines" in caplog.text and "--part I/N" in caplog.text
    with pytest.raises(StorageError, match="do not reach other machines"):
        check_locks(tmp_path / name, cluster=True)


@pytest.mark.parametrize("name", REACHING)
def test_locks_that_reach(name, table, tmp_path, caplog):
    """Of FUSE nobody can tell, so a cluster is warned."""
    check_locks(tmp_path / name, cluster=False)
    assert not caplog.records
    check_locks(tmp_path / name, cluster=True)
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * (name == "gluster")


def test_places_are_found(table, tmp_path, monkeypatch):
    assert mount_of(tmp_path / "data/runs").place == tmp_path / "data"
    assert mount_of(tmp_path / "with space/x").place == tmp_path / "with space"
    assert mount_of(tmp_path / "twice").kind == "nfs"
    monkeypatch.setattr(folder_checks, "MOUNTS", tmp_path / "no table")
    assert mount_of(tmp_path) is None
    monkeypatch.undo()
    assert mount_of(tmp_path).place  # this machine's


def test_stages_look_before_they_start(trained, monkeypatch, tmp_path):
    (tmp_path / "mounts").write_text(f"server:/x {trained.path} nfs rw,nolock 0 0\n")
    monkeypatch.setattr(folder_checks, "MOUNTS", tmp_path / "mounts")
    common = ("--config", config_file(trained), "--run", trained.path, "--backend", "ray")
    for stage in ("prepare", "saliency", "crops"):
        code, output = call(stage, *common)
        assert code == 5 and "no cluster can work on it" in output
