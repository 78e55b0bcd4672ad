//! systemd's notification socket (sd_notify(3)). etcd does not inherit it, because it would report readiness for us.

use std::convert::Infallible;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::util::clock;

/// How long to wait for a manager that hangs.
const PATIENCE: Duration = Duration::from_secs(1);

use crate::util::words;

/// Notifies the service manager, if there is one.
#[derive(Clone, Debug)]
pub struct Notify(Option<String>);

impl Notify {
    /// To the socket that `NOTIFY_SOCKET` names.
    pub fn to(socket: Option<String>) -> Self {
        Self(socket)
    }

    /// Sends `READY=1`, `STOPPING=1`, `STATUS=…`; a manager that can't be reached changes nothing. One assignment at a time:
    /// systemd would read a second line in a reason as another one, such as `MAINPID=1`.
    pub fn tell(&self, state: &str) {
        let Some(path) = &self.0 else { return };
        let state = words::on_one_line(state);
        let address = match path.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(path),
        };
        let send = |address: SocketAddr| -> io::Result<()> {
            let socket = UnixDatagram::unbound()?;
            socket.set_write_timeout(Some(PATIENCE))?;
            socket.send_to_addr(state.as_bytes(), &address).map(|_| ())
        };
        if let Err(error) = address.and_then(send) {
            log::warn!("NOTIFY_SOCKET={path}: {error}");
        }
    }

    /// Sends the manager's watchdog a heartbeat twice in each of its periods, as long as the main loop is alive.
    pub async fn feed_watchdog(&self, period: Duration, is_alive: impl Fn() -> bool) -> Infallible {
        loop {
            if is_alive() {
                self.tell("WATCHDOG=1");
            }
            clock::pause(period / 2).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn the_watchdog_is_fed_while_there_is_life_and_no_longer() {
        let path = std::env::temp_dir().join(format!("etcd-muster-notify-{}", clock::random()));
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_nonblocking(true).unwrap();
        let notify = Notify::to(path.to_str().map(str::to_owned));
        let asked = Cell::new(0);
        let is_alive = || {
            asked.set(asked.get() + 1);
            asked.get() <= 2
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let fed = notify.feed_watchdog(Duration::from_millis(2), is_alive);
            let enough = async {
                while asked.get() < 10 {
                    clock::pause(Duration::from_millis(1)).await;
                }
            };
            tokio::select! {
                never = fed => match never {},
                () = enough => {}
            }
        });
        let mut told = Vec::new();
        let mut datagram = [0; 64];
        while let Ok(length) = manager.recv(&mut datagram) {
            told.push(String::from_utf8_lossy(&datagram[..length]).into_owned());
        }
        assert_eq!(told, ["WATCHDOG=1", "WATCHDOG=1"]);
        std::fs::remove_file(path).unwrap();
    }
}
