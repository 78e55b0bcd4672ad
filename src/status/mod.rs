//! What has happened on this node, and how it is told: to Prometheus, to health checks, to an operator.
//!
//! Told by the daemon, never asked for: showing it costs no question to etcd or AWS. Nothing here can stop etcd.

pub mod metrics;
pub mod recorder;
pub mod server;
pub mod snapshot;
pub mod text;
