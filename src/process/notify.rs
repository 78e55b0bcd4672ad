//! systemd's notification socket (sd_notify(3)). etcd doesn't inherit it: it would call itself ready for us.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use crate::words;

/// Tells the service manager, if there is one.
#[derive(Clone, Debug)]
pub struct Notify(Option<String>);

impl Notify {
    /// To the socket that `NOTIFY_SOCKET` names.
    pub fn to(socket: Option<String>) -> Self {
        Self(socket)
    }

    /// Sends `READY=1`, `STOPPING=1`, `STATUS=…`; a manager that can't be reached changes nothing. One assignment at a time: a second line
    /// in a reason would be another to systemd, as `MAINPID=1`.
    pub fn tell(&self, state: &str) {
        let Some(path) = &self.0 else { return };
        let state = words::on_one_line(state);
        let address = match path.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(path),
        };
        let sent = address.and_then(|a| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &a));
        if let Err(error) = sent {
            log::warn!("NOTIFY_SOCKET={path}: {error}");
        }
    }
}
