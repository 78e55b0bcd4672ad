"""Terraform without a network: the program, its provider from a mirror on this machine, and deployments in moto."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any, Mapping

REPOSITORY = Path(__file__).resolve().parents[3]
SOURCES = REPOSITORY / "terraform"
BOUND = 240  # seconds; an apply against moto takes some twenty

# Where vendors and Terraform itself look for providers that are installed beside it.
MIRRORS = ("~/.terraform.d", "~/.local/share/terraform", "/usr/local/share/terraform", "/usr/share/terraform", "/opt", "/usr/lib")
PROVIDER = "registry.terraform.io/hashicorp/aws"

# What a user's own shell may have set is none of these deployments' business.
QUIET = {"TF_IN_AUTOMATION": "1", "CHECKPOINT_DISABLE": "1", "TF_CLI_ARGS_apply": "-parallelism=8"}


@cache
def mirror() -> Path | None:
    """The filesystem mirror that holds the AWS provider."""
    for place in MIRRORS:
        top = Path(place).expanduser()
        for found in sorted(top.glob(f"**/{PROVIDER}")) if top.is_dir() else []:
            return found.parents[2]
    return None


def missing() -> str | None:
    """Why nothing of this can run here, in one line."""
    if shutil.which("terraform") is None:
        return "terraform is not installed"
    if mirror() is None:
        return f"no mirror with the AWS provider in {', '.join(MIRRORS)}"
    return None


class Failed(Exception):
    """A terraform that didn't end well, with all it said."""


def terraform(folder: Path, *arguments: str, env: Mapping[str, str] | None = None) -> str:
    """One run to its end; what it printed."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "TF_"))}
    done = subprocess.run(
        ["terraform", *arguments],
        cwd=folder,
        env={**clean, **QUIET, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=BOUND,
    )
    if done.returncode != 0:
        raise Failed(f"terraform {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}")
    return done.stdout


def init(folder: Path) -> None:
    terraform(folder, "init", "-no-color", "-input=false", f"-plugin-dir={mirror()}")


def sources(into: Path) -> Path:
    """A copy of the repository's configuration, without what a user may have put beside it."""
    ignored = shutil.ignore_patterns(".terraform*", "*.tfstate*", "*.tfvars", "*.tfplan", "aws_credentials.tf", "*.key", "*.gz")
    return Path(shutil.copytree(SOURCES, into / "terraform", ignore=ignored))


def provider_file(url: str, balancers: str, access_key: str, secret: str) -> str:
    """What stands in for the user's aws_credentials.tf: the same provider, led to moto."""
    services = dict.fromkeys(("autoscaling", "ec2", "iam", "kms", "s3", "ssm", "sts"), url) | {"elbv2": balancers}
    endpoints = "\n".join(f'    {service} = "{place}"' for service, place in services.items())
    return f"""
provider "aws" {{
  region            = var.region
  access_key        = "{access_key}"
  secret_key        = "{secret}"
  s3_use_path_style = true
  endpoints {{
{endpoints}
  }}
  default_tags {{
    tags = {{ environment = var.environment }}
  }}
}}
"""


class Deployment:
    """terraform/init, as a user has it, with its own variables and state, in moto."""

    def __init__(self, folder: Path, url: str, balancers: str, access_key: str, secret: str):
        self.folder = sources(folder) / "init"
        self.private = self.folder / "private"
        (self.folder / "aws_credentials.tf").write_text(provider_file(url, balancers, access_key, secret))

    def set(self, **variables: Any) -> None:
        (self.folder / "terraform.tfvars.json").write_text(json.dumps(variables))

    def run(self, *arguments: str) -> str:
        return terraform(self.folder, *arguments)

    def apply(self) -> str:
        return self.run("apply", "-no-color", "-input=false", "-auto-approve")

    def destroy(self) -> str:
        return self.run("destroy", "-no-color", "-input=false", "-auto-approve")

    def outputs(self) -> dict[str, Any]:
        return {name: it["value"] for name, it in json.loads(self.run("output", "-json")).items()}


# Programs that check what Terraform makes; beside the lab's venv, since their requirements don't agree with moto's.

CHECKERS = ["checkov==3.3.30", "awscli==1.46.3"]
VENV = REPOSITORY / "target" / "lab" / "terraform-venv"


@cache
def checkers() -> Path:
    """The folder that holds checkov and aws."""
    stamp = VENV / "installed-requirements.txt"
    if not stamp.is_file() or stamp.read_text() != "\n".join(CHECKERS):
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True)
        for requirement in CHECKERS:  # one by one: each pins a botocore, and either works with the other's
            subprocess.run([str(VENV / "bin" / "pip"), "install", "--quiet", requirement], check=True)
        stamp.write_text("\n".join(CHECKERS))
    return VENV / "bin"
