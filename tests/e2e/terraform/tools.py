"""Terraform without a network: the program, its provider from a mirror on this machine, and deployments in moto."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, Mapping

from muster_tools.lab import install

REPOSITORY = Path(__file__).resolve().parents[3]
SOURCES = REPOSITORY / "terraform"
BOUND = 600  # seconds; an apply against moto takes some thirty on a quiet machine

# Where vendors and Terraform itself look for providers that are installed beside it.
MIRRORS = ("~/.terraform.d", "~/.local/share/terraform", "/usr/local/share/terraform", "/usr/share/terraform", "/opt", "/usr/lib")
PROVIDER = "registry.terraform.io/hashicorp/aws"

# What git ignores.
OF_A_USER = (".git", "target", ".terraform*", "*.tfstate*", "*.tfvars*", "*.tfplan", "aws_credentials.tf", "*.key", "*.crt", "etcd.tar.gz")

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


def terraform(folder: Path, *arguments: str, env: Mapping[str, str] | None = None, stdin: str = "") -> str:
    """One run to its end; what it printed."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "TF_"))}
    done = subprocess.run(
        ["terraform", *arguments],
        cwd=folder,
        env={**clean, **QUIET, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        input=stdin,
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
    ignored = shutil.ignore_patterns(*OF_A_USER)
    return Path(shutil.copytree(SOURCES, into / "terraform", ignore=ignored))


class Deployment:
    """The repository as a user has it who has just fetched it, and an account in moto, to which the environment leads."""

    def __init__(self, folder: Path, url: str, front: str, access_key: str, secret: str):
        self.repository = Path(shutil.copytree(REPOSITORY, folder / "etcd-muster", ignore=shutil.ignore_patterns(*OF_A_USER)))
        self.folder = self.repository / "terraform" / "init"
        self.private = self.folder / "private"
        # moto knows buckets by path only, where it isn't asked by S3's own name. An override leaves the user's file as it is.
        (self.folder / "emulator_override.tf").write_text('provider "aws" {\n  s3_use_path_style = true\n}\n')
        self.environment = {
            "AWS_ACCESS_KEY_ID": access_key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL": url,
            "AWS_ENDPOINT_URL_AUTO_SCALING": front,
            "AWS_ENDPOINT_URL_EC2": front,
            "AWS_ENDPOINT_URL_ELASTIC_LOAD_BALANCING_V2": front,
            "AWS_ENDPOINT_URL_SSM": front,
        }

    def look_into_credentials(self) -> None:
        shutil.copy(self.folder / "aws_credentials.tf.example", self.folder / "aws_credentials.tf")

    def set(self, **variables: Any) -> None:
        (self.folder / "terraform.tfvars.json").write_text(json.dumps(variables))

    def run(self, *arguments: str) -> str:
        return terraform(self.folder, *arguments, env=self.environment)

    def outputs(self) -> dict[str, Any]:
        return {name: it["value"] for name, it in json.loads(self.run("output", "-json")).items()}


@cache
def checkers() -> Path:
    """The folder that holds checkov, aws, and those of the other checkers that this machine lacks."""
    return install.checkers()


def program(name: str) -> str | None:
    """A checker's path: this machine's own, or the one that was fetched."""
    return shutil.which(name, path=f"{checkers()}:{os.environ['PATH']}")
