//! etcd: its settings, its HTTP interfaces and two calls by gRPC, its data directory, its ids.

pub mod alarm;
pub mod backend;
pub mod by_hand;
pub mod by_release;
pub mod client;
pub mod command;
pub mod data_dir;
pub mod defects;
pub mod grpc;
pub mod ids;
pub mod login;
mod protobuf;
pub mod raft_snapshot;
pub mod settings;
pub mod wal;
