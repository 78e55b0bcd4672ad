"""The notices that the crates' authors want beside a program that contains their code: one file, every text once.

Words are left out only where they repeat, word for word, Apache's terms (in LICENSE beside it) or MIT's (once, at its end).
"""

from __future__ import annotations

import re
from pathlib import Path

from muster_tools.image.crates import Package
from muster_tools.image.refusal import Refused
from muster_tools.repository import ROOT

FILE = re.compile(r"(LICEN[CS]E|COPYING|COPYRIGHT|NOTICE|UNLICENSE|PATENTS)", re.I)
APACHE, MIT = ROOT / "LICENSE", Path(__file__).with_name("MIT")
MARKS = {"Apache-2.0": "[Apache License, Version 2.0: LICENSE]", "MIT": "[MIT's terms: at the end]"}
RULE = "-" * 80 + "\n"

# Beside crates: what every program for musl has in it. (libunwind's licence asks nothing of a linked program.)
RUNTIME = {
    "musl libc (MIT)": "Copyright (c) 2005-2020 Rich Felker, et al.\nCopyright (c) 2012-2018 Arm Limited\n\n" + MARKS["MIT"],
    "Rust's standard library (MIT OR Apache-2.0)": "Copyright (c) The Rust Project Contributors\n\n" + MARKS["Apache-2.0"],
}


def files(crates: list[Package]) -> dict[str, bytes]:
    """By name. The first is of etcd and of etcd-muster alike."""
    return {"LICENSE": APACHE.read_bytes(), "THIRD-PARTY-LICENSES": notices(crates).encode()}


def notices(crates: list[Package]) -> str:
    shown: dict[str, tuple[str, list[str]]] = {" ".join(text.split()): (text, [name]) for name, text in RUNTIME.items()}
    for crate in crates:
        name = f"{crate['name']} {crate['version']} ({crate['license']})"
        for text in _texts(crate):
            names = shown.setdefault(" ".join(text.split()), (text, []))[1]
            if name not in names:
                names.append(name)
    parts = ["What is linked into etcd-muster (Apache-2.0, see LICENSE) beside its own code, under the terms of its authors.\n"]
    parts += ["\n".join(names) + f"\n\n{text}\n" for text, names in shown.values()]
    return RULE.join([*parts, "MIT's terms\n\n" + MIT.read_text("utf-8")])


def _texts(crate: Package) -> list[str]:
    """Of all its files with terms, those of code that it has copied included."""
    root = Path(crate["manifest_path"]).parent
    files = sorted(path.relative_to(root) for path in root.rglob("*") if FILE.match(path.name) and path.is_file())
    if files:
        return [_shortened((root / path).read_text(encoding="utf-8", errors="replace")) for path in files]
    if crate["license"] not in MARKS:
        raise Refused(f"{crate['name']} {crate['version']} has no licence file, and the text of {crate['license']} isn't kept here")
    return [f"No notice of its authors is in the package; {crate['repository']}\n\n{MARKS[crate['license']]}"]


def _shortened(text: str) -> str:
    for name, terms in STANDARD.items():
        text = terms.sub(lambda _: MARKS[name], text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def _as_pattern(terms: str) -> str:
    """However the lines are broken."""
    return r"\s+".join(re.escape(word).replace("http:", "https?:") for word in terms.split())


# With it goes the advice to authors that follows Apache's terms.
ADVICE = r"(\s+END OF TERMS AND CONDITIONS)?(\s+APPENDIX: How to apply the Apache License to your work\..{,800}?archives\.)?"
STANDARD = {
    "Apache-2.0": re.compile(_as_pattern(APACHE.read_text("utf-8")) + ADVICE, re.S),
    "MIT": re.compile(_as_pattern(MIT.read_text("utf-8"))),
}
