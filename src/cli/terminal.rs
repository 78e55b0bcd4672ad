//! What the commands print: no other file prints. On a terminal nobody else's words move the cursor or begin a line.
#![expect(clippy::print_stdout, reason = "the one place that prints")]

use std::fmt;

use serde_json::Value;

use crate::util::words;

/// One line, whatever is in it.
pub(super) fn line(text: impl fmt::Display) {
    println!("{}", words::on_one_line(&text.to_string()));
}

/// Lines that are ours to part: what others have said in them was made fit before.
pub(super) fn lines(text: &str) {
    text.lines().for_each(line);
}

/// A value over many lines.
pub(super) fn json(value: &Value) {
    println!("{}", words::escaped(&format!("{value:#}")));
}

/// A value on one line.
pub(super) fn json_line(value: &Value) {
    println!("{}", words::escaped(&value.to_string()));
}

/// A command for a shell to read: every character counts.
pub(super) fn for_a_shell(command: &str) {
    println!("{command}");
}

/// Rows under a head, each column as wide as its widest word.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) {
    let fit = |row: &Vec<String>| row.iter().map(|cell| words::on_one_line(cell).into_owned()).collect();
    let rows: Vec<Vec<String>> = rows.iter().map(fit).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([head[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let padded = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        println!("{}", padded.join("  ").trim_end());
    };
    padded(&mut head.iter().copied());
    for row in &rows {
        padded(&mut row.iter().map(String::as_str));
    }
}
