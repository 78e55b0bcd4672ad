//! etcd-muster: EC2 instances that carry a tag become one etcd cluster, and stay one.
//!
//! The program is `main.rs`; this is everything under it, as a library so that tests, benches and fuzz targets reach it.
#![deny(clippy::print_stdout, reason = "commands/terminal.rs alone prints")]

pub mod act;
pub mod attend;
pub mod aws;
pub mod claim;
pub mod clock;
pub mod cloud;
pub mod cluster;
pub mod commands;
pub mod config;
pub mod daemon;
pub mod etcd;
pub mod exit;
pub mod file;
pub mod hook;
pub mod http;
pub mod identity;
pub mod keeper;
pub mod leave;
pub mod ledger;
pub mod listen;
pub mod logger;
pub mod machine;
pub mod meter;
pub mod notice;
pub mod observe;
pub mod pki;
pub mod process;
pub mod proxy;
pub mod questions;
pub mod reach;
pub mod reconcile;
pub mod rollcall;
pub mod roster;
pub mod startup;
pub mod status;
pub mod tls;
pub mod words;
