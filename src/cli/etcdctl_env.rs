//! `etcdctl-env`: what makes plain etcdctl work on this node.

use argh::FromArgs;

use super::terminal;
use crate::config::{Config, Security};
use crate::discovery::addresses;
use crate::state::store::Store;

/// Print the exports that make etcdctl work on this node: eval "$(etcd-muster etcdctl-env)".
#[derive(FromArgs)]
#[argh(subcommand, name = "etcdctl-env")]
pub(super) struct EtcdctlEnv {}

impl EtcdctlEnv {
    pub(super) fn run(&self, config: &Config) -> i32 {
        for (name, value) in exports(config) {
            terminal::for_a_shell(&format!("export {name}={}", quoted(&value)));
        }
        0
    }
}

fn exports(config: &Config) -> Vec<(&'static str, String)> {
    let own = Store::peek_identity(&config.data).ok().flatten();
    let settings = own.as_ref().map(|own| addresses::settings(config, own));
    let url = settings.as_ref().map_or_else(|| addresses::client_url(config, "127.0.0.1"), addresses::own_client_url);
    let mut exports = vec![("ETCDCTL_API", "3".to_owned()), ("ETCDCTL_ENDPOINTS", url.clone())];
    let path = |path: &std::path::Path| path.display().to_string();
    match &config.client {
        Security::Plain => {}
        Security::Files(files) => {
            // Without a CA it vouches for itself.
            exports.push(("ETCDCTL_CACERT", path(files.ca.as_deref().unwrap_or(&files.pair.cert))));
            exports.push(("ETCDCTL_CERT", path(&files.pair.cert)));
            exports.push(("ETCDCTL_KEY", path(&files.pair.key)));
        }
        // It vouches for itself, at the address it was made for.
        Security::Automatic => {
            exports.push(("ETCDCTL_CACERT", path(&config.data.join("fixtures/client/cert.pem"))));
        }
    }
    // etcdctl asks for the password by itself.
    exports.extend(config.etcd_user.as_ref().map(|(user, _)| ("ETCDCTL_USER", user.clone())));
    exports
}

/// As one word of a shell.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_one_word() {
        assert_eq!(quoted("/etc/it's here"), r"'/etc/it'\''s here'");
    }
}
