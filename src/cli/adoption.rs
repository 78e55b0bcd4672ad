//! From a member that was set up by hand to the settings with which etcd-muster runs it in place. What can't be carried over as it
//! is blocks the adoption, with the way out.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use crate::core::types::Member;
use crate::discovery::addresses::{split, url};
use crate::etcd::by_hand::Given;
use crate::etcd::settings::{self, Kind};
use crate::state::store::Identity;

/// etcd's defaults.
const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;

/// What is known of the member.
pub(super) struct ByHand<'a> {
    pub(super) given: &'a Given,
    pub(super) data: &'a Path,
    /// The variable that names the WAL's place, and its value.
    pub(super) wal: (&'static str, String),
    /// As the cluster lists it, or its own data does.
    pub(super) member: &'a Member,
    /// The other members.
    pub(super) others: Vec<&'a Member>,
    /// This host, as the roster has it.
    pub(super) own: &'a Identity,
    /// Names that lead to this host alone.
    pub(super) own_names: &'a BTreeSet<String>,
}

/// The settings, with what there is to say about them.
#[derive(Default)]
pub(super) struct Translated {
    pub(super) settings: Vec<(String, String)>,
    pub(super) notes: Vec<String>,
    pub(super) blockers: Vec<String>,
}

impl Translated {
    pub(super) fn set(&mut self, name: &str, value: impl ToString) {
        self.settings.push((name.to_owned(), value.to_string()));
    }
}

/// The settings of ours that have the same effect.
pub(super) fn translate(by_hand: &ByHand<'_>) -> Translated {
    let mut to = Translated::default();
    to.set("ED_DATA", by_hand.data.display());
    to.set(by_hand.wal.0, &by_hand.wal.1);
    let name = if by_hand.member.name.is_empty() { by_hand.given("NAME", "default") } else { &by_hand.member.name };
    if name != by_hand.own.instance {
        to.set("ETCD_NAME", name);
    }
    let peer = by_hand.peer_side(&mut to);
    let client = by_hand.client_side(&mut to);
    by_hand.reachable_at(&mut to, peer, client);
    by_hand.pass_on(&mut to);
    to
}

impl ByHand<'_> {
    fn given(&self, name: &str, default: &'static str) -> &str {
        self.given.get(&format!("ETCD_{name}")).map_or(default, String::as_str)
    }

    fn is_here(&self, host: &str) -> bool {
        is_same_host(host, &self.own.address.to_string()) || self.own.hostname.as_deref() == Some(host)
    }

    /// The peer URLs decide how this host is listed: the cluster's word, for after a bootstrap etcd ignores its flags.
    fn peer_side(&self, to: &mut Translated) -> u16 {
        let (urls, address) = (&self.member.peer_urls, self.own.address.to_string());
        let listed: Vec<(String, String, u16)> = urls.iter().filter_map(|url| parts(url)).collect();
        let Some((scheme, host, port)) = listed.iter().find(|(_, host, _)| self.is_here(host)) else {
            let (scheme, _, port) = listed.into_iter().next().unwrap_or(("http".to_owned(), String::new(), PEER_PORT));
            let names = self.own.hostname.iter().map(|name| format!(" or {name}")).collect::<String>();
            to.blockers.push(format!(
                "the member is listed at {}, but this host is {address}{names} to the other supervisors; change that \
                 first: etcdctl member update {} --peer-urls={}",
                urls.join(","),
                self.member.id,
                url(&scheme, &address, port)
            ));
            to.set("PEER_PORT", port);
            return port;
        };
        let is_address = is_same_host(host, &address);
        to.set("ETCD_MEMBER_TYPE", if is_address { "ip" } else { "host" });
        to.set("PEER_PORT", port);
        if *urls != [url(scheme, host, *port)] {
            to.set("ETCD_INITIAL_ADVERTISE_PEER_URLS", urls.join(","));
        }
        self.listen(to, "ETCD_LISTEN_PEER_URLS", &[url(scheme, &address, *port)]);
        *port
    }

    fn client_side(&self, to: &mut Translated) -> u16 {
        const ADVERTISED: &str = "ETCD_ADVERTISE_CLIENT_URLS";
        const LISTENED: &str = "ETCD_LISTEN_CLIENT_URLS";
        let told = self.given.get(ADVERTISED).map(|urls| split(urls));
        let urls =
            if self.member.client_urls.is_empty() { told.unwrap_or_default() } else { self.member.client_urls.clone() };
        let listened = self.given.get(LISTENED).map(|urls| split(urls)).unwrap_or_default();
        let here = |urls: &[String]| {
            urls.iter()
                .filter_map(|url| parts(url))
                .find(|(_, host, _)| self.is_here(host) || self.own_names.contains(host))
        };
        let found = here(&urls).or_else(|| listened.iter().find_map(|url| parts(url)));
        let (scheme, _, port) = found.unwrap_or(("http".to_owned(), String::new(), CLIENT_PORT));
        to.set("CLNT_PORT", port);
        let address = self.own.address.to_string();
        let ours = [url(&scheme, &address, port), url(&scheme, &Ipv4Addr::LOCALHOST.to_string(), port)];
        self.listen(to, LISTENED, &ours);
        let leads_here =
            |url: &String| parts(url).is_some_and(|(_, host, _)| self.is_here(&host) || self.own_names.contains(&host));
        if !urls.iter().all(leads_here) {
            // Supervisors ask each member at the URLs that it advertises.
            to.notes.push(format!(
                "{ADVERTISED}={} is left out: it does not lead to this host alone, as a balancer's name does not; etcd-muster \
                 advertises {}, and clients that know the other name keep it",
                urls.join(","),
                ours[0]
            ));
        } else if !urls.is_empty() && urls != ours[..1] {
            to.set(ADVERTISED, urls.join(","));
        }
        port
    }

    /// Where etcd listens, unless etcd-muster has it listen there by itself.
    fn listen(&self, to: &mut Translated, name: &str, ours: &[String]) {
        let Some(given) = self.given.get(name) else { return };
        if split(given).iter().any(|url| url.starts_with("unix")) {
            to.blockers.push(format!(
                "{name}={given}: etcd-muster reaches etcd by http and https only; have etcd listen at {} instead",
                ours.join(",")
            ));
            return;
        }
        // A listener has an address, as etcd itself wants it; this name is the one that it takes.
        let urls: Vec<String> = split(given).iter().map(|url| url.replace("//localhost:", "//127.0.0.1:")).collect();
        if !urls.iter().all(|url| ours.contains(url)) {
            to.set(name, urls.join(","));
        } else if !urls.contains(&ours[0]) {
            to.notes.push(format!("{name}={given}: etcd-muster has etcd listen at {} as well", ours[0]));
        }
    }

    /// Supervisors look for every member at its host's address, at the ports of their own.
    fn reachable_at(&self, to: &mut Translated, peer: u16, client: u16) {
        for other in &self.others {
            for (urls, name, port) in [(&other.peer_urls, "PEER_PORT", peer), (&other.client_urls, "CLNT_PORT", client)]
            {
                let ports: Vec<u16> = urls.iter().filter_map(|url| parts(url)).map(|(_, _, port)| port).collect();
                if !ports.is_empty() && !ports.contains(&port) {
                    to.blockers.push(format!(
                        "member {} {} is at {}, and this one at port {port}; the hosts of one cluster have the same {name}: \
                         give them one port first",
                        other.id,
                        other.name,
                        urls.join(",")
                    ));
                }
            }
        }
    }

    /// Everything else is handed to etcd as it was.
    fn pass_on(&self, to: &mut Translated) {
        // (The gateway is on wherever no configuration file is used, and etcd-muster uses none.)
        const CARRIED: [&str; 8] = [
            "ETCD_ENABLE_GRPC_GATEWAY",
            "ETCD_NAME",
            "ETCD_DATA_DIR",
            "ETCD_WAL_DIR",
            "ETCD_LISTEN_PEER_URLS",
            "ETCD_LISTEN_CLIENT_URLS",
            "ETCD_INITIAL_ADVERTISE_PEER_URLS",
            "ETCD_ADVERTISE_CLIENT_URLS",
        ];
        for (name, value) in self.given.iter().filter(|(name, _)| !CARRIED.contains(&name.as_str())) {
            match settings::kind(name) {
                Kind::Passed => to.set(name, value),
                Kind::Token | Kind::Forbidden(_) => {
                    to.notes
                        .push(format!("{name} is left out: it is of a bootstrap, and this cluster has had its own"));
                }
                Kind::Foreign => to.notes.push(format!("{name} is left out: no etcd has such a setting")),
            }
        }
    }
}

/// Scheme, host without brackets, and port.
fn parts(url: &str) -> Option<(String, String, u16)> {
    let uri = url.parse::<hyper::Uri>().ok()?;
    Some((uri.scheme_str()?.to_owned(), uri.host()?.trim_matches(['[', ']']).to_owned(), uri.port_u16()?))
}

fn is_same_host(one: &str, other: &str) -> bool {
    let address = |host: &str| host.parse::<IpAddr>().ok();
    one == other || (address(one).is_some() && address(one) == address(other))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::types::MemberId;
    use crate::etcd::by_hand;

    fn member(name: &str, id: u64, peer: &[&str], client: &[&str]) -> Member {
        let urls = |urls: &[&str]| urls.iter().map(|url| (*url).to_owned()).collect();
        Member {
            id: MemberId(id),
            name: name.to_owned(),
            peer_urls: urls(peer),
            client_urls: urls(client),
            is_learner: false,
        }
    }

    fn translated(member: &Member, others: &[Member], flags: &[&str]) -> Translated {
        let own = Identity {
            instance: "i-1".to_owned(),
            region: None,
            address: [10, 0, 0, 1].into(),
            hostname: Some("db-1.internal".to_owned()),
            partition: None,
        };
        translate(&ByHand {
            given: &by_hand::of_flags(flags.iter().copied()).unwrap(),
            data: Path::new("/d"),
            wal: ("ED_WAL", "/d/member".to_owned()),
            member,
            others: others.iter().collect(),
            own: &own,
            own_names: &BTreeSet::from(["etcd-a.example.com".to_owned()]),
        })
    }

    fn lines(to: &Translated) -> String {
        to.settings.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_the_supervisor_does_by_itself_is_not_repeated() {
        let listed = member("i-1", 1, &["http://10.0.0.1:2380"], &["http://10.0.0.1:2379"]);
        let flags = [
            "--listen-client-urls=http://localhost:2379,http://10.0.0.1:2379",
            "--listen-peer-urls=http://10.0.0.1:2380",
        ];
        let to = translated(
            &listed,
            &[],
            &[&flags[..], &["--initial-cluster=a=b", "--snapshot-count=5", "--odd=1"]].concat(),
        );
        let expected =
            "ED_DATA=/d ED_WAL=/d/member ETCD_MEMBER_TYPE=ip PEER_PORT=2380 CLNT_PORT=2379 ETCD_SNAPSHOT_COUNT=5";
        assert_eq!(lines(&to), expected);
        assert!(to.blockers.is_empty() && to.notes.len() == 2, "{:?} {:?}", to.blockers, to.notes);
    }

    #[test]
    fn foreign_names_ports_and_urls_are_kept() {
        let peers = ["https://db-1.internal:7001", "https://10.9.9.9:7001"];
        let listed = member("etcd-a", 1, &peers, &["https://etcd-a.example.com:4001"]);
        let to = translated(
            &listed,
            &[],
            &["--listen-client-urls=https://0.0.0.0:4001", "--listen-peer-urls=https://0.0.0.0:7001"],
        );
        let expected = "ED_DATA=/d ED_WAL=/d/member ETCD_NAME=etcd-a ETCD_MEMBER_TYPE=host PEER_PORT=7001 \
                        ETCD_INITIAL_ADVERTISE_PEER_URLS=https://db-1.internal:7001,https://10.9.9.9:7001 \
                        ETCD_LISTEN_PEER_URLS=https://0.0.0.0:7001 CLNT_PORT=4001 ETCD_LISTEN_CLIENT_URLS=https://0.0.0.0:4001 \
                        ETCD_ADVERTISE_CLIENT_URLS=https://etcd-a.example.com:4001";
        assert_eq!(lines(&to), expected);
        assert!(to.blockers.is_empty(), "{:?}", to.blockers);
    }

    #[test]
    fn what_cant_be_carried_over_blocks_and_names_the_way_out() {
        let listed = member("a", 0xab, &["https://10.9.9.9:2380"], &[]);
        let to = translated(&listed, &[], &[]);
        let way_out = "etcdctl member update ab --peer-urls=https://10.0.0.1:2380";
        assert!(to.blockers.len() == 1 && to.blockers[0].ends_with(way_out), "{:?}", to.blockers);

        let listed = member("a", 1, &["http://10.0.0.1:2380"], &[]);
        let to = translated(&listed, &[], &["--listen-client-urls=unix:///run/etcd.sock"]);
        assert!(to.blockers.len() == 1 && to.blockers[0].contains("unix:///run/etcd.sock"), "{:?}", to.blockers);

        let other = member("b", 2, &["http://10.0.0.2:2381"], &["http://10.0.0.2:2379"]);
        let to = translated(&listed, &[other], &[]);
        assert!(to.blockers.len() == 1 && to.blockers[0].contains("the same PEER_PORT"), "{:?}", to.blockers);
    }

    /// Members that advertise a balancer would be taken for each other.
    #[test]
    fn a_balancers_name_is_not_advertised_as_a_members() {
        let advertising = |url| translated(&member("i-1", 1, &["http://10.0.0.1:2380"], &[url]), &[], &[]);
        let to = advertising("http://etcd.example.com:2379");
        assert!(!lines(&to).contains("ADVERTISE") && to.notes[0].contains("as a balancer's name"), "{}", lines(&to));
        let kept = lines(&advertising("http://etcd-a.example.com:2379"));
        assert!(kept.ends_with("ETCD_ADVERTISE_CLIENT_URLS=http://etcd-a.example.com:2379"), "{kept}");
    }
}
