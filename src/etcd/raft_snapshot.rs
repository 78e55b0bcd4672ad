//! Reads a raft snapshot (`member/snap/TERM-INDEX.snap`) as far as it decides which etcd can begin with it.
//!
//! The file is a snappb.Snapshot (crc = 1, data = 2) around a raftpb.Snapshot (data = 1, metadata = 2), whose data is the v2 store
//! as JSON. 3.6 does not start with one that holds more than the members and the cluster's version (etcd,
//! `membership.IsMetaStoreOnly`): "illegal v2store content", exit 1 (seen on 3.6.16).

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::wal::Fields;

/// The members and the cluster's version; and users and roles, of which the empty directories stay behind.
const OF_THE_CLUSTER: &str = "0";
const OF_USERS: &str = "2";

#[derive(Deserialize)]
struct Store {
    #[serde(rename = "Root")]
    root: Node,
}

#[derive(Deserialize)]
struct Node {
    #[serde(rename = "Children", default)]
    children: Option<BTreeMap<String, Directory>>,
}

#[derive(Deserialize)]
struct Directory {
    #[serde(rename = "Children", default)]
    children: Option<BTreeMap<String, IgnoredAny>>,
}

/// Whether it holds keys that clients of the v2 API have set. What can't be read holds none that are known: etcd itself must judge it,
/// and refuses what it can't read.
pub fn has_v2_keys(file: &[u8]) -> bool {
    let store = Fields(file).bytes(2).and_then(|snapshot| Fields(snapshot).bytes(1));
    let store = store.and_then(|json| serde_json::from_slice::<Store>(json).ok());
    let directories = store.and_then(|store| store.root.children).unwrap_or_default();
    let of_clients = directories.into_iter().filter(|(name, _)| name != OF_THE_CLUSTER && name != OF_USERS);
    // A name that begins so is hidden: etcd's own check does not see it (`store.Get`, "_").
    let is_seen = |name: &String| !name.starts_with('_');
    of_clients.filter_map(|(_, directory)| directory.children).any(|children| children.keys().any(is_seen))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field of bytes, of up to 16,383.
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let length = [bytes.len() as u8 & 0x7f | 0x80, (bytes.len() >> 7) as u8];
        [&[number << 3 | 2][..], &length, bytes].concat()
    }

    fn file(store: &str) -> Vec<u8> {
        let snapshot = [field(1, store.as_bytes()), field(2, b"\x0a\x00\x10\x05\x18\x02")].concat();
        [b"\x08\xba\x82\xb9\xe6\x0a".to_vec(), field(2, &snapshot)].concat()
    }

    /// As 3.5.33 wrote it, shortened to what is read; `keys` are those of clients.
    fn store(keys: &str) -> String {
        let node = |path: &str, children: &str| {
            format!(
                r#"{{"Path":"{path}","CreatedIndex":0,"ExpireTime":"0001-01-01T00:00:00Z","Value":"","Children":{children}}}"#
            )
        };
        let version = format!(r#"{{"version":{}}}"#, node("/0/version", "null"));
        let top = format!(r#"{{"0":{},"1":{}}}"#, node("/0", &version), node("/1", keys));
        format!(r#"{{"Root":{},"WatcherHub":{{}},"CurrentIndex":7,"CurrentVersion":2}}"#, node("/", &top))
    }

    #[test]
    fn keys_of_clients_are_told_from_what_etcd_keeps_there() {
        let mine = r#"{"mine":{"Path":"/1/mine","Value":"1","Children":null}}"#;
        assert!(has_v2_keys(&file(&store(mine))));
        for none in ["{}", "null", r#"{"_hidden":{"Path":"/1/_hidden","Value":"1","Children":null}}"#] {
            assert!(!has_v2_keys(&file(&store(none))), "{none}");
        }
        let users = r#"{"Root":{"Children":{"2":{"Children":{"roles":{"Children":{}},"users":{"Children":{}}}}}}}"#;
        assert!(!has_v2_keys(&file(users)), "what is left of users that were removed");
    }

    #[test]
    fn what_cannot_be_read_is_never_a_finding_and_never_a_panic() {
        let whole = file(&store(r#"{"mine":{"Children":null}}"#));
        for end in 0..whole.len() {
            assert!(!has_v2_keys(&whole[..end]), "cut at {end}");
        }
        assert!(!has_v2_keys(&file("")) && !has_v2_keys(&file("null")) && !has_v2_keys(&file(r#"{"Root":null}"#)));
    }
}
