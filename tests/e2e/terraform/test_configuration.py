"""The configuration by itself: its form, its refusals, its rights, and what a checker of good practice says of it."""

from __future__ import annotations

import json
import re
import subprocess

import pytest
import tools


def test_it_is_formatted():
    """A difference shows what changed, and nothing else."""
    tools.terraform(tools.SOURCES, "fmt", "-check", "-recursive", "-diff")


def test_the_entry_is_valid_with_the_example_of_credentials(copied):
    """The first two steps that docs/terraform.md tells to do."""
    entry = copied / "init"
    (entry / "aws_credentials.tf").write_text((entry / "aws_credentials.tf.example").read_text())
    tools.init(entry)
    assert "The configuration is valid" in tools.terraform(entry, "validate", "-no-color")


@pytest.mark.parametrize("module", ["host", "etcd"])
def test_modules_do_what_their_own_tests_say(copied, module):
    """`terraform test`: plans with a provider that makes nothing, and every refusal of a wrong value."""
    folder = copied / "modules" / module
    tools.init(folder)
    said = tools.terraform(folder, "test", "-no-color")
    assert re.search(r"Success! \d+ passed, 0 failed\.", said), said


def test_modules_have_no_provider_of_their_own(copied):
    """A module with a provider block can't be used twice, nor with count."""
    for source in (copied / "modules").glob("*/*.tf"):
        assert not re.search(r'^provider "', source.read_text(), re.MULTILINE), source


def test_every_variable_and_output_says_what_it_is(copied):
    """Terraform's own documentation of a module."""
    for source in copied.glob("**/*.tf"):
        for kind, name, body in re.findall(r'^(variable|output) "(\w+)" \{\n(.*?)^\}', source.read_text(), re.MULTILINE | re.DOTALL):
            assert re.search(r"^  description += ", body, re.MULTILINE), f"{source}: {kind} {name}"


def test_checkov_finds_nothing_that_is_not_explained(copied):
    """Every exception stands beside its resource with its reason, and there are no others."""
    done = subprocess.run(
        [str(tools.checkers() / "checkov"), "--directory", str(copied), "--framework", "terraform", "--skip-download", "--output", "json", "--quiet"],
        capture_output=True,
        text=True,
        timeout=tools.BOUND,
    )
    told = json.loads(done.stdout)
    assert done.returncode == 0 and told["summary"]["failed"] == 0, json.dumps(told["results"]["failed_checks"], indent=1)
    assert told["summary"]["passed"] > 100
    reasons = [check["check_result"]["suppress_comment"] for check in told["results"].get("skipped_checks", [])]
    assert all(len(reason) > 20 for reason in reasons), reasons


def test_the_entry_plans_and_refuses(lab, tmp_path):
    """`terraform test` of terraform/init: systems and networks, every refusal, and one plan by the provider itself in moto."""
    key = lab.ec2.client("iam").create_access_key(UserName="lab")["AccessKey"]
    entry = tools.Deployment(tmp_path, lab.ec2.url, lab.ec2.url, key["AccessKeyId"], key["SecretAccessKey"])
    (entry.private / "etcd.tar.gz").write_bytes(b"what the plan needs is a file")
    entry.look_into_credentials()
    tools.init(entry.folder)
    said = entry.run("test", "-no-color")
    assert re.search(r"Success! 9 passed, 0 failed\.", said), said
