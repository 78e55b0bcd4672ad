//! How we reach members, and how they reach us: each port with its own security.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use crate::config::{Etcd, Files, Security};
use crate::core::types::Roster;
use crate::discovery::addresses;
use crate::etcd::client::Client;
use crate::etcd::login::Login;
use crate::net::http;
use crate::net::pki;
use crate::net::tls::{Acceptor, Believed, Names, Trust};
use crate::state::store::Identity;
use crate::util::clock;

/// Clients of both ports.
#[derive(Clone, Debug)]
pub struct PeerClients {
    /// For other supervisors, at the peer port.
    pub rollcall: http::Client,
    pub etcd: Client,
    names: Names,
    own: Vec<String>,
}

impl PeerClients {
    /// The clients with which this node reaches members. `own`: our identity, if known.
    pub fn new(config: &Etcd, own: Option<&Identity>) -> Self {
        let own = own_hosts(config, own);
        let names = Names::default();
        // Our own certificate need not be valid for loopback.
        own.iter().for_each(|host| names.learn(host, own.clone()));
        let fixture = |side: &str| config.data.join("fixtures").join(side).join("cert.pem");
        let trust = |security, side| http::Client::new(trust(security, fixture(side), &own, &names));
        let (client, peer) = (trust(&config.client.security, "client"), trust(&config.peer.security, "peer"));
        let login = config.user.clone().map(|(user, file)| Login::new(user, file));
        Self { etcd: Client::new(client, peer.clone(), login), rollcall: peer, names, own }
    }

    /// At an instance's address a certificate for its private name is accepted, too.
    pub fn learn(&self, roster: &Roster) {
        for instance in roster.non_terminated() {
            let host = instance.address.map(|address| address.to_string());
            if let Some(host) = host.filter(|host| !self.own.contains(host)) {
                let name = instance.private_dns.clone().filter(|name| !name.is_empty());
                self.names.learn(&host, name.into_iter().collect());
            }
        }
    }
}

/// The certificate of the peer protocol, and its requirements for callers; `None`: plain HTTP. Automatic: its own unverifiable
/// certificate, because etcd would use whatever lay in its fixtures.
///
/// # Errors
/// No key can be generated.
pub fn acceptor(security: &Security) -> Result<Option<Acceptor>, pki::Fault> {
    Ok(match security {
        Security::Plain => None,
        Security::Files(Files { pair, demands, .. }) => Some(Acceptor::of_files(pair.clone(), demands.clone())),
        Security::Automatic => Some(Acceptor::of_memory(pki::ephemeral(clock::epoch())?)),
    })
}

/// Every name of this node under which its own ports may be reached, or certified.
fn own_hosts(config: &Etcd, own: Option<&Identity>) -> Vec<String> {
    let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()].map(|a| a.to_string());
    let told = own.into_iter().flat_map(|own| [Some(own.address.to_string()), own.hostname.clone()]).flatten();
    let advertised = ["ETCD_ADVERTISE_CLIENT_URLS", "ETCD_INITIAL_ADVERTISE_PEER_URLS"];
    let advertised =
        advertised.into_iter().filter_map(|name| config.settings.get(name)).flat_map(|urls| addresses::hosts(urls));
    told.chain(loopback).chain(advertised).collect()
}

fn trust(security: &Security, fixture: PathBuf, own: &[String], names: &Names) -> Trust {
    match security {
        // A node with plain HTTP meets https only if another member advertises it.
        Security::Plain => Trust::new(Believed::Public { beside: Vec::new() }, None, names.clone()),
        Security::Automatic => Trust::new(Believed::Anybody, None, names.clone()).pinning(own.to_vec(), fixture),
        Security::Files(Files { pair, ca: Some(ca), .. }) => {
            Trust::new(Believed::SignedBy(ca.clone()), Some(pair.clone()), names.clone())
        }
        // Others are verified only by public CAs; our own etcd by the certificate stored here.
        Security::Files(Files { pair, ca: None, .. }) => {
            Trust::new(Believed::Public { beside: Vec::new() }, Some(pair.clone()), names.clone())
                .pinning(own.to_vec(), pair.cert.clone())
        }
    }
}
