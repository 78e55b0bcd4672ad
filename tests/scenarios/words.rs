//! Words of the scenarios, and what they stand for.

use std::time::Duration;

use etcd_muster::core::paxos::Ballot;
use etcd_muster::core::types::{ClusterId, Known, Member, MemberId};
use etcd_muster::core::view::DataDir;

use crate::common::{id, voter};

/// A value, or what is wrong with the text.
pub type Parsed<T> = Result<T, String>;

/// The peer URL of an instance that has moved.
pub const ELSEWHERE: &str = "http://elsewhere:2380";

pub fn not_understood<T>(text: &str) -> Parsed<T> {
    Err(format!("\"{}\" is not understood", text.trim()))
}

/// Splits where neither parentheses nor quotes hold the text together.
pub fn split(text: &str, separator: char) -> Vec<&str> {
    let (mut depth, mut quoted) = (0, false);
    let parts = text.split(|c| {
        match c {
            '"' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted => depth -= 1,
            _ => {}
        }
        c == separator && depth == 0 && !quoted
    });
    parts.map(str::trim).filter(|part| !part.is_empty()).collect()
}

pub fn words(text: &str) -> Vec<&str> {
    split(text, ' ')
}

/// What is in parentheses at the end, apart from the rest.
pub fn aside(text: &str) -> (&str, String) {
    let inner = text.strip_suffix(')').and_then(|text| text.split_once('('));
    inner.map_or((text, String::new()), |(before, inside)| (before.trim(), inside.to_owned()))
}

pub fn letter(word: &str) -> Parsed<char> {
    match word.strip_prefix("i-").unwrap_or_default().as_bytes() {
        [letter @ b'a'..=b'z'] => Ok(char::from(*letter)),
        _ => Err(format!("\"{word}\" is no instance; write i-a to i-z")),
    }
}

pub fn letters(words: &[&str]) -> Parsed<Vec<char>> {
    words.iter().map(|word| letter(word)).collect()
}

pub fn number<T: std::str::FromStr>(word: &str) -> Parsed<T> {
    word.parse().map_err(|_| format!("\"{word}\" is no number"))
}

/// Ids are in hex, as etcd prints them: "cluster c1", "member 63".
pub fn hex(word: &str) -> Parsed<u64> {
    u64::from_str_radix(word, 16).map_err(|_| format!("\"{word}\" is no id in hex"))
}

pub fn cluster_id(word: &str) -> Parsed<ClusterId> {
    hex(word).map(ClusterId)
}

pub fn duration(word: &str) -> Parsed<Duration> {
    let unit = word.trim_start_matches(|c: char| c.is_ascii_digit());
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(format!("\"{word}\" is no duration; write 300ms, 40s, 5m or 2h")),
    };
    Ok(Duration::from_millis(number::<u64>(&word[..word.len() - unit.len()])? * millis))
}

pub fn ballot(round: &str, proposer: &str) -> Parsed<Ballot> {
    let proposer = letter(proposer)?;
    Ok(Ballot { round: number(round)?, proposer: id(proposer), nonce: u64::from(proposer) })
}

pub fn whole(cluster: &str, member: MemberId) -> Parsed<DataDir> {
    Ok(DataDir::Whole { ids: Known::Known((cluster_id(cluster)?, member)) })
}

/// `i-c`: a started voter. `i-c(unstarted learner id 9)`: what differs from that.
pub fn member(text: &str) -> Parsed<Member> {
    let (name, differing) = aside(text);
    let mut member = voter(letter(name)?);
    let mut differing = differing.split_whitespace();
    while let Some(word) = differing.next() {
        match word {
            "learner" => member.is_learner = true,
            // The founding names a member before its etcd ever ran; who joins has no name until then.
            "unpublished" => member.client_urls.clear(),
            "unstarted" => (member.name, member.client_urls) = (String::new(), Vec::new()),
            "moved" => member.peer_urls = vec![ELSEWHERE.to_owned()],
            "id" => member.id = MemberId(hex(differing.next().unwrap_or_default())?),
            "named" => differing.next().unwrap_or_default().clone_into(&mut member.name),
            _ => return not_understood(text),
        }
    }
    Ok(member)
}
