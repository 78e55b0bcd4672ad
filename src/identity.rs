//! From what IMDS and EC2 say to how instances are named and addressed.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::cluster::types::{Instance, InstanceId, ListedMember};
use crate::config::{Config, MemberType};
use crate::etcd::command::Settings;
use crate::etcd::data_dir::Paths;
use crate::ledger::Identity;

/// `http://host:port`, brackets around an IPv6 address.
pub fn url(host: &str, port: u16) -> String {
    match host.parse::<IpAddr>() {
        Ok(address) => format!("http://{}", SocketAddr::new(address, port)),
        Err(_) => format!("http://{host}:{port}"),
    }
}

/// How we list an instance from EC2's word alone: named by its id, at its name or address.
pub fn listed(config: &Config, instance: &Instance) -> Option<ListedMember> {
    let host = host(config.member_type, instance.address, instance.private_dns.as_deref())?;
    Some(ListedMember {
        instance: instance.id.clone(),
        name: instance.id.0.clone(),
        peer_urls: vec![url(&host, config.peer_port)],
    })
}

fn host(member_type: MemberType, address: Option<IpAddr>, name: Option<&str>) -> Option<String> {
    match member_type {
        MemberType::Ip => address.map(|a| a.to_string()),
        MemberType::Host => name.map(str::to_owned),
    }
}

/// How we want to be listed: the operator's overrides over what EC2 says.
pub fn own_listing(config: &Config, identity: &Identity) -> ListedMember {
    let host = advertised_host(config, identity);
    let urls = config.etcd.get("ETCD_INITIAL_ADVERTISE_PEER_URLS").map(|urls| split(urls));
    ListedMember {
        instance: InstanceId(identity.instance.clone()),
        name: config.etcd.get("ETCD_NAME").cloned().unwrap_or_else(|| identity.instance.clone()),
        peer_urls: urls.unwrap_or_else(|| vec![url(&host, config.peer_port)]),
    }
}

fn advertised_host(config: &Config, identity: &Identity) -> String {
    host(config.member_type, Some(identity.address), identity.hostname.as_deref())
        .unwrap_or_else(|| identity.address.to_string())
}

fn split(urls: &str) -> Vec<String> {
    urls.split(',').map(|url| url.trim().to_owned()).filter(|url| !url.is_empty()).collect()
}

/// etcd's settings on this instance.
pub fn settings(config: &Config, identity: &Identity) -> Settings {
    let listed = own_listing(config, identity);
    let address = bindable(identity.address);
    let mut client_urls = vec![url(&address.to_string(), config.client_port)];
    if !address.is_loopback() && !address.is_unspecified() {
        client_urls.push(url(&Ipv4Addr::LOCALHOST.to_string(), config.client_port));
    }
    Settings {
        name: listed.name,
        paths: Paths::on_volumes(&config.data, &config.wal, config.etcd.get("ETCD_WAL_DIR").map(AsRef::as_ref)),
        listen_peer_urls: url(&address.to_string(), config.peer_port),
        listen_client_urls: client_urls.join(","),
        advertise_peer_urls: listed.peer_urls.join(","),
        advertise_client_urls: url(&advertised_host(config, identity), config.client_port),
        operator: config.etcd.clone(),
    }
}

/// The private address, or every address where it isn't ours to bind (a bridged container).
fn bindable(address: IpAddr) -> IpAddr {
    match std::net::UdpSocket::bind((address, 0)) {
        Err(error) if error.kind() == std::io::ErrorKind::AddrNotAvailable => match address {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
        },
        _ => address,
    }
}

/// Where the roll call listens: where etcd's peer port will.
///
/// # Errors
/// The URL that names no address (etcd too wants addresses in its listen URLs).
pub fn roll_call_addresses(settings: &Settings) -> Result<Vec<SocketAddr>, String> {
    let urls = settings.operator.get("ETCD_LISTEN_PEER_URLS").unwrap_or(&settings.listen_peer_urls);
    let address = |url: String| {
        let uri = url.parse::<hyper::Uri>().ok();
        let socket = uri.as_ref().and_then(|u| {
            let host = u.host()?.trim_matches(['[', ']']);
            Some(SocketAddr::new(host.parse().ok()?, u.port_u16()?))
        });
        socket.ok_or_else(|| format!("ETCD_LISTEN_PEER_URLS={url}: write http://ADDRESS:PORT, not a name"))
    };
    split(urls).into_iter().map(address).collect()
}

/// The URL at which we reach our own etcd's clients' interface.
pub fn own_client_url(settings: &Settings) -> String {
    let urls = settings.operator.get("ETCD_LISTEN_CLIENT_URLS").unwrap_or(&settings.listen_client_urls);
    reachable(split(urls).into_iter().next().unwrap_or_default())
}

/// The URL at which we reach our own etcd's peer interface.
pub fn own_peer_url(settings: &Settings) -> String {
    let urls = settings.operator.get("ETCD_LISTEN_PEER_URLS").unwrap_or(&settings.listen_peer_urls);
    reachable(split(urls).into_iter().next().unwrap_or_default())
}

/// A listen URL of every address is reached on loopback.
fn reachable(url: String) -> String {
    url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_bracket_ipv6() {
        assert_eq!(url("10.0.0.1", 2380), "http://10.0.0.1:2380");
        assert_eq!(url("fd00::1", 2380), "http://[fd00::1]:2380");
        assert_eq!(url("ip-10-0-0-1.ec2.internal", 2379), "http://ip-10-0-0-1.ec2.internal:2379");
        assert_eq!(reachable("http://0.0.0.0:2379".to_owned()), "http://127.0.0.1:2379");
    }
}
