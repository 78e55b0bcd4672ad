"""The WAL tells the cluster id that etcd itself tells, also when etcd can't be asked any more."""

import pytest
from muster_tools.lab import install, wal
from muster_tools.lab.node import Lab, static_list_arguments


@pytest.mark.parametrize("version", install.releases())
def test_the_id_in_a_wal_is_etcds_own(version):
    if not install.etcd_binaries(version).is_dir():
        pytest.skip("not installed")
    with Lab(etcd=version) as lab:
        node = lab.add_node(launch=False)
        node.start_plain_etcd(static_list_arguments(node, [node]))
        lab.wait(node.etcd.health, 20, "a healthy etcd")
        cluster = node.etcd.cluster_id()
        node.power_off()
        assert wal.cluster_ids(node.directory) == {cluster}


@pytest.mark.parametrize("length", [0, 8, 100, 4096])
def test_a_wal_that_was_only_laid_out_tells_nothing(length):
    assert wal.cluster_id(bytes(length)) is None
