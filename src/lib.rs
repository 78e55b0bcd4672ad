//! etcd-muster: EC2 instances that carry a tag become one etcd cluster, and stay one.
//!
//! The program is `main.rs`; this is everything under it, as a library so that tests, benches and fuzz targets reach it.
#![deny(clippy::print_stdout, reason = "cli/terminal.rs alone prints")]

pub use muster_core as core;

pub mod aws;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod discovery;
pub mod etcd;
pub mod net;
pub mod peer;
pub mod process;
pub mod state;
pub mod status;
pub mod util;
