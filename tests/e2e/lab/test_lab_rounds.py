"""What `scripts/rounds` relies on: plans that can be replayed, and evidence that shows a second cluster."""

import shutil

import pytest
from muster_tools.lab.node import Lab, static_list_arguments
from muster_tools.rounds import evidence, plan


def test_a_seed_gives_its_plan_again_and_another_seed_another():
    assert plan.make(7) == plan.make(7)
    assert len({str(plan.make(seed)) for seed in range(100)}) == 100


def test_plans_keep_to_what_is_promised():
    plans = [plan.make(seed) for seed in range(1000)]
    assert {fault.kind for one in plans for fault in one.faults} == set(plan.KINDS)
    for one in plans:
        assert max(one.launches) < one.grace
        assert one.size > 2 or all(fault.kind != "refuse" for fault in one.faults)
        for fault in one.faults:
            assert 2 <= fault.ends - fault.begins <= 15 and set(fault.nodes) <= set(range(one.size))


@pytest.mark.parametrize("lost", ["logs", "disks"])
def test_a_second_cluster_is_noticed_by_logs_or_by_disks(lost):
    with Lab() as lab:
        nodes = [lab.add_node(launch=False) for _ in range(2)]
        for node in nodes:
            node.start_plain_etcd([*static_list_arguments(node, [node], token=node.address)])
        lab.wait(lambda: all(node.etcd.health() for node in nodes), 20, "two clusters of one")
        ids = {node.etcd.cluster_id() for node in nodes}
        for node in nodes:
            node.power_off()
            if lost == "logs":
                node.log.write_text("")
            else:
                shutil.rmtree(node.wal)
        assert len(ids) == 2 and evidence.cluster_ids(nodes) == ids


def test_who_was_missing_at_the_founding_is_read_from_the_proposers_view():
    with Lab() as lab:
        nodes = [lab.add_node(launch=False) for _ in range(5)]
        first, later = nodes[3], nodes[0]
        said = "2026-01-01T00:00:0{}.000Z {} etcd-muster: {}\n"
        view = "view: i-01 fresh; i-02 fresh, knows the chosen list; i-03 unreachable: no answer; i-04 connection refused"
        first.log.write_text(said.format(1, "DEBUG", view) + said.format(2, "INFO", "chosen: a=b (token c)"))
        everyone = "view: i-01 fresh; i-02 fresh; i-03 fresh; i-04 fresh"
        later.log.write_text(said.format(3, "DEBUG", everyone) + said.format(4, "INFO", "chosen: a=b (token c)"))
        assert evidence.founded_without(nodes) == 2
