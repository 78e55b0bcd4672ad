"""The names of AWS's endpoints, in every partition, beside those that botocore's rules give; and what the metadata service says of them."""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import botocore.session
import pytest
from botocore.endpoint_provider import EndpointProvider
from botocore.exceptions import EndpointProviderError
from fleet import command, launch

SERVICES = ("ec2", "s3", "autoscaling", "ssm", "sts")
VARIANTS = tuple(product((False, True), repeat=2))  # FIPS, dual stack
CONFIG = 78

LOADER = botocore.session.get_session().get_component("data_loader")
PARTITIONS = LOADER.load_data("partitions")
RULES = {name: EndpointProvider(LOADER.load_service_model(name, "endpoint-rule-set-1"), PARTITIONS) for name in SERVICES}
# A partition's global endpoint has a name like a region's. EC2 has none.
GLOBAL = {region for partition in PARTITIONS["partitions"] for region in partition["regions"] if region.endswith("-global")}
# The last are in no list: the rules have a pattern for a partition's next region, and take what no pattern fits for one of `aws`.
UNLISTED = (
    "us-east-9 cn-south-7 us-gov-north-1 eusc-de-west-2 us-iso-north-1 us-isob-south-1 eu-isoe-north-3 us-isof-west-1 mx-south-2 xx-new-1"
).split()
REGIONS = sorted({region for partition in PARTITIONS["partitions"] for region in partition["regions"]} - GLOBAL) + UNLISTED


def ruled(service: str, region: str, fips: bool, dualstack: bool) -> str | None:
    """botocore's own answer; None: it refuses."""
    try:
        return RULES[service].resolve_endpoint(Region=region, UseFIPS=fips, UseDualStack=dualstack).url + "/"
    except EndpointProviderError:
        return None


def asked(binary, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run([binary, "discover", "--endpoints", "--json"], env=env, capture_output=True, text=True, timeout=60)


def told(binary, region: str, fips: bool, dualstack: bool) -> dict[str, str | None]:
    chosen = {"AWS_USE_FIPS_ENDPOINT": str(fips).lower(), "AWS_USE_DUALSTACK_ENDPOINT": str(dualstack).lower()}
    done = asked(binary, AWS_REGION=region, **chosen)
    assert done.returncode == 0, done.stderr
    endpoints = json.loads(done.stdout)
    refused = {service: said["refused"] for service, said in endpoints.items() if "refused" in said}
    assert all(line.startswith("AWS_USE_") and "; unset it, or name the endpoint in AWS_ENDPOINT_URL_" in line for line in refused.values())
    return {service: said.get("url") for service, said in endpoints.items()}


def test_every_endpoint_is_the_one_that_botocores_rules_give(binary):
    assert {partition["id"] for partition in PARTITIONS["partitions"]} >= {"aws", "aws-cn", "aws-us-gov", "aws-eusc", "aws-iso"}
    cases = [(region, fips, dualstack) for region in REGIONS for fips, dualstack in VARIANTS]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda case: told(binary, *case), cases))
    compared = {
        (service, *case): (answer.get(service), ruled(service, *case)) for case, answer in zip(cases, answers) for service in SERVICES
    }
    assert len(compared) == len(REGIONS) * len(VARIANTS) * len(SERVICES)
    wrong = {case: pair for case, pair in compared.items() if pair[0] != pair[1]}
    assert not wrong, f"{len(wrong)} of {len(compared)}: {dict(list(wrong.items())[:10])}"
    # Both of them refuse something, and it is a choice that they refuse, no region.
    refused = {(service, region) for (service, region, fips, _), pair in compared.items() if pair == (None, None) and fips}
    assert refused >= {("s3", "cn-north-1"), ("s3", "cn-northwest-1")}


@pytest.mark.parametrize("region", sorted(GLOBAL))
def test_a_global_endpoint_is_no_region(binary, region):
    done = asked(binary, AWS_REGION=region)
    assert done.returncode == CONFIG and f"AWS_REGION={region}: is no region" in done.stderr, done.stderr


def test_a_store_that_has_no_such_endpoint_is_refused_before_anything_is_called(binary):
    china = {"AWS_REGION": "cn-north-1", "AWS_USE_FIPS_ENDPOINT": "true"}
    done = asked(binary, MUSTER_CLAIM="s3://claims/prod", **china)
    line = "AWS_USE_FIPS_ENDPOINT=true: S3 has no FIPS endpoint in cn-north-1, of partition aws-cn; unset it, or name the endpoint in "
    assert done.returncode == CONFIG and line in done.stderr, done.stderr
    named = asked(binary, MUSTER_CLAIM="s3://claims/prod", AWS_ENDPOINT_URL_S3="https://s3.example.cn", **china)
    assert json.loads(named.stdout)["s3"] == {"url": "https://s3.example.cn"}, named.stderr


def endpoints(lab, node, **env) -> dict[str, str]:
    without = dict.fromkeys(("AWS_ENDPOINT_URL_EC2", "AWS_ENDPOINT_URL_S3"), "")
    done = command(lab, node, "discover", "--endpoints", "--json", **(without | env))
    assert done.returncode == 0, done.stderr
    return {service: said["url"] for service, said in json.loads(done.stdout).items()}


def test_on_an_instance_the_metadata_service_decides(lab):
    (node,) = launch(lab, 1, size=1)
    # A partition that no table has: a later one's first region.
    node.imds.identity["region"] = "xx-new-1"
    node.imds.meta_data |= {"services/partition": "aws-new", "services/domain": "aws.example"}
    assert endpoints(lab, node)["ec2"] == "https://ec2.xx-new-1.aws.example/"
    assert endpoints(lab, node)["s3"] == "https://s3.xx-new-1.aws.example/"
    # What is set is another region, of a partition that the table has.
    assert endpoints(lab, node, AWS_REGION="us-iso-east-1")["ec2"] == "https://ec2.us-iso-east-1.c2s.ic.gov/"
    # Stand-ins for the metadata service have no such items, or anything there.
    for items in ({}, {"services/partition": "aws-new"}, {"services/partition": "aws-new", "services/domain": "a/b@c"}):
        node.imds.identity["region"] = "us-iso-east-1"
        node.imds.meta_data = {k: v for k, v in node.imds.meta_data.items() if not k.startswith("services/")} | items
        assert endpoints(lab, node)["ec2"] == "https://ec2.us-iso-east-1.c2s.ic.gov/", items
