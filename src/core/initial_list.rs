//! Which initial lists are possible at all. A list that etcd would refuse is refused when it arrives, before anything is agreed
//! on: a chosen list that can't be started would keep a fleet down for good.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::types::{InitialList, ListedMember};

/// The longest possible DNS name (RFC 1035); etcd accepts any length.
const LONGEST_NAME: usize = 253;
/// Our own tokens are far shorter: the prefix, the nonce, the round.
const LONGEST_TOKEN: usize = 512;

impl ListedMember {
    /// Whether both name the same member at the same URLs, in any order.
    pub fn is_same(&self, other: &Self) -> bool {
        self.name == other.name && same_urls(&self.peer_urls, &other.peer_urls)
    }

    /// What is wrong with the entry, if anything.
    pub fn fault(&self) -> Option<String> {
        let name = || name_fault(&self.name).map(|why| format!("the name {:?} of {} {why}", self.name, self.instance));
        let url = |url: &String| url_fault(url).map(|why| format!("the peer URL {url:?} of {} {why}", self.instance));
        let none = || self.peer_urls.is_empty().then(|| format!("{} has no peer URL", self.instance));
        name().or_else(|| self.peer_urls.iter().find_map(url)).or_else(none)
    }
}

impl InitialList {
    /// Why no etcd can start under the list, if so. The rule depends only on the list, so that all nodes judge it alike.
    pub fn fault(&self) -> Option<String> {
        if self.members.is_empty() {
            return Some("the list is empty".to_owned());
        }
        if let Some(why) = token_fault(&self.token) {
            return Some(format!("the token {:?} {why}", self.token));
        }
        if let Some(why) = self.seed.as_ref().and_then(|seed| seed.fault()) {
            return Some(why);
        }
        let (mut instances, mut names, mut urls) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        self.members.iter().find_map(|member| {
            let twice = |what: &str| Some(format!("{what} of {} occurs twice", member.instance));
            member.fault().or_else(|| match () {
                () if !instances.insert(&member.instance) => twice("the entry"),
                () if !names.insert(&member.name) => twice("the name"),
                () if !member.peer_urls.iter().all(|url| urls.insert(url)) => twice("a peer URL"),
                () => None,
            })
        })
    }
}

/// Whether two lists of URLs have the same elements, in any order.
pub fn same_urls(a: &[String], b: &[String]) -> bool {
    a.len() == b.len() && a.iter().all(|url| b.contains(url))
}

/// A DHCP option set with several domain names makes one host name of them ("ip-10-0-0-1.ec2.internal example.com", as the
/// metadata service and EC2 report it): returns the first, or `None` if no part can be a host name.
pub fn first_host_name(text: &str) -> Option<String> {
    let first = text.split_whitespace().next()?.trim_end_matches('.');
    is_host(first).then(|| first.to_owned())
}

fn is_host(host: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !host.is_empty() && host.len() <= LONGEST_NAME && host.chars().all(fits)
}

/// Why that is not a valid member name. etcd's `--initial-cluster` is `name=url,name=url`; quotes are what `docker --env-file`
/// leaves.
pub fn name_fault(name: &str) -> Option<&'static str> {
    let odd = |c: char| c.is_control() || c.is_whitespace() || "=,\"'".contains(c);
    match name {
        "" => Some("is empty; unset ETCD_NAME, or write a name"),
        name if name.len() > LONGEST_NAME => Some("is longer than 253 bytes"),
        name if name.contains(odd) => Some("contains a quote, a blank, a comma, an equals sign or a control character"),
        _ => None,
    }
}

/// Why that is not a valid cluster token.
pub fn token_fault(token: &str) -> Option<&'static str> {
    match token {
        "" => Some("is empty"),
        token if token.len() > LONGEST_TOKEN => Some("is longer than 512 bytes"),
        token if token.contains(|c: char| c.is_control() || c.is_whitespace()) => {
            Some("contains a blank or a control character")
        }
        _ => None,
    }
}

/// Why etcd would not accept that as a peer URL (`types.NewURLs`: scheme://host:port, and nothing after it).
pub fn url_fault(url: &str) -> Option<&'static str> {
    let Some(rest) = ["http://", "https://"].iter().find_map(|scheme| url.strip_prefix(scheme)) else {
        return Some("has no scheme; write http://HOST:PORT or https://HOST:PORT");
    };
    let (host, port) = match rest.strip_prefix('[') {
        Some(inner) => match inner.split_once("]:") {
            Some((address, port)) if address.parse().is_ok_and(|a: IpAddr| a.is_ipv6()) => (None, port),
            _ => return Some("has no IPv6 address and port; write http://[fd00::1]:2380"),
        },
        None => match rest.split_once(':') {
            Some((host, port)) => (Some(host), port),
            None => return Some("has no port; write http://HOST:PORT"),
        },
    };
    if !port.bytes().all(|b| b.is_ascii_digit()) || port.parse::<u16>().ok().is_none_or(|port| port == 0) {
        return Some("has no port from 1 to 65535, or text after it; write http://HOST:PORT");
    }
    match host {
        Some(host) if !is_host(host) => Some("has no valid host name or address; write http://HOST:PORT"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::InstanceId;

    #[test]
    fn what_etcd_takes_is_taken() {
        for url in [
            "http://10.0.0.1:2380",
            "https://ip-10-0-0-1.ec2.internal:2380",
            "http://[fd00::1]:2380",
            "http://db_1:1",
            "http://10.0.0.1:65535",
        ] {
            assert_eq!(url_fault(url), None, "{url}");
        }
        for name in ["i-0a", "node_1", "10.0.0.1", "\u{e9}t\u{e9}"] {
            assert_eq!(name_fault(name), None, "{name}");
        }
    }

    #[test]
    fn what_it_refuses_is_refused() {
        for url in [
            "",
            "10.0.0.1:2380",
            "ftp://10.0.0.1:2380",
            "http://10.0.0.1",
            "http://10.0.0.1:",
            "http://10.0.0.1:0",
            "http://10.0.0.1:65536",
            "http://10.0.0.1:+1",
            "http://10.0.0.1:2380/",
            "http://10.0.0.1:2380/x",
            "http://a b:2380",
            "http://ip-10-0-0-1.ec2.internal other.example:2380",
            "http://u@h:2380",
            "http://[fd00::1]",
            "http://[db-1]:2380",
            "http://fd00::1:2380",
            "http://:2380",
            "http://x\0:2380",
            "http://a,b:2380",
        ] {
            assert!(url_fault(url).is_some(), "{url:?}");
        }
        for name in
            ["", "x=http://192.0.2.1:2380,db-3", "\"node-1\"", "'node-1'", "a b", "a\0", "a\n", &"n".repeat(254)]
        {
            assert!(name_fault(name).is_some(), "{name:?}");
        }
        for token in ["", "a b", "a\nb", &"t".repeat(513)] {
            assert!(token_fault(token).is_some(), "{token:?}");
        }
    }

    #[test]
    fn of_several_names_the_first_is_a_hosts() {
        let two = "ip-10-0-0-1.ec2.internal other.example";
        assert_eq!(first_host_name(two).as_deref(), Some("ip-10-0-0-1.ec2.internal"));
        assert_eq!(first_host_name(" db-1. ").as_deref(), Some("db-1"));
        for none in ["", " ", ".", "a=b", "\u{e9}"] {
            assert_eq!(first_host_name(none), None, "{none:?}");
        }
    }

    #[test]
    fn nothing_is_listed_twice() {
        let member = |id: &str, name: &str, url: &str| ListedMember {
            instance: InstanceId(id.to_owned()),
            name: name.to_owned(),
            peer_urls: vec![format!("http://{url}:2380")],
        };
        let fault = |members: &[ListedMember]| InitialList::empty(members.to_vec(), "t".to_owned()).fault();
        let a = member("i-a", "a", "a");
        assert_eq!(fault(&[a.clone(), member("i-b", "b", "b")]), None);
        for twin in [member("i-a", "b", "b"), member("i-b", "a", "b"), member("i-b", "b", "a")] {
            assert!(fault(&[a.clone(), twin]).is_some_and(|why| why.contains("twice")));
        }
        assert!(fault(&[]).is_some());
        assert!(fault(&[ListedMember { peer_urls: Vec::new(), ..a }]).is_some());
    }
}
