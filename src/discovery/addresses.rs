//! From the data of IMDS and EC2 to the names and addresses of instances.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use crate::config::{Etcd, MemberType, Origin, Security};
use crate::core::types::{Instance, InstanceId, ListedMember};
use crate::etcd::command::Settings;
use crate::etcd::data_dir::Paths;
use crate::state::store::Identity;
use crate::util::words;

/// `scheme://host:port`, brackets around an IPv6 address.
pub fn url(scheme: &str, host: &str, port: u16) -> String {
    match host.parse::<IpAddr>() {
        Ok(address) => format!("{scheme}://{}", SocketAddr::new(address, port)),
        Err(_) => format!("{scheme}://{host}:{port}"),
    }
}

/// The client port at that host, under this node's security.
pub fn client_url(etcd: &Etcd, host: &str) -> String {
    url(etcd.client.security.scheme(), host, etcd.client.number)
}

/// The peer port at that host, under this node's security.
pub fn peer_url(etcd: &Etcd, host: &str) -> String {
    url(etcd.peer.security.scheme(), host, etcd.peer.number)
}

/// How we list an instance from EC2's data alone: named by its id, at its name or address.
pub fn listed(etcd: &Etcd, instance: &Instance) -> Option<ListedMember> {
    let host = host(etcd.member_type, instance.address, instance.private_dns.as_deref())?;
    Some(ListedMember {
        instance: instance.id.clone(),
        name: instance.id.0.clone(),
        peer_urls: vec![peer_url(etcd, &host)],
    })
}

fn host(member_type: MemberType, address: Option<IpAddr>, name: Option<&str>) -> Option<String> {
    match member_type {
        MemberType::Ip => address.map(|a| a.to_string()),
        MemberType::Host => name.map(str::to_owned),
    }
}

/// How we want to be listed: the operator's overrides over EC2's data.
pub fn own_listing(etcd: &Etcd, identity: &Identity) -> ListedMember {
    let host = advertised_host(etcd, identity);
    let urls = etcd.settings.get("ETCD_INITIAL_ADVERTISE_PEER_URLS").map(|urls| split(urls));
    ListedMember {
        instance: InstanceId(identity.instance.clone()),
        name: etcd.settings.get("ETCD_NAME").cloned().unwrap_or_else(|| identity.instance.clone()),
        peer_urls: urls.unwrap_or_else(|| vec![peer_url(etcd, &host)]),
    }
}

fn advertised_host(etcd: &Etcd, identity: &Identity) -> String {
    host(etcd.member_type, Some(identity.address), identity.hostname.as_deref())
        .unwrap_or_else(|| identity.address.to_string())
}

/// The URLs of a list.
pub fn split(urls: &str) -> Vec<String> {
    urls.split(',').map(|url| url.trim().to_owned()).filter(|url| !url.is_empty()).collect()
}

/// The paths of etcd's data and WAL.
pub fn paths(etcd: &Etcd) -> Paths {
    Paths::on_volumes(&etcd.data, &etcd.wal, etcd.settings.get("ETCD_WAL_DIR").map(AsRef::as_ref))
}

/// etcd's settings on this instance.
pub fn settings(etcd: &Etcd, identity: &Identity) -> Settings {
    let listed = own_listing(etcd, identity);
    let address = bindable(identity.address);
    let mut client_urls = vec![client_url(etcd, &address.to_string())];
    if !address.is_loopback() && !address.is_unspecified() {
        let scheme = if etcd.loopback_http { "http" } else { etcd.client.security.scheme() };
        client_urls.push(url(scheme, &Ipv4Addr::LOCALHOST.to_string(), etcd.client.number));
    }
    Settings {
        name: listed.name,
        paths: paths(etcd),
        listen_peer_urls: peer_url(etcd, &address.to_string()),
        listen_client_urls: client_urls.join(","),
        advertise_peer_urls: listed.peer_urls.join(","),
        advertise_client_urls: client_url(etcd, &advertised_host(etcd, identity)),
        security: security(etcd),
        operator: etcd.settings.clone(),
    }
}

/// etcd's certificate settings; the operator's own are passed on unchanged.
fn security(etcd: &Etcd) -> Vec<(String, String)> {
    let side = |prefix: &str, auth: &str, security: &Security| match security {
        Security::Files(files) if files.origin != Origin::Operator => {
            let path = |path: &Path| path.display().to_string();
            let mut told = vec![
                (format!("{prefix}_CERT_FILE"), path(&files.pair.cert)),
                (format!("{prefix}_KEY_FILE"), path(&files.pair.key)),
            ];
            // etcd demands client certificates wherever it is given a CA.
            if let Some(ca) = files.ca.as_deref().filter(|_| files.demands.is_some()) {
                told.extend([(format!("{prefix}_TRUSTED_CA_FILE"), path(ca)), (auth.to_owned(), "true".to_owned())]);
            }
            told
        }
        _ => Vec::new(),
    };
    let client = side("ETCD", "ETCD_CLIENT_CERT_AUTH", &etcd.client.security);
    client.into_iter().chain(side("ETCD_PEER", "ETCD_PEER_CLIENT_CERT_AUTH", &etcd.peer.security)).collect()
}

/// The private address, or every address where we can't bind it (a bridged container).
fn bindable(address: IpAddr) -> IpAddr {
    match std::net::UdpSocket::bind((address, 0)) {
        Err(error) if error.kind() == std::io::ErrorKind::AddrNotAvailable => match address {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
        },
        _ => address,
    }
}

/// Where the peer protocol listens: at the later addresses of etcd's peer port.
///
/// # Errors
/// The URL that has no address (etcd, too, requires addresses in its listen URLs).
pub fn roll_call_addresses(settings: &Settings) -> Result<Vec<SocketAddr>, String> {
    let urls = settings.operator.get("ETCD_LISTEN_PEER_URLS").unwrap_or(&settings.listen_peer_urls);
    let address = |url: String| {
        let uri = url.parse::<hyper::Uri>().ok();
        let socket = uri.as_ref().and_then(|u| {
            let host = u.host()?.trim_matches(['[', ']']);
            Some(SocketAddr::new(host.parse().ok()?, u.port_u16()?))
        });
        socket.ok_or_else(|| {
            format!("ETCD_LISTEN_PEER_URLS={}: write SCHEME://ADDRESS:PORT, not a name", words::without_secrets(&url))
        })
    };
    split(urls).into_iter().map(address).collect()
}

/// The URL at which we reach our own etcd's client port.
pub fn own_client_url(settings: &Settings) -> String {
    let urls = settings.operator.get("ETCD_LISTEN_CLIENT_URLS").unwrap_or(&settings.listen_client_urls);
    reachable(split(urls).into_iter().next().unwrap_or_default())
}

/// The URL at which we reach our own etcd's peer port.
pub fn own_peer_url(settings: &Settings) -> String {
    let urls = settings.operator.get("ETCD_LISTEN_PEER_URLS").unwrap_or(&settings.listen_peer_urls);
    reachable(split(urls).into_iter().next().unwrap_or_default())
}

/// The hosts of a list of URLs, without brackets.
pub fn hosts(urls: &str) -> Vec<String> {
    let host = |url: String| Some(url.parse::<hyper::Uri>().ok()?.host()?.trim_matches(['[', ']']).to_owned());
    split(urls).into_iter().filter_map(host).collect()
}

/// A listen URL for all addresses is reached on loopback.
fn reachable(url: String) -> String {
    url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_bracket_ipv6() {
        assert_eq!(url("http", "10.0.0.1", 2380), "http://10.0.0.1:2380");
        assert_eq!(url("https", "fd00::1", 2380), "https://[fd00::1]:2380");
        assert_eq!(url("http", "ip-10-0-0-1.ec2.internal", 2379), "http://ip-10-0-0-1.ec2.internal:2379");
        assert_eq!(reachable("http://0.0.0.0:2379".to_owned()), "http://127.0.0.1:2379");
    }
}
