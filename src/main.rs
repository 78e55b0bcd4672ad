//! The program: runs the command line, and exits with its code.

use etcd_muster::cli;
use etcd_muster::util::exit;

#[expect(clippy::disallowed_methods, reason = "the one place that ends the program")]
fn main() {
    std::process::exit(exit::conclude(cli::main()));
}
