//! What the documents say of variables and holds is the program's own.

#![allow(clippy::unwrap_used, reason = "a test may end so")]

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use etcd_muster::config::VARIABLES;
use muster_core::holds::{Explained, HALTS, HOLDS};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(under: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(under).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn table(explained: &[Explained]) -> String {
    let mut text = String::new();
    for row in explained {
        writeln!(text, "| `{}` | {} | {} |", row.kind, row.meaning, row.ends).unwrap();
    }
    text
}

#[test]
fn the_documents_hold_every_variable_as_the_program_has_it() {
    let mut table = String::new();
    for v in VARIABLES {
        writeln!(table, "| `{}` | {} | {} |", v.name, v.default, v.explained()).unwrap();
    }
    let page = fs::read_to_string(root().join("docs/variables.md")).unwrap();
    assert!(page.contains(&table), "the table in docs/variables.md should be:\n{table}");
}

#[test]
fn the_documents_explain_every_hold_and_halt() {
    let page = fs::read_to_string(root().join("docs/holds.md")).unwrap();
    for table in [table(HOLDS), table(HALTS)] {
        assert!(page.contains(&table), "a table in docs/holds.md should be:\n{table}");
    }
}

/// The kinds in the code: what label.rs gives each hold and halt, and what the daemon holds for by itself.
#[test]
fn every_hold_and_halt_is_explained() {
    let quoted = |text: &str| text.split('"').skip(1).step_by(2).map(str::to_owned).collect::<BTreeSet<_>>();
    let labels = fs::read_to_string(root().join("src/core/label.rs")).unwrap();
    let of = |owner: &str| {
        let body = labels.split(&format!("impl {owner} {{")).nth(1).unwrap();
        quoted(body.split("\n}\n").next().unwrap())
    };
    let mut holds = of("Hold");
    holds.extend(of("Obstacle"));
    for file in files(&root().join("src/daemon")) {
        let text = fs::read_to_string(file).unwrap();
        let own = text.split("Label::hold(\"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned());
        holds.extend(own);
    }
    let explained = |rows: &[Explained]| rows.iter().map(|row| row.kind.to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(holds, explained(HOLDS));
    assert_eq!(of("Halt"), explained(HALTS));
}

/// Every relative link of the documents leads to a file.
#[test]
fn links_lead_somewhere() {
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let tops = ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "CHANGELOG.md"].map(|name| root().join(name));
    let mut links = 0;
    for page in docs.chain(tops).filter(|path| path.extension().is_some_and(|e| e == "md")) {
        let text = fs::read_to_string(&page).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap();
            if file.is_empty() || file.contains("://") {
                continue;
            }
            links += 1;
            assert!(page.parent().unwrap().join(file).exists(), "{}: {target}", page.display());
        }
    }
    assert!(links > 30, "{links}");
}
