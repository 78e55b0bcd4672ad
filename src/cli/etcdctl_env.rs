//! `etcdctl-env`: the environment that makes plain etcdctl work on this node.

use argh::FromArgs;

use super::terminal;
use crate::config::{Etcd, Security};
use crate::discovery::addresses;
use crate::state::store::Store;

/// Print the exports that make etcdctl work on this node: eval "$(etcd-muster etcdctl-env)".
#[derive(FromArgs)]
#[argh(subcommand, name = "etcdctl-env")]
pub(super) struct EtcdctlEnv {}

impl EtcdctlEnv {
    pub(super) fn run(&self, config: &Etcd) -> i32 {
        for (name, value) in exports(config) {
            terminal::for_a_shell(&format!("export {name}={}", quoted(&value)));
        }
        0
    }
}

fn exports(config: &Etcd) -> Vec<(&'static str, String)> {
    let own = Store::peek_identity(&config.data).ok().flatten();
    let settings = own.as_ref().map(|own| addresses::settings(config, own));
    let url = settings.as_ref().map_or_else(|| addresses::client_url(config, "127.0.0.1"), addresses::own_client_url);
    let mut exports = vec![("ETCDCTL_API", "3".to_owned()), ("ETCDCTL_ENDPOINTS", url.clone())];
    let path = |path: &std::path::Path| path.display().to_string();
    match &config.client.security {
        Security::Plain => {}
        Security::Files(files) => {
            // Without a CA the server certificate is trusted itself.
            exports.push(("ETCDCTL_CACERT", path(files.ca.as_deref().unwrap_or(&files.pair.cert))));
            exports.push(("ETCDCTL_CERT", path(&files.pair.cert)));
            exports.push(("ETCDCTL_KEY", path(&files.pair.key)));
        }
        // The automatic certificate is trusted itself; it is valid for one address.
        Security::Automatic => {
            exports.push(("ETCDCTL_CACERT", path(&config.data.join("fixtures/client/cert.pem"))));
        }
    }
    // etcdctl prompts for the password.
    exports.extend(config.user.as_ref().map(|(user, _)| ("ETCDCTL_USER", user.clone())));
    exports
}

/// Quoted as one word for a shell.
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
