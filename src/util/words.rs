//! Text from outside (tags, names, charters, errors, etcd's messages), made safe to show: its author must not be able to move a
//! terminal's cursor, begin a line of a log, or send systemd an assignment. And URLs without their secrets, and bytes in hex.
//!
//! Every exit uses this: the log and the last words, systemd's socket, the reasons of the status pages, and the commands'
//! output (`cli/terminal.rs` alone prints).

use std::borrow::Cow;
use std::fmt::Write;

/// The text on one line: a blank for each line break or separator, `?` for characters that control a terminal or change the
/// writing direction.
pub fn on_one_line(text: &str) -> Cow<'_, str> {
    match text.contains(steers) {
        true => text
            .chars()
            .map(|c| {
                if !steers(c) {
                    c
                } else if c.is_whitespace() {
                    ' '
                } else {
                    '?'
                }
            })
            .collect(),
        false => Cow::Borrowed(text),
    }
}

/// Serialized JSON, with the escapes that it omits: for JSON only C0 is control (RFC 8259, section 7).
pub fn escaped(json: &str) -> Cow<'_, str> {
    let bare = |c: char| steers(c) && c >= '\u{7f}';
    if !json.contains(bare) {
        return Cow::Borrowed(json);
    }
    let mut text = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        match bare(c) {
            // All of them are in the first plane: one escape each.
            true => _ = write!(text, "\\u{:04x}", u32::from(c)),
            false => text.push(c),
        }
    }
    text.into()
}

/// C0, DEL and C1; line and paragraph separators; marks, overrides and isolates of writing direction (Unicode, UAX #9).
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A URL as it may be shown: without user and password, and without its query, which may have tokens. In any other text every
/// URL is cut the same way. If a URL is malformed (a password with an unescaped mark in it), rather too much is cut.
pub fn without_secrets(text: &str) -> Cow<'_, str> {
    let Some(scheme) = text.find("://") else { return Cow::Borrowed(text) };
    let (head, rest) = text.split_at(scheme + 3);
    let ends = |c: char| c.is_whitespace() || "\"'`<>".contains(c);
    let (url, after) = rest.split_at(rest.find(ends).unwrap_or(rest.len()));
    let (place, query) = url.split_at(url.find(['?', '#']).unwrap_or(url.len()));
    let place = match place.rfind('@') {
        Some(at) => &place[at + 1..],
        // A mark before the @ of a user.
        None if query.contains('@') && !place.contains('/') => "…",
        None => place,
    };
    let query = if query.is_empty() { "" } else { "?…" };
    format!("{head}{place}{query}{}", without_secrets(after)).into()
}

/// Bytes as headers, manifests and file names have them.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_is_taken_out_and_all_else_is_left() {
        let tamed = |text: &str| on_one_line(text).into_owned();
        assert_eq!(tamed("a\nREADY=1\r\n\tb"), "a READY=1   b");
        assert_eq!(tamed("\u{1b}[2J\u{9b}31m\u{7f}\u{0}\u{8}"), "?[2J?31m???");
        assert_eq!(tamed("x\u{2028}y\u{2029}z\u{85}"), "x y z ");
        assert_eq!(tamed("\u{202e}gpj.exe\u{2069}\u{200f}\u{61c}"), "?gpj.exe???");
        for harmless in ["", "i-0c3…", "é, 東京, עברית", "a  b"] {
            assert!(matches!(on_one_line(harmless), Cow::Borrowed(same) if same == harmless), "{harmless}");
        }
    }

    #[test]
    fn json_stays_the_same_text_in_ascii_where_it_steers() {
        let said = "a\u{9b}31m\u{202e}\u{2028}\u{7f}\n\u{1b} é";
        let json = serde_json::to_string(said).unwrap();
        let shown = escaped(&json);
        assert!(!shown.contains(steers), "{shown:?}");
        assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), said);
        assert!(matches!(escaped("{\n  \"a\": 1\n}"), Cow::Borrowed(_)), "the layout is left");
    }

    #[test]
    fn urls_are_shown_without_user_and_query() {
        let shown = |text: &str| without_secrets(text).into_owned();
        // (A list is one word, and may hold passwords with commas.)
        for same in ["", "http://10.0.0.1:2379", "https://[fd00::1]:2380/a/b", "a@b ?c", "no url"] {
            assert_eq!(shown(same), same);
        }
        assert_eq!(shown("http://u:hunter2@h:1/x"), "http://h:1/x");
        assert_eq!(shown("http://h/x?token=hunter2"), "http://h/x?…");
        assert_eq!(shown("http://h/x#hunter2"), "http://h/x?…");
        assert_eq!(shown("http://u:hunter2?x@h"), "http://…?…");
        assert_eq!(shown("http://u:hunter/2@h/x"), "http://h/x");
        assert_eq!(
            shown("see http://u:hunter2@h?hunter2 and https://hunter2@g: refused"),
            "see http://h?… and https://g: refused"
        );
        let list = shown("a=http://u:hunter2@h:1,b=http://u:hunter2@g:2?hunter2");
        assert!(!list.contains("hunter2"), "{list}");
    }
}
