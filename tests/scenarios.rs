//! Golden scenarios: `scenarios/*.txt`, written for operators, are played through the real decision, and what it says is
//! compared with each file's golden lines. `scenarios/README.md` has the index and the grammar.
//!
//! `SCENARIOS=bless` writes what was decided into the files. Each golden line is a claim about safety: read the diff.

#![allow(clippy::unwrap_used, reason = "a test may end so")]

mod common;
#[path = "scenarios/look.rs"]
mod look;
#[path = "scenarios/story.rs"]
mod story;
#[path = "scenarios/words.rs"]
mod words;

use std::fs;
use std::path::{Path, PathBuf};

use story::Story;
use words::Parsed;

/// Plays a scenario. Returns it with what was decided in place of its golden lines, and the number of its looks.
fn play(text: &str) -> Parsed<(String, usize)> {
    let (why, _) = text.split_once("\n\n").unwrap_or_default();
    if why.len() < 80 || !why.lines().all(|line| line.starts_with('#')) {
        return Err("1: a scenario opens with a comment that says why it exists, and an empty line".to_owned());
    }
    let (mut story, mut played, mut looks, mut undecided) = (Story::new(), String::new(), 0, false);
    for (line, number) in text.lines().zip(1..) {
        let complain = |what: String| format!("{number}: {what}");
        let told = line.split_once(':').map(|(key, value)| (key.trim(), value.trim()));
        let Some((key, value)) = told.filter(|_| !line.starts_with('#')) else {
            if !(line.trim().is_empty() || line.starts_with('#')) {
                return Err(complain("a line is `key: value`".to_owned()));
            }
            played += &format!("{line}\n");
            continue;
        };
        match story.outcome(key).map_err(complain)? {
            Some(decided) => {
                looks += usize::from(key == "then");
                undecided = undecided && key != "then";
                played += line.trim_end().strip_suffix(value).unwrap_or_default();
                played += &decided;
            }
            None => {
                story.hear(key, value, !undecided).map_err(complain)?;
                undecided = true;
                played += line;
            }
        }
        played.push('\n');
    }
    match (looks, undecided) {
        (0, _) => Err("0: nothing is decided here: no `then:`".to_owned()),
        (_, true) => Err(format!("{}: nothing is decided after this", text.lines().count())),
        _ => Ok((played, looks)),
    }
}

/// The first golden line that isn't what was decided.
fn difference(text: &str, played: &str) -> Option<String> {
    let (number, (golden, decided)) =
        (1..).zip(text.lines().zip(played.lines())).find(|(_, (a, b))| a.trim_end() != *b)?;
    Some(format!("{number}:\n  golden:  {golden}\n  decided: {decided}"))
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios")
}

fn files() -> Vec<PathBuf> {
    let entries = fs::read_dir(folder()).unwrap();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "txt"))
        .collect();
    files.sort();
    files
}

#[expect(
    clippy::disallowed_methods,
    reason = "the program's settings are read in config alone; this is the test's own"
)]
fn is_bless() -> bool {
    std::env::var_os("SCENARIOS").is_some_and(|mode| mode == "bless")
}

#[test]
fn every_scenario_goes_as_it_is_written() {
    let mut broken = Vec::new();
    let mut total = 0;
    for path in files() {
        let name = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().display();
        let text = fs::read_to_string(&path).unwrap();
        match play(&text) {
            Err(cause) => broken.push(format!("{name}:{cause}")),
            Ok((played, looks)) => {
                total += looks;
                match is_bless() {
                    true => fs::write(&path, played).unwrap(),
                    false => broken.extend(difference(&text, &played).map(|what| format!("{name}:{what}"))),
                }
            }
        }
    }
    common::report(&format!("{} scenarios, {total} decisions", files().len()));
    assert!(!files().is_empty(), "no scenarios in {}", folder().display());
    assert!(broken.is_empty(), "{} broken:\n{}", broken.len(), broken.join("\n"));
}

#[test]
fn the_index_names_every_scenario_once() {
    let index = fs::read_to_string(folder().join("README.md")).unwrap();
    for path in files() {
        let row = format!("| [{0}]({0}) |", path.file_name().unwrap().display());
        assert_eq!(index.matches(&row).count(), 1, "{row} in tests/scenarios/README.md");
    }
    assert_eq!(index.matches(".txt) |").count(), files().len(), "README.md names a file that is gone");
}

/// A runner that lets a slip pass checks nothing.
#[test]
fn what_is_not_understood_fails_with_its_line() {
    let why = "# Why this is here, in a paragraph that an operator can read without knowing any Rust at all.\n\n";
    let whole = format!("{why}we are: i-a, fresh\nEC2: i-a i-b running\ni-b: fresh\nthen: ?\n");
    let (played, looks) = play(&whole).unwrap();
    assert_eq!(looks, 1);
    assert!(difference(&whole, &played).unwrap().starts_with("6:"));
    for (good, bad, complaint) in [
        ("# Why", "Why", "1: a scenario opens with"),
        ("i-b: fresh", "i-b: frish", "5: \"frish\" is not understood"),
        ("i-b: fresh", "i-b: fresh, promissed 1 of i-b", "5: \"promissed 1 of i-b\""),
        ("i-b: fresh", "peer b: fresh", "5: \"peer b:\" is no line"),
        ("i-b: fresh", "i-b fresh", "5: a line is"),
        ("i-b: fresh", ": fresh", "5: \":\" is no line"),
        ("i-b: fresh", "i-b: etcd of c1 with quorum", "5: say which members"),
        ("i-b: fresh", "i-c: fresh", "6: nothing says what i-b answers"),
        ("i-b: fresh", "i-b i-c: fresh", "6: i-c answers, but"),
        ("i-b: fresh", "i-b: etcd of c1 with quorum, members i-b i-c", "6: nothing says what became of member 63"),
        ("i-b: fresh", "settings: MUSTER_CLUSTER_SIZ=3", "5: MUSTER_CLUSTER_SIZ is no setting"),
        ("i-b: fresh", "settings: MUSTER_CLUSTER_SIZE=three", "5: MUSTER_CLUSTER_SIZE=three: is not"),
        ("running", "runing", "4: \"i-a i-b runing\""),
        ("i-b: fresh", "i-b: silent 40", "5: \"40\" is no duration"),
        ("then: ?\n", "", "0: nothing is decided here"),
        ("then: ?\n", "then: ?\nlater: 5s\n", "7: nothing is decided after this"),
    ] {
        let error = play(&whole.replacen(good, bad, 1)).unwrap_err();
        assert!(error.starts_with(complaint), "{bad}: {error}");
    }
}
