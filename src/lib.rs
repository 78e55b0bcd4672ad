//! etcd-muster: forms one etcd cluster from the EC2 instances that carry a tag, and maintains it.
//!
//! The program is `main.rs`; everything else is here, as a library so that tests, benches and fuzz targets can use it.
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
pub mod snapshot;
pub mod state;
pub mod status;
pub mod util;
