"""scripts/image: what is in the image, where etcd comes from, and that the same inputs give the same bits."""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from archives import ETCD, REPOSITORY, SOURCE, Archive, run_script
from muster_tools.image import licences
from muster_tools.image.refusal import Refused
from muster_tools.lab import install
from muster_tools.lab.http_server import HttpServer, Reply

PROGRAMS = ("etcd", "etcdctl", "etcdutl")
NEWER_ETCD = "3.6.16"
TOOLS = ("bash", "jq", "curl", "awscli")
MIB = 2**20
# What the image may have beside etcd's own files. The aim is 4 MiB, and was reached until a disk's identity, stores and strangers were
# seen to; snapshots brought 0.7 MiB, restore, recovery and adoption 0.4. `scripts/bench --only size` says by how much it is missed; this only keeps it from growing unseen.
OWN_BYTES = 6 * MIB
USER = 2379
USAGE, UNAVAILABLE = 64, 69
MACHINE = platform.machine()
NOWHERE = "http://127.0.0.1:1"  # refused: a host without a network

TREE = {
    "/etcd": (0o755, 0),
    "/etcd/LICENSE": (0o644, 0),
    "/etcd/THIRD-PARTY-LICENSES": (0o644, 0),
    "/etcd/bin": (0o755, 0),
    "/etcd/bin/etcd": (0o755, 0),
    "/etcd/bin/etcd-muster": (0o755, 0),
    "/etcd/bin/etcdctl": (0o755, 0),
    "/etcd/bin/etcdutl": (0o755, 0),
    "/etcd/data": (0o700, USER),
    "/etcd/ssl": (0o755, 0),
    "/etcd/wal": (0o700, USER),
}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def complaint(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The last line of a run that refused; nothing else was said but what is being fetched."""
    assert done.returncode == code, done.stderr
    *before, last = done.stderr.splitlines()
    assert not [line for line in before if "fetching" not in line], done.stderr
    return last.removeprefix("scripts/image: ")


# What is in it.


def test_these_files_are_in_the_image_and_nothing_else(image, binary, etcd):
    found = image.entries()
    assert {path: entry[:2] for path, entry in found.items()} == TREE
    assert all(owner == group for _, owner, group, _ in found.values())
    for name in PROGRAMS:
        assert found[f"/etcd/bin/{name}"][3] == (etcd / name).read_bytes()
    assert found["/etcd/bin/etcd-muster"][3] == binary.read_bytes()
    assert found["/etcd/LICENSE"][3].lstrip().startswith(b"Apache License\n"), "etcd's licence wants a copy of itself"


def test_the_image_has_little_beside_etcds_files(image, etcd):
    files = {path: len(content) for path, (*_, content) in image.entries().items() if content is not None}
    etcds = sum((etcd / name).stat().st_size for name in PROGRAMS)
    own = sum(files.values()) - etcds
    print(f"\nimage: {sum(files.values()) / MIB:.2f} MiB, of it etcd's own files {etcds / MIB:.2f}, ours {own / MIB:.2f}")
    assert own <= OWN_BYTES
    assert image.path.stat().st_size - etcds <= OWN_BYTES, "the file that is carried around, too"


def test_what_a_shell_and_an_sdk_would_bring_instead(image, etcd):
    """As Debian's packages tell."""
    simulated = ("apt-get", "--simulate", "--option=Dir::State::status=/dev/null", "--no-install-recommends", "install", *TOOLS)
    told = subprocess.run(simulated, capture_output=True, text=True).stdout if shutil.which("apt-get") else ""
    names = re.findall(r"^Inst (\S+)", told, re.M)
    if not names:
        pytest.skip(f"apt-get knows no {', '.join(TOOLS)} here")
    shown = subprocess.run(("apt-cache", "show", "--no-all-versions", *names), check=True, capture_output=True, text=True).stdout
    theirs = sum(1024 * int(size) for size in re.findall(r"^Installed-Size: (\d+)", shown, re.M))
    print(f"\n{', '.join(TOOLS)}, as Debian installs them on nothing: {len(names)} packages, {theirs / 1e6:.0f} MB")
    client = shutil.which("docker")
    print(f"docker's client: {Path(client).stat().st_size / 1e6:.0f} MB" if client else "docker's client: not here")
    print("images with Alpine and awscli in them: not measured, they are in registries")
    own = sum(len(content) for path, (*_, content) in image.entries().items() if content and path.rpartition("/")[2] not in PROGRAMS)
    assert set(TOOLS) <= set(names) and own < theirs / 10


def test_without_etcdutl_as_34_has_none(binary, etcd, tmp_path):
    done = image_without_etcdutl(etcd, binary, tmp_path)
    assert set(TREE) - set(Archive(tmp_path / "image.tar").entries()) == {"/etcd/bin/etcdutl"}
    assert "has no etcdutl" not in done.stderr, "this etcdctl restores snapshots itself"


def test_from_36_on_an_etcd_without_etcdutl_is_told(binary, tmp_path):
    """Only etcdutl restores a snapshot on trial there (MUSTER_SNAPSHOT_VERIFY=restore)."""
    etcd = install.etcd_binaries(NEWER_ETCD)
    if not etcd.is_dir():
        pytest.skip(f"etcd {NEWER_ETCD} is not installed: scripts/install-lab")
    done = image_without_etcdutl(etcd, binary, tmp_path)
    assert f"{tmp_path / 'old'} has no etcdutl: put it beside etcd if MUSTER_SNAPSHOT_VERIFY=restore is to be used" in done.stderr


def image_without_etcdutl(etcd: Path, binary: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "old").mkdir()
    for name in ("etcd", "etcdctl"):
        (folder / "old" / name).symlink_to(etcd / name)
    done = run_script("image", "--etcd", folder / "old", "--binary", binary, "--output", folder / "image.tar")
    assert done.returncode == 0, done.stderr
    return done


def test_what_an_engine_is_told(image):
    labels = image.config["Labels"]
    assert image.config["Entrypoint"] == ["/etcd/bin/etcd-muster"] and image.config["Cmd"] == ["run"]
    assert image.config["User"] == f"{USER}:{USER}" and image.config["StopSignal"] == "SIGTERM"
    assert image.config["Healthcheck"]["Test"] == ["CMD", "/etcd/bin/etcd-muster", "health"]
    assert set(image.config["Volumes"]) == {"/etcd/data", "/etcd/wal"}
    assert image.manifest["RepoTags"] == [f"etcd-muster:{labels['org.opencontainers.image.version']}"]
    assert labels["io.etcd.version"] == ETCD and labels["org.opencontainers.image.source"] == SOURCE
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True).stdout.strip()
    assert labels["org.opencontainers.image.revision"].removesuffix("-dirty") == commit
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0" and all(labels.values())
    assert image.about["architecture"] == {"x86_64": "amd64", "aarch64": "arm64"}[MACHINE]


def test_the_same_file_is_an_oci_layout_whose_digests_are_right(image):
    for name, content in image.blobs.items():
        if name.startswith("blobs/sha256/"):
            assert name == f"blobs/sha256/{sha256(content)}"
    (listed,) = json.loads(image.blobs["index.json"])["manifests"]
    (name,) = image.manifest["RepoTags"]
    assert listed["annotations"]["io.containerd.image.name"] == f"docker.io/library/{name}", "as `docker save` writes it, too"
    manifest = json.loads(image.blobs[blob(listed)])
    assert blob(manifest["config"]) == image.manifest["Config"]
    assert [blob(layer) for layer in manifest["layers"]] == image.manifest["Layers"]
    for told in (listed, manifest["config"], *manifest["layers"]):
        assert told["size"] == len(image.blobs[blob(told)])
    assert image.about["rootfs"]["diff_ids"] == [f"sha256:{sha256(image.blobs[layer])}" for layer in image.manifest["Layers"]]


def blob(descriptor: dict) -> str:
    return descriptor["digest"].replace("sha256:", "blobs/sha256/")


# Bit for bit.


def test_the_same_inputs_give_the_same_image_bit_for_bit(image, binary, etcd, tmp_path):
    """Built again elsewhere: other paths, times, modes, time zone, mask and hash seed."""
    (tmp_path / "elsewhere").mkdir()
    for name in PROGRAMS:
        shutil.copy(etcd / name, tmp_path / "elsewhere" / name)
        os.utime(tmp_path / "elsewhere" / name, (1, 1))
        (tmp_path / "elsewhere" / name).chmod(0o4777)
    own = tmp_path / "muster"
    own.write_bytes(binary.read_bytes())
    again = tmp_path / "again.tar"
    old_mask = os.umask(0o077)
    try:
        arguments = ("--etcd", tmp_path / "elsewhere", "--binary", own, "--source", SOURCE, "--output", again)
        done = run_script("image", *arguments, TZ="Asia/Tokyo", PYTHONHASHSEED="7")
    finally:
        os.umask(old_mask)
    assert done.returncode == 0, done.stderr
    assert sha256(again.read_bytes()) == sha256(image.path.read_bytes())
    assert sbom_of(again) == sbom_of(image.path)


def test_every_time_in_it_is_source_date_epoch(binary, etcd, tmp_path):
    output = tmp_path / "image.tar"
    done = run_script("image", "--etcd", etcd, "--binary", binary, "--output", output, SOURCE_DATE_EPOCH="86400")
    assert done.returncode == 0, done.stderr
    made = Archive(output)
    layers = [io.BytesIO(made.blobs[layer]) for layer in made.manifest["Layers"]]
    times = {member.mtime for file in (output.open("rb"), *layers) for member in tarfile.open(fileobj=file)}
    assert times == {86400}
    assert made.about["created"] == "1970-01-02T00:00:00Z" == json.loads(sbom_of(output))["metadata"]["timestamp"]


# The list of what is in it.


def sbom_of(image: Path) -> str:
    return image.with_suffix(".cdx.json").read_text()


def test_the_sbom_names_etcd_and_every_crate_that_is_linked(image, binary, etcd):
    told = json.loads(sbom_of(image.path))
    parts = {part["name"]: part for part in told["components"]}
    assert parts["etcd"]["version"] == ETCD
    digests = {part["name"]: part["hashes"][0]["content"] for part in parts["etcd"]["components"]}
    assert digests == {f"/etcd/bin/{name}": sha256((etcd / name).read_bytes()) for name in PROGRAMS}
    assert parts["etcd-muster"]["hashes"][0]["content"] == sha256(binary.read_bytes())
    crates = {name for name, part in parts.items() if part["type"] == "library"}
    assert {"rustls", "aws-lc-sys", "tokio", "hyper", "serde_json"} <= crates
    assert not crates & {"proptest", "rcgen", "ring", "cc", "serde_derive"}, "what only tests, build scripts and the compiler need"
    assert all(len(parts[name]["hashes"][0]["content"]) == 64 and parts[name]["licenses"] for name in crates)
    references = [part["bom-ref"] for part in told["components"]]
    assert len(set(references)) == len(references), "CycloneDX wants them unique"
    assert str(REPOSITORY) not in sbom_of(image.path)
    assert told["metadata"]["component"]["hashes"][0]["content"] == image.manifest["Config"].rpartition("/")[2]


# Under which terms.


def test_every_crate_that_is_linked_has_its_authors_notices_in_the_image(image):
    """Line by line: none of theirs is lost, and the two texts that nearly all have are there once."""
    found = image.entries()
    apache, told = (words(found[f"/etcd/{name}"][3].decode()) for name in ("LICENSE", "THIRD-PARTY-LICENSES"))
    assert told.count("The above copyright notice and this permission notice shall be included in all copies") == 1
    assert apache.count("Grant of Copyright License") == 1 and "Grant of Copyright License" not in told
    command = ["cargo", "metadata", "--locked", "--format-version=1"]
    known = json.loads(subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True).stdout)["packages"]
    homes = {(package["name"], package["version"]): Path(package["manifest_path"]).parent for package in known}
    crates = [part for part in json.loads(sbom_of(image.path))["components"] if part["type"] == "library"]
    files = 0
    for crate in crates:
        assert f"{crate['name']} {crate['version']} (" in told
        for path in homes[crate["name"], crate["version"]].rglob("LICENSE*"):
            files += 1
            text = ADVICE_TO_AUTHORS.sub("", path.read_text())
            lost = [line for line in map(words, text.splitlines()) if line not in told and line not in apache]
            assert not lost, path
    assert files > len(crates)
    assert "proptest" not in told and "ring 0." not in told


ADVICE_TO_AUTHORS = re.compile(r"END OF TERMS AND CONDITIONS(\s+APPENDIX: How to apply.*?archives\.)?", re.S)


def words(text: str) -> str:
    return " ".join(text.replace("http:", "https:").split())


def test_a_crate_whose_terms_nobody_can_tell_is_refused(tmp_path):
    crate = {"name": "sly", "version": "1.0.0", "license": "Sly-1.0", "manifest_path": str(tmp_path / "Cargo.toml"), "repository": None}
    with pytest.raises(Refused, match="^sly 1.0.0 has no licence file, and the text of Sly-1.0 isn't kept here$"):
        licences.notices([crate])
    (tmp_path / "COPYING").write_text("be sly")
    assert "sly 1.0.0 (Sly-1.0)\n\nbe sly\n" in licences.notices([crate])


# Where etcd comes from.


@pytest.fixture(scope="module")
def tarball(etcd) -> bytes:
    """As upstream packs a release."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:
        for name in PROGRAMS:
            archive.add(etcd / name, f"etcd-v{ETCD}-linux-amd64/{name}")
    return packed.getvalue()


@pytest.fixture
def upstream(tarball):
    """A release server; `upstream.files` is what it has."""
    files: dict[str, bytes] = {}

    def answer(request):
        content = files.get(request.target)
        return Reply(404) if content is None else Reply(200, content)

    with HttpServer("127.0.0.1", 0, answer) as server:
        server.files = files
        yield server


def release_name(version: str = ETCD, arch: str = "amd64") -> str:
    return f"etcd-v{version}-linux-{arch}.tar.gz"


@pytest.mark.skipif(MACHINE != "x86_64", reason="the registries' static etcd is for x86_64")
def test_a_version_is_fetched_and_its_sum_verified(upstream, tarball, image, binary, tmp_path):
    upstream.files[f"/mirror/v{ETCD}/{release_name()}"] = tarball
    sums = tmp_path / "sums"
    sums.write_text(f"{sha256(tarball)}  {release_name()}\n")
    arguments = ("--etcd", f"v{ETCD}", "--binary", binary, "--source", SOURCE, "--sums", sums, "--output", tmp_path / "image.tar")
    kept = tmp_path / "downloads" / release_name()
    done = run_script("image", *arguments, ETCD_DOWNLOAD_URL=f"{upstream.url}/mirror/")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "image.tar").read_bytes() == image.path.read_bytes(), "the same etcd, so the same image"
    etcd = next(part for part in json.loads(sbom_of(tmp_path / "image.tar"))["components"] if part["name"] == "etcd")
    assert etcd["hashes"][0]["content"] == sha256(tarball)
    # What was fetched once is there without a network; what was tampered with since is fetched anew.
    assert run_script("image", *arguments, ETCD_DOWNLOAD_URL=NOWHERE).returncode == 0
    kept.write_bytes(tarball[:-1])
    assert "can't be fetched" in complaint(run_script("image", *arguments, ETCD_DOWNLOAD_URL=NOWHERE), UNAVAILABLE)


def test_a_wrong_sum_a_missing_one_and_a_server_without_it_are_one_line_each(upstream, tarball, tmp_path):
    sums = tmp_path / "sums"
    sums.write_text(f"{'0' * 64}  {release_name('9.9.1')}\n{'0' * 64}  {release_name('9.9.2')}\n")
    path = f"/v9.9.1/{release_name('9.9.1')}"
    upstream.files[path] = tarball

    def refusal(version: str, code: int) -> str:
        arguments = ("--arch", "x86_64", "--sums", sums, "--output", tmp_path / "image.tar")
        return complaint(run_script("image", "--etcd", version, *arguments, ETCD_DOWNLOAD_URL=upstream.url), code)

    wrong = refusal("9.9.1", UNAVAILABLE)
    assert wrong == f"{upstream.url}{path} isn't what it should be: its sha256 is {sha256(tarball)}, not {'0' * 64}"
    missing = refusal("9.9.3", USAGE)
    assert missing == f"no sum of {release_name('9.9.3')} is kept here, so it isn't fetched; there are 9.9.1, 9.9.2"
    assert refusal("9.9.2", UNAVAILABLE).endswith("can't be fetched: Not Found")
    assert not list(tmp_path.rglob("*.tar*"))


def test_a_tarball_that_bears_a_releases_name_must_be_that_release(tarball, tmp_path):
    posing = tmp_path / release_name("3.5.33")
    posing.write_bytes(tarball)
    said = complaint(run_script("image", "--etcd", posing, "--arch", "x86_64", "--output", tmp_path / "image.tar"), UNAVAILABLE)
    assert said.startswith(f"{posing} isn't upstream's: its sha256 is {sha256(tarball)}, not 5025b5b24d81")


def test_a_tarball_that_was_carried_in_is_taken_and_one_without_a_known_sum_is_told(tarball, binary, image, tmp_path):
    carried = tmp_path / "carried-etcd.tar.gz"
    carried.write_bytes(tarball)
    sums = tmp_path / "sums"
    arguments = ("--etcd", carried, "--binary", binary, "--source", SOURCE, "--sums", sums, "--output", tmp_path / "image.tar")
    for known, remark in ((f"{sha256(tarball)}  {release_name()}\n", False), ("", True)):
        sums.write_text(known)
        done = run_script("image", *arguments)
        assert done.returncode == 0, done.stderr
        assert (f"{carried} is no release whose sum is kept here; taken as it is" in done.stderr) is remark
        assert (tmp_path / "image.tar").read_bytes() == image.path.read_bytes()


def test_without_arguments_etcd_dir_is_taken_and_without_a_network_it_says_what_to_give(binary, etcd, image, tmp_path):
    arguments = ("--binary", binary, "--source", SOURCE, "--output", tmp_path / "image.tar")
    said = complaint(run_script("image", *arguments, ETCD_DOWNLOAD_URL=NOWHERE), UNAVAILABLE)
    assert said.endswith("; give an etcd release: --etcd DIR|TARBALL|VERSION, or its directory in ETCD_DIR")
    done = run_script("image", *arguments, ETCD_DIR=str(etcd), ETCD_DOWNLOAD_URL=NOWHERE)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "image.tar").read_bytes() == image.path.read_bytes()


def test_an_etcd_that_would_not_run_in_the_image_is_refused(binary, etcd, tmp_path):
    other = {"x86_64": "aarch64", "aarch64": "x86_64"}[MACHINE]
    (tmp_path / "etcd-v3.5.1").symlink_to(etcd)
    output = ("--output", tmp_path / "image.tar")
    said = complaint(run_script("image", "--etcd", tmp_path / "etcd-v3.5.1", "--arch", other, *output), USAGE)
    assert said == f"{tmp_path / 'etcd-v3.5.1'}: etcd is for {MACHINE}, not {other}; upstream's releases fit"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert complaint(run_script("image", "--etcd", empty, *output), USAGE) == f"{empty} has no etcd and no etcdctl"
    dynamic = install.etcd_binaries(install.DEBIAN_ETCD)
    if dynamic.is_dir():
        said = complaint(run_script("image", "--etcd", dynamic, "--binary", binary, *output), USAGE)
        assert said == f"{dynamic}: etcd is dynamically linked: its loader would be missing; upstream's releases fit"


# The other architecture.


def test_for_aarch64_the_supervisor_runs_and_all_is_where_it_belongs(upstream, tmp_path):
    """No registry holds a static etcd for aarch64: here static aarch64 programs of another kind stand in for its files."""
    built = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target")) / "aarch64-unknown-linux-musl/release/etcd-muster"
    if not built.is_file():
        pytest.skip("there is no binary for aarch64: scripts/build aarch64")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1, dereference=True) as archive:
        for name in PROGRAMS:
            archive.add(built, f"etcd-v9.9.9-linux-arm64/{name}")
    name = release_name("9.9.9", "arm64")
    upstream.files[f"/v9.9.9/{name}"] = packed.getvalue()
    sums, output = tmp_path / "sums", tmp_path / "image.tar"
    sums.write_text(f"{sha256(packed.getvalue())}  {name}\n")
    arguments = ("--etcd", "9.9.9", "--arch", "aarch64", "--binary", built, "--sums", sums, "--output", output)
    done = run_script("image", *arguments, ETCD_DOWNLOAD_URL=upstream.url)
    assert done.returncode == 0, done.stderr
    made = Archive(output)
    found = made.entries()
    assert {path: entry[:2] for path, entry in found.items()} == TREE
    assert (made.about["architecture"], made.about["variant"], made.config["Labels"]["io.etcd.version"]) == ("arm64", "v8", "9.9.9")
    own = [content for path, (*_, content) in found.items() if content and path.rpartition("/")[2] not in PROGRAMS]
    assert sum(map(len, own)) <= OWN_BYTES
    assert b"aws-lc-sys " in found["/etcd/THIRD-PARTY-LICENSES"][3]
    assert f"sha256:{made.manifest['Config'].rpartition('/')[2]}" in done.stderr
    emulator = install.emulator()
    if emulator is None:
        pytest.skip(f"all but running it was checked: there is no {install.QEMU} (scripts/install-lab --with-qemu)")
    program = tmp_path / "etcd-muster"
    program.write_bytes(found["/etcd/bin/etcd-muster"][3])
    program.chmod(0o755)
    said = subprocess.run([emulator, str(program), "--version"], capture_output=True, text=True, timeout=60)
    assert said.stdout.startswith("etcd-muster ") and said.returncode == 0, said
    refused = subprocess.run([emulator, str(program), "run"], env={"CLNT_PORT": "none"}, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 78 and "CLNT_PORT" in refused.stderr, refused
