//! Which machine this is, shown without the metadata service and without a record on any disk.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

/// On Nitro instances the firmware's asset tag is the instance id ("Detect whether a host is an EC2 instance", EC2 User Guide;
/// readable by everyone).
const ASSET_TAG: &str = "/sys/devices/virtual/dmi/id/board_asset_tag";

/// The firmware's value; empty if it has none.
pub fn asset_tag() -> String {
    fs::read_to_string(ASSET_TAG).unwrap_or_default().trim().to_owned()
}

/// Whether an address is this host's own: the only one that could use it to connect to itself. (Binding it proves less: with
/// ip_nonlocal_bind any address can be bound.) Nothing is sent. All of 127.0.0.0/8 belongs to every host.
pub fn is_local(address: IpAddr) -> bool {
    address.is_loopback() || has_interface(address)
}

/// Whether an interface has that address.
pub fn has_interface(address: IpAddr) -> bool {
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let towards = || {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect((address, 9))?;
        socket.local_addr()
    };
    towards().is_ok_and(|from| from.ip() == address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_ours_if_an_interface_has_it() {
        assert!(has_interface([127, 0, 0, 1].into()));
        assert!(!has_interface([127, 0, 0, 2].into()), "it can be bound, and no interface has it");
        assert!(is_local([127, 0, 0, 2].into()));
        // TEST-NET-1 and the documentation prefix are nobody's.
        assert!(!is_local([192, 0, 2, 1].into()) && !is_local("2001:db8::1".parse().unwrap()));
    }
}
