//! How etcd's two ports are secured: plain, files, etcd's automatic certificates, or certificates that we make.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Problem, Reader};
use crate::etcd::data_dir::MUSTER_DIR;
use crate::net::tls::{Demands, KeyFiles};
use crate::util::words;

/// How one of etcd's ports is secured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Security {
    Plain,
    Files(Files),
    /// etcd makes its own certificates: encrypted, but nobody is who he says he is.
    Automatic,
}

impl Security {
    /// The scheme of the port's URLs.
    pub fn scheme(&self) -> &'static str {
        match self {
            Self::Plain => "http",
            Self::Files(_) | Self::Automatic => "https",
        }
    }
}

/// A certificate in files, and what other certificates are measured by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Files {
    pub pair: KeyFiles,
    /// Verifies servers; without one only public roots do.
    pub ca: Option<PathBuf>,
    /// What clients must show, if anything.
    pub demands: Option<Demands>,
    pub origin: Origin,
}

/// Who has put the files there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// etcd's own variables name them.
    Operator,
    /// They lie in `ED_SSL`.
    Folder,
    /// We make them, by `MUSTER_CA_CERT` and `MUSTER_CA_KEY`.
    Minted,
}

/// What certificates are made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Minting {
    pub ca_cert: PathBuf,
    pub ca_key: CaKey,
    pub life: Duration,
    /// Names and addresses beside the node's own.
    pub extra_sans: Vec<String>,
    /// Where they are kept.
    pub dir: PathBuf,
}

/// Where the CA's key is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CaKey {
    File(PathBuf),
    /// The name of a parameter in AWS Systems Manager's Parameter Store.
    Parameter(String),
}

/// One side's variables.
struct Side {
    schema: &'static str,
    /// What etcd's own variables begin with.
    etcd: &'static str,
    /// What the original's variables begin with, and the files in `ED_SSL`.
    ours: &'static str,
    file: &'static str,
    auto: &'static str,
    auth: &'static str,
    /// Who else is not let in, by etcd's own variables.
    revoked: &'static str,
    common_names: &'static str,
    hosts: &'static str,
}

const CLIENT: Side = Side {
    schema: "CLNT_SCHEMA",
    etcd: "ETCD",
    ours: "CLIENT",
    file: "client",
    auto: "ETCD_AUTO_TLS",
    auth: "ETCD_CLIENT_CERT_AUTH",
    revoked: "ETCD_CLIENT_CRL_FILE",
    common_names: "",
    hosts: "ETCD_CLIENT_CERT_ALLOWED_HOSTNAME",
};

const PEER: Side = Side {
    schema: "PEER_SCHEMA",
    etcd: "ETCD_PEER",
    ours: "PEER",
    file: "peer",
    auto: "ETCD_PEER_AUTO_TLS",
    auth: "ETCD_PEER_CLIENT_CERT_AUTH",
    revoked: "ETCD_PEER_CRL_FILE",
    common_names: "ETCD_PEER_CERT_ALLOWED_CN",
    hosts: "ETCD_PEER_CERT_ALLOWED_HOSTNAME",
};

/// A leaf lives three months: long enough for any outage of whoever has the CA's key, short enough to be renewed in earnest.
const LEAF_LIFE_SECONDS: u64 = 90 * 24 * 3600;

/// What tests need; nobody renews faster in earnest.
const SHORTEST_LEAF_LIFE: Duration = Duration::from_secs(5);

/// A secret stands where its file's name is wanted: it must not be shown.
pub fn is_secret(name: &str, value: &str) -> bool {
    match name {
        "MUSTER_CA_KEY" => value.contains("-----BEGIN") || value.contains('\n'),
        "MUSTER_ETCD_PASSWORD_FILE" => !value.is_empty() && !value.starts_with('/'),
        _ => false,
    }
}

/// A variable's value as it may be shown anywhere; `None`: not at all. URLs are shown without what may be secret in them.
pub fn shown(name: &str, value: &str) -> Option<String> {
    // What is no URL by the letter can't be cut like one; the words of ETCD_OPTS may be anything, and a discovery service's URL is its
    // token.
    let wants_url = name.starts_with("AWS_ENDPOINT_URL")
        || ["AWS_EC2_METADATA_SERVICE_ENDPOINT", "AWS_CONTAINER_CREDENTIALS_FULL_URI"].contains(&name);
    let is_kept = is_secret(name, value)
        || name == "ETCD_OPTS"
        || name.starts_with("ETCD_DISCOVERY")
        || ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN"].contains(&name)
        || name.to_ascii_lowercase().ends_with("_proxy")
        || name == "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"
        || value.contains("-----BEGIN")
        || (wants_url && value.contains(char::is_whitespace))
        || (wants_url && !value.contains("://") && value.contains(['@', '?']));
    (!is_kept || value.is_empty()).then(|| words::without_secrets(value).into_owned())
}

impl Reader<'_> {
    /// Both sides, the client's first, and what is minted for them, if anything is.
    pub(super) fn security(&mut self, data: &Path) -> (Security, Security, Option<Minting>) {
        let minting = self.minting(data);
        let client = self.side(&CLIENT, minting.as_ref());
        let peer = self.side(&PEER, minting.as_ref());
        let is_minted = |side: &Security| matches!(side, Security::Files(files) if files.origin == Origin::Minted);
        let used = is_minted(&client) || is_minted(&peer);
        (client, peer, minting.filter(|_| used))
    }

    fn minting(&mut self, data: &Path) -> Option<Minting> {
        let life = self.duration("MUSTER_LEAF_LIFE", LEAF_LIFE_SECONDS);
        if life < SHORTEST_LEAF_LIFE {
            self.wrong("MUSTER_LEAF_LIFE", "is too short to be renewed in time; write 90d, at least 5s");
        }
        let extra_sans = self.extra_sans();
        let cert = self.text("MUSTER_CA_CERT").map(PathBuf::from);
        let key = self.text("MUSTER_CA_KEY").map(str::to_owned);
        let (ca_cert, key) = match (cert, key) {
            (Some(cert), Some(key)) => (cert, key),
            (None, None) => return None,
            (Some(_), None) => {
                self.wrong("MUSTER_CA_KEY", "is missing beside MUSTER_CA_CERT; give a file, or ssm:/name");
                return None;
            }
            (None, Some(_)) => {
                self.wrong("MUSTER_CA_CERT", "is missing beside MUSTER_CA_KEY; give the CA's certificate");
                return None;
            }
        };
        if is_secret("MUSTER_CA_KEY", &key) {
            self.problems.push(Problem(
                "MUSTER_CA_KEY: is the key itself (not shown); write it into a file, and name that, or ssm:/name"
                    .to_owned(),
            ));
            return None;
        }
        // (Systems Manager API Reference, "GetParameter": the names.)
        let is_name =
            |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "/_.-:".contains(c));
        let ca_key = match key.strip_prefix("ssm:") {
            None => CaKey::File(PathBuf::from(key)),
            Some(name) if is_name(name) => CaKey::Parameter(name.to_owned()),
            Some(_) => {
                self.wrong("MUSTER_CA_KEY", "names no parameter; write ssm:/name");
                return None;
            }
        };
        Some(Minting { ca_cert, ca_key, life, extra_sans, dir: data.join(MUSTER_DIR).join("tls") })
    }

    fn extra_sans(&mut self) -> Vec<String> {
        const NAME: &str = "MUSTER_EXTRA_SANS";
        let value = self.text(NAME).unwrap_or_default().to_owned();
        let sans: Vec<String> =
            value.split(',').map(|san| san.trim().to_owned()).filter(|san| !san.is_empty()).collect();
        let is_name = |san: &str| san.chars().all(|c| c.is_ascii_alphanumeric() || ".-_*".contains(c));
        if let Some(wrong) = sans.iter().find(|san| san.parse::<IpAddr>().is_err() && !is_name(san)) {
            self.wrong(NAME, format!("{wrong:?} is neither a name nor an address; write etcd.example.com,10.0.0.9"));
        }
        sans
    }

    /// The first that matches: etcd's own variables, automatic, files in `ED_SSL`, minted, plain.
    fn side(&mut self, side: &Side, minting: Option<&Minting>) -> Security {
        let schema = self.choice(side.schema, &[("http", "http"), ("https", "https")]);
        let schema = self.text(side.schema).map(|_| schema);
        let (security, because) = match self.named_files(side).or_else(|| self.automatic(side)) {
            Some(found) => found,
            None => match self.folder_files(side) {
                Some(found) => found,
                None if schema == Some("https") => return self.minted(side, minting),
                None => return Security::Plain,
            },
        };
        if schema == Some("http") {
            self.wrong(side.schema, format!("but {because}; unset one of them"));
        }
        security
    }

    fn minted(&mut self, side: &Side, minting: Option<&Minting>) -> Security {
        let Some(minting) = minting else {
            let (file, auto, ssl) = (side.file, side.auto, self.path("ED_SSL", "/etcd/ssl"));
            self.wrong(
                side.schema,
                format!(
                    "there is no certificate for it; put {file}.crt, {file}.key and {file}_ca.crt into {}, or set \
                     MUSTER_CA_CERT and MUSTER_CA_KEY, or {auto}=true",
                    ssl.display()
                ),
            );
            return Security::Plain;
        };
        if self.etcd_text(side.common_names).is_some() {
            self.wrong(side.common_names, "certificates that are minted here have no common name; unset it");
        }
        Security::Files(Files {
            pair: KeyFiles { cert: minting.dir.join("leaf.crt"), key: minting.dir.join("leaf.key") },
            ca: Some(minting.ca_cert.clone()),
            demands: self.demands(side, Some(&minting.ca_cert)),
            origin: Origin::Minted,
        })
    }

    fn named_files(&mut self, side: &Side) -> Option<(Security, String)> {
        let variable = |file: &str| format!("{}_{file}", side.etcd);
        let (cert, key) = (variable("CERT_FILE"), variable("KEY_FILE"));
        let trusted = variable("TRUSTED_CA_FILE");
        let pair = match (self.etcd_text(&cert), self.etcd_text(&key)) {
            (None, None) => {
                if let Some(value) = self.etcd_text(&trusted) {
                    let file = side.file;
                    self.problems.push(Problem(format!(
                        "{trusted}={value}: is set without {cert} and {key}, so that etcd and its supervisor would trust different \
                         CAs; set those too, or put it into ED_SSL as {file}_ca.crt"
                    )));
                }
                return None;
            }
            (Some(cert), Some(key)) => KeyFiles { cert: cert.into(), key: key.into() },
            (Some(_), None) => {
                self.wrong(&key, format!("is missing beside {cert}"));
                return None;
            }
            (None, Some(_)) => {
                self.wrong(&cert, format!("is missing beside {key}"));
                return None;
            }
        };
        let ca = self.etcd_text(&trusted).map(PathBuf::from);
        // Whatever it is told about client certificates: with a CA etcd demands them (transport.TLSInfo.ServerConfig).
        let demands = ca.as_deref().map(|ca| self.demands_of(side, ca));
        let because = format!("{cert}={}", pair.cert.display());
        Some((Security::Files(Files { pair, ca, demands, origin: Origin::Operator }), because))
    }

    fn automatic(&self, side: &Side) -> Option<(Security, String)> {
        let value = self.etcd_text(side.auto)?;
        // (Go's strconv.ParseBool.)
        let is_true = ["1", "t", "T", "true", "TRUE", "True"].contains(&value.as_str());
        is_true.then(|| (Security::Automatic, format!("{}={value}", side.auto)))
    }

    fn folder_files(&mut self, side: &Side) -> Option<(Security, String)> {
        let ssl = self.path("ED_SSL", "/etcd/ssl");
        let file = |name: &str, default: &str| {
            let variable = format!("{}_{name}", side.ours);
            let given = self.text(&variable).map(str::to_owned);
            let is_given = given.is_some();
            let path = ssl.join(given.unwrap_or_else(|| format!("{}{default}", side.file)));
            (is_given || path.exists()).then_some(path)
        };
        let (cert, key, ca) = (file("CERT_FILE", ".crt"), file("KEY_FILE", ".key"), file("TRUSTED_CA_FILE", "_ca.crt"));
        let Some(cert) = cert else {
            // Half of a set is no wish for plain.
            if let Some(lonely) = key.or(ca) {
                let cert = ssl.join(format!("{}.crt", side.file));
                self.problems.push(Problem(format!(
                    "{}: there is no {} beside it; put the certificate there, or move this file away",
                    lonely.display(),
                    cert.display()
                )));
            }
            return None;
        };
        if side.file == "peer" && ca.is_none() {
            self.problems.push(Problem(format!(
                "{}: there is no {} beside it, by which members verify each other; put the CA's certificate there",
                cert.display(),
                ssl.join("peer_ca.crt").display()
            )));
        }
        let because = format!("{} is there", cert.display());
        let files = Files {
            demands: self.demands(side, ca.as_deref()),
            ca,
            pair: KeyFiles { key: key.unwrap_or_else(|| ssl.join(format!("{}.key", side.file))), cert },
            origin: Origin::Folder,
        };
        Some((Security::Files(files), because))
    }

    /// With a CA, clients must show a certificate, unless the operator says otherwise. Among peers etcd knows no such choice.
    fn demands(&self, side: &Side, ca: Option<&Path>) -> Option<Demands> {
        let refused = ["0", "f", "F", "false", "FALSE", "False"];
        let does =
            side.file == "peer" || self.etcd_text(side.auth).is_none_or(|value| !refused.contains(&value.as_str()));
        ca.filter(|_| does).map(|ca| self.demands_of(side, ca))
    }

    fn demands_of(&self, side: &Side, ca: &Path) -> Demands {
        let list = |variable: &str| {
            let value = self.etcd_text(variable).unwrap_or_default();
            value.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
        };
        Demands {
            ca: ca.to_owned(),
            revoked: self.etcd_text(side.revoked).map(PathBuf::from),
            common_names: list(side.common_names),
            hosts: list(side.hosts),
        }
    }

    /// One of etcd's own settings; `ETCD_OPTS` wins over a variable.
    fn etcd_text(&self, name: &str) -> Option<String> {
        self.given.get(name).filter(|value| !value.is_empty()).cloned()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use super::*;
    use crate::config::{Config, read};

    /// An `ED_SSL` that holds these (empty) files, and the settings beside it.
    struct Node(PathBuf);

    impl Node {
        fn with(name: &str, files: &[&str]) -> Self {
            let ssl = std::env::temp_dir().join(format!("etcd-muster-ssl-{}-{name}", std::process::id()));
            fs::create_dir_all(&ssl).unwrap();
            files.iter().for_each(|file| fs::write(ssl.join(file), "").unwrap());
            Self(ssl)
        }

        fn read(&self, settings: &[(&str, &str)]) -> Result<Config, Vec<String>> {
            let ssl = self.0.display().to_string();
            let all = settings.iter().copied().chain([("ED_SSL", ssl.as_str())]);
            let env: BTreeMap<_, _> = all.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            read(&env).map_err(|problems| problems.iter().map(ToString::to_string).collect())
        }

        /// Client and peer side, in a word each.
        fn sides(&self, settings: &[(&str, &str)]) -> (String, String) {
            let config = self.read(settings).unwrap();
            let word = |security: &Security| match security {
                Security::Plain => "plain".to_owned(),
                Security::Automatic => "automatic".to_owned(),
                Security::Files(files) => format!("{:?}", files.origin),
            };
            (word(&config.client), word(&config.peer))
        }

        fn problem(&self, settings: &[(&str, &str)]) -> String {
            match self.read(settings) {
                Err(problems) if problems.len() == 1 => problems[0].replace(&self.0.display().to_string(), "SSL"),
                other => panic!("{other:?}"),
            }
        }
    }

    impl Drop for Node {
        #[expect(clippy::disallowed_methods, reason = "the test's own scratch directory")]
        fn drop(&mut self) {
            let _gone = fs::remove_dir_all(&self.0);
        }
    }

    const CA: [(&str, &str); 2] = [("MUSTER_CA_CERT", "/ca.crt"), ("MUSTER_CA_KEY", "ssm:/etcd/ca-key")];
    const ALL: [&str; 6] = ["client.crt", "client.key", "client_ca.crt", "peer.crt", "peer.key", "peer_ca.crt"];

    fn words(client: &str, peer: &str) -> (String, String) {
        (client.to_owned(), peer.to_owned())
    }

    #[test]
    fn the_first_that_matches_counts_for_each_side_by_itself() {
        let (bare, full) = (Node::with("bare", &[]), Node::with("full", &ALL));
        assert_eq!(bare.sides(&[]), words("plain", "plain"));
        assert_eq!(bare.sides(&CA), words("plain", "plain"), "a CA alone asks for nothing");
        assert_eq!(full.sides(&[]), words("Folder", "Folder"));
        assert_eq!(full.sides(&[("ETCD_AUTO_TLS", "true")]), words("automatic", "Folder"));
        assert_eq!(full.sides(&[("ETCD_OPTS", "--peer-auto-tls")]), words("Folder", "automatic"));
        let named = [("ETCD_CERT_FILE", "/c"), ("ETCD_KEY_FILE", "/k"), ("ETCD_AUTO_TLS", "true")];
        assert_eq!(full.sides(&named), words("Operator", "Folder"));
        let minted = |side| [CA[0], CA[1], (side, "https")];
        assert_eq!(bare.sides(&minted("CLNT_SCHEMA")), words("Minted", "plain"));
        assert_eq!(bare.sides(&minted("PEER_SCHEMA")), words("plain", "Minted"));
        assert_eq!(full.sides(&minted("PEER_SCHEMA")), words("Folder", "Folder"), "files win");
        assert!(
            bare.read(&CA).unwrap().minting.is_none() && bare.read(&minted("PEER_SCHEMA")).unwrap().minting.is_some()
        );
    }

    #[test]
    fn clients_are_asked_for_a_certificate_where_there_is_a_ca() {
        let (full, served) = (Node::with("asks", &ALL), Node::with("serves", &ALL[..2]));
        let demands = |node: &Node, settings: &[(&str, &str)]| {
            let config = node.read(settings).unwrap();
            let of = |security: &Security| matches!(security, Security::Files(Files { demands: Some(_), .. }));
            (of(&config.client), of(&config.peer))
        };
        assert_eq!(demands(&full, &[]), (true, true));
        assert_eq!(demands(&served, &[]), (false, false));
        assert_eq!(demands(&full, &[("ETCD_CLIENT_CERT_AUTH", "false")]), (false, true));
        assert_eq!(
            demands(&full, &[("ETCD_PEER_CLIENT_CERT_AUTH", "false")]),
            (true, true),
            "etcd knows no such choice"
        );
        let Security::Files(Files { ca, .. }) = full.read(&[("ETCD_CLIENT_CERT_AUTH", "false")]).unwrap().client else {
            panic!("no files");
        };
        assert!(ca.is_some(), "it still verifies servers");
    }

    #[test]
    fn contradictions_are_problems_that_name_both_sides() {
        let (bare, full) = (Node::with("none", &[]), Node::with("both", &ALL));
        let plain = full.problem(&[("CLNT_SCHEMA", "http")]);
        assert_eq!(plain, "CLNT_SCHEMA=http: but SSL/client.crt is there; unset one of them");
        let plain = bare.problem(&[("PEER_SCHEMA", "http"), ("ETCD_PEER_AUTO_TLS", "true")]);
        assert_eq!(plain, "PEER_SCHEMA=http: but ETCD_PEER_AUTO_TLS=true; unset one of them");
        assert!(
            bare.problem(&[("CLNT_SCHEMA", "https")])
                .starts_with("CLNT_SCHEMA=https: there is no certificate for it; put")
        );
        assert!(Node::with("lonely", &["client_ca.crt"]).problem(&[]).contains("there is no SSL/client.crt beside it"));
        assert!(
            Node::with("peer", &["peer.crt", "peer.key"])
                .problem(&[])
                .contains("there is no SSL/peer_ca.crt beside it")
        );
        assert!(
            bare.problem(&[("ETCD_KEY_FILE", "/k")]).starts_with("ETCD_CERT_FILE=: is missing beside ETCD_KEY_FILE")
        );
        assert!(bare.problem(&CA[..1]).starts_with("MUSTER_CA_KEY=: is missing beside MUSTER_CA_CERT"));
        assert!(bare.problem(&[CA[0], ("MUSTER_CA_KEY", "ssm:")]).contains("names no parameter"));
        let key = bare.problem(&[CA[0], ("MUSTER_CA_KEY", "-----BEGIN PRIVATE KEY-----\nMIGH")]);
        assert!(key.starts_with("MUSTER_CA_KEY: is the key itself") && !key.contains("MIGH"), "{key}");
        let password = [("MUSTER_ETCD_USER", "root"), ("MUSTER_ETCD_PASSWORD_FILE", "hunter2")];
        assert!(!bare.problem(&password).contains("hunter2"));
        assert!(bare.problem(&[("ETCD_TRUSTED_CA_FILE", "/ca")]).contains("would trust different CAs"));
        assert!(bare.problem(&[CA[0], CA[1], ("MUSTER_LEAF_LIFE", "500ms")]).contains("is too short"));
        assert!(bare.problem(&[("MUSTER_EXTRA_SANS", "a b")]).contains("neither a name nor an address"));
        assert!(bare.problem(&[("MUSTER_ETCD_USER", "root")]).starts_with("MUSTER_ETCD_PASSWORD_FILE=: is missing"));
    }
}
