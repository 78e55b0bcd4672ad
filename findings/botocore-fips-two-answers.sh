#!/usr/bin/env bash
# botocore's two tables of AWS's hosts disagree on where EC2 has a FIPS host, and in China on whether there are any.
#
# Software:  botocore 1.44.8 (PyPI); only its data is read, nothing is asked.
# Expected:  AWS's own description of its hosts is one: a region has a FIPS host of EC2 or it has none (AWS's page on FIPS lists
#            the United States and Canada), and a client made for a region without one is refused.
# Seen:      by endpoints.json EC2 has a FIPS host in 6 of the regions of partition aws; by EC2's rule set, which is what a
#            client asks since 2022, in every one, with a host made up by the pattern. In cn-north-1 S3's rule set
#            refuses FIPS ("Partition does not support FIPS") and EC2's gives a host. So neither a host of an SDK nor the lack of
#            an error says that it exists.
# Since:     rule sets came with botocore 1.28 (October 2022). Looked up in botocore/data: endpoints.json, ec2 and s3
#            endpoint-rule-set-1.json, partitions.json (supportsFIPS is true for aws-cn).
# shellcheck source-path=SCRIPTDIR source=parts.sh
source "$(dirname "$0")/parts.sh"

pip_install botocore==1.44.8
"$work/venv/bin/python" - >"$work/answers" <<'PYTHON'
import botocore.session
from botocore.endpoint_provider import EndpointProvider
from botocore.exceptions import EndpointProviderError

session = botocore.session.Session()
loader = session.get_component("data_loader")
partitions = loader.load_data("partitions")


def host(service, region):
    rules = loader.load_service_model(service, "endpoint-rule-set-1")
    provider = EndpointProvider(rules, partitions)
    try:
        return provider.resolve_endpoint(Region=region, UseFIPS=True, UseDualStack=False).url
    except EndpointProviderError as error:
        return f"refused: {error}"


table = loader.load_data("endpoints")["partitions"][0]
regions = sorted(table["regions"])
listed = [r for r in regions if any("fips" in v["tags"] for v in table["services"]["ec2"]["endpoints"].get(r, {}).get("variants", []))]
ruled = [r for r in regions if host("ec2", r).startswith("https://ec2-fips.")]
print("regions", len(regions))
print("listed", len(listed), *listed)
print("ruled", len(ruled))
print("frankfurt", host("ec2", "eu-central-1"))
print("china-s3", host("s3", "cn-north-1"))
print("china-ec2", host("ec2", "cn-north-1"))
PYTHON

answer() { sed -n "s/^$1 //p" "$work/answers"; }
first() { answer "$1" | cut -d' ' -f1; }
finding "of $(answer regions) regions, endpoints.json has a FIPS host of EC2 in $(answer listed)" test "$(first listed)" -lt 10
finding "the rule set has one in $(answer ruled)" test "$(answer ruled)" = "$(answer regions)"
finding "so eu-central-1 has $(answer frankfurt)" test "$(answer frankfurt)" = https://ec2-fips.eu-central-1.amazonaws.com
finding "cn-north-1, S3: $(answer china-s3)" eval "answer china-s3 | grep -q 'not support FIPS'"
finding "cn-north-1, EC2: $(answer china-ec2)" eval "answer china-ec2 | grep -q '^https://'"
