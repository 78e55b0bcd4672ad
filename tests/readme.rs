//! The README's table of variables is the program's own.

use std::fmt::Write;

use etcd_muster::config::VARIABLES;

#[test]
fn the_readme_holds_every_variable_as_the_program_has_it() {
    let mut table = String::new();
    for v in VARIABLES {
        writeln!(table, "| `{}` | {} | {} |", v.name, v.default, v.meaning).unwrap_or_default();
    }
    let readme = include_str!("../README.md");
    assert!(readme.contains(&table), "the table in README.md should be:\n{table}");
}
