//! Texts for etcd's alarms.

use crate::core::types::MemberId;

/// What an alarm means, and its remedy.
pub fn way_out(member: MemberId, alarm: &str) -> String {
    let way_out = match alarm {
        "NOSPACE" => {
            "its database has reached the quota, so the cluster accepts no more writes; compact and defragment, or \
             raise ETCD_QUOTA_BACKEND_BYTES; then `etcdctl alarm disarm`"
        }
        "CORRUPT" => {
            "members have different data; compare them (`etcdctl endpoint hashkv --cluster`), replace the minority, \
             then `etcdctl alarm disarm`"
        }
        _ => "see etcd's documentation on alarms",
    };
    format!("alarm {alarm} of member {member}: {way_out}")
}
