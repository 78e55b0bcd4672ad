//! What happened on this node, and how Prometheus, health checks and operators read it.
//!
//! The daemon pushes it, and nothing here queries: showing it makes no call to etcd or AWS. Nothing here can stop etcd.

pub mod journal;
pub mod metrics;
pub mod recorder;
pub mod server;
pub mod snapshot;
pub mod text;
