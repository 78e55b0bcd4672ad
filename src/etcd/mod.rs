//! etcd: its settings, its HTTP interfaces, its data directory, its ids.

pub mod alarm;
pub mod client;
pub mod command;
pub mod data_dir;
pub mod ids;
pub mod login;
pub mod settings;
pub mod wal;
