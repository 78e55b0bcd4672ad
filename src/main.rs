//! The program: what `commands` does, and the code it ends with.

use etcd_muster::cli;
use etcd_muster::util::exit;

#[expect(clippy::disallowed_methods, reason = "the one place that ends the program")]
fn main() {
    std::process::exit(exit::conclude(cli::main()));
}
