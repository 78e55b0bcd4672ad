//! How etcd's two ports are secured: plain, with files, with etcd's automatic certificates, or with certificates that we issue.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::variables::{self, Variable};
use super::{Problem, Reader};
use crate::etcd::data_dir::MUSTER_DIR;
use crate::net::tls::{Demands, KeyFiles};
use crate::util::words;

/// How one of etcd's ports is secured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Security {
    Plain,
    Files(Files),
    /// etcd makes its own certificates: encrypted, but no identity is proven.
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

/// A certificate in files, and the requirements for others' certificates.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Files {
    pub pair: KeyFiles,
    /// Verifies servers; without it only public roots do.
    pub ca: Option<PathBuf>,
    /// The requirements for clients' certificates, if any.
    pub demands: Option<Demands>,
    pub origin: Origin,
}

/// Where the files come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// etcd's own variables name them.
    Operator,
    /// They are in `ED_SSL`.
    Folder,
    /// We issue them, with `MUSTER_CA_CERT` and `MUSTER_CA_KEY`.
    Minted,
}

/// The settings for issuing certificates.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Minting {
    pub ca_cert: PathBuf,
    pub ca_key: CaKey,
    pub life: Duration,
    /// Names and addresses besides the node's own.
    pub extra_sans: Vec<String>,
    /// The directory of the issued certificates.
    pub dir: PathBuf,
}

/// The source of the CA's key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CaKey {
    File(PathBuf),
    /// The name of a parameter in AWS Systems Manager's Parameter Store.
    Parameter(String),
}

impl CaKey {
    /// Whether it can be a parameter's name (Systems Manager API Reference, "GetParameter").
    pub(super) fn is_parameter(name: &str) -> bool {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "/_.-:".contains(c))
    }
}

/// One side's variables.
struct Side {
    scheme: &'static Variable,
    /// The prefix of etcd's own variables.
    etcd: &'static str,
    /// The prefix of the files in `ED_SSL`,
    file: &'static str,
    /// and the variables that rename them.
    cert: &'static Variable,
    key: &'static Variable,
    ca: &'static Variable,
    auto: &'static str,
    auth: &'static str,
    /// etcd's own variables that restrict clients further.
    revoked: &'static str,
    common_names: &'static str,
    hosts: &'static str,
}

static CLIENT: Side = Side {
    scheme: &variables::CLIENT_SCHEME,
    etcd: "ETCD",
    file: "client",
    cert: &variables::CLIENT_CERT_FILE,
    key: &variables::CLIENT_KEY_FILE,
    ca: &variables::CLIENT_CA_FILE,
    auto: "ETCD_AUTO_TLS",
    auth: "ETCD_CLIENT_CERT_AUTH",
    revoked: "ETCD_CLIENT_CRL_FILE",
    common_names: "",
    hosts: "ETCD_CLIENT_CERT_ALLOWED_HOSTNAME",
};

static PEER: Side = Side {
    scheme: &variables::PEER_SCHEME,
    etcd: "ETCD_PEER",
    file: "peer",
    cert: &variables::PEER_CERT_FILE,
    key: &variables::PEER_KEY_FILE,
    ca: &variables::PEER_CA_FILE,
    auto: "ETCD_PEER_AUTO_TLS",
    auth: "ETCD_PEER_CLIENT_CERT_AUTH",
    revoked: "ETCD_PEER_CRL_FILE",
    common_names: "ETCD_PEER_CERT_ALLOWED_CN",
    hosts: "ETCD_PEER_CERT_ALLOWED_HOSTNAME",
};

/// For tests; no production setting renews more often.
const SHORTEST_VALIDITY: Duration = Duration::from_secs(5);

/// A secret was given instead of its file's name: it must not be shown.
pub fn is_secret(name: &str, value: &str) -> bool {
    match variables::find(name).map_or(name, |variable| variable.name) {
        "MUSTER_CA_KEY" => value.contains("-----BEGIN") || value.contains('\n'),
        "MUSTER_ETCD_PASSWORD_FILE" | "MUSTER_S3_SECRET_ACCESS_KEY_FILE" => {
            !value.is_empty() && !value.starts_with('/')
        }
        "MUSTER_SNAPSHOT_KEY" => !value.is_empty() && !value.starts_with('/') && !value.starts_with("ssm:"),
        // Anything but a path or KMS's words may be a customer key.
        "MUSTER_SNAPSHOT_SSE" => !value.is_empty() && !value.starts_with('/') && !value.starts_with("aws:"),
        "MUSTER_S3_SECRET_ACCESS_KEY" => true,
        _ => false,
    }
}

/// A variable's value, safe to show anywhere; `None`: it must not be shown. URLs are shown without their secrets.
pub fn shown(name: &str, value: &str) -> Option<String> {
    // A malformed URL can't be cut like one; the words of ETCD_OPTS may be anything, and a discovery service's URL is its
    // token.
    let wants_url = name.starts_with("AWS_ENDPOINT_URL")
        || ["MUSTER_S3_ENDPOINT", "AWS_EC2_METADATA_SERVICE_ENDPOINT", "AWS_CONTAINER_CREDENTIALS_FULL_URI"]
            .contains(&name);
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

impl Reader {
    /// Both sides, the client's first, and the issuing settings, if certificates are issued.
    pub(super) fn security(&mut self, data: &Path) -> (Security, Security, Option<Minting>) {
        let minting = self.minting(data);
        let client = self.side(&CLIENT, minting.as_ref());
        let peer = self.side(&PEER, minting.as_ref());
        let is_minted = |side: &Security| matches!(side, Security::Files(files) if files.origin == Origin::Minted);
        let used = is_minted(&client) || is_minted(&peer);
        (client, peer, minting.filter(|_| used))
    }

    fn minting(&mut self, data: &Path) -> Option<Minting> {
        let life = self.duration(&variables::CERT_VALIDITY);
        if life < SHORTEST_VALIDITY {
            self.wrong(variables::CERT_VALIDITY.name, "is too short to be renewed in time; write 90d, at least 5s");
        }
        let extra_sans = self.extra_sans();
        let cert = self.text(variables::CA_CERT.name).map(PathBuf::from);
        let key = self.text(variables::CA_KEY.name).map(str::to_owned);
        let (ca_cert, key) = match (cert, key) {
            (Some(cert), Some(key)) => (cert, key),
            (None, None) => return None,
            (Some(_), None) => {
                self.wrong(variables::CA_KEY.name, "is missing: MUSTER_CA_CERT is set; give a file, or ssm:/name");
                return None;
            }
            (None, Some(_)) => {
                self.wrong(variables::CA_CERT.name, "is missing: MUSTER_CA_KEY is set; give the CA's certificate");
                return None;
            }
        };
        if is_secret(variables::CA_KEY.name, &key) {
            self.problems.push(Problem(
                "MUSTER_CA_KEY: is the key itself (not shown); write it into a file and give the path, or give ssm:/name"
                    .to_owned(),
            ));
            return None;
        }
        let ca_key = match key.strip_prefix("ssm:") {
            None => CaKey::File(PathBuf::from(key)),
            Some(name) if CaKey::is_parameter(name) => CaKey::Parameter(name.to_owned()),
            Some(_) => {
                self.wrong(variables::CA_KEY.name, "has no parameter name; write ssm:/name");
                return None;
            }
        };
        Some(Minting { ca_cert, ca_key, life, extra_sans, dir: data.join(MUSTER_DIR).join("tls") })
    }

    fn extra_sans(&mut self) -> Vec<String> {
        const NAME: &str = variables::EXTRA_SANS.name;
        let value = self.text(NAME).unwrap_or_default().to_owned();
        let sans: Vec<String> =
            value.split(',').map(|san| san.trim().to_owned()).filter(|san| !san.is_empty()).collect();
        let is_name = |san: &str| san.chars().all(|c| c.is_ascii_alphanumeric() || ".-_*".contains(c));
        if let Some(wrong) = sans.iter().find(|san| san.parse::<IpAddr>().is_err() && !is_name(san)) {
            self.wrong(NAME, format!("{wrong:?} is neither a name nor an address; write etcd.example.com,10.0.0.9"));
        }
        sans
    }

    /// The first that applies: etcd's own variables, automatic, files in `ED_SSL`, issued, plain.
    fn side(&mut self, side: &Side, minting: Option<&Minting>) -> Security {
        let scheme = self.choice_or(side.scheme, &[("http", Some("http")), ("https", Some("https"))], None);
        let (security, because) = match self.named_files(side).or_else(|| self.automatic(side)) {
            Some(found) => found,
            None => match self.folder_files(side) {
                Some(found) => found,
                None if scheme == Some("https") => return self.minted(side, minting),
                None => return Security::Plain,
            },
        };
        if scheme == Some("http") {
            self.wrong(side.scheme.name, format!("but {because}; unset one of them"));
        }
        security
    }

    fn minted(&mut self, side: &Side, minting: Option<&Minting>) -> Security {
        let Some(minting) = minting else {
            let (auto, ssl) = (side.auto, self.path(&variables::SSL));
            self.wrong(
                side.scheme.name,
                format!(
                    "there is no certificate for it; put {}, {} and {} into {}, or set MUSTER_CA_CERT and MUSTER_CA_KEY, or \
                     {auto}=true",
                    side.cert.default,
                    side.key.default,
                    side.ca.default,
                    ssl.display()
                ),
            );
            return Security::Plain;
        };
        if self.etcd_text(side.common_names).is_some() {
            self.wrong(side.common_names, "certificates issued here have no common name; unset it");
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
                    let file = side.ca.default;
                    self.problems.push(Problem(format!(
                        "{trusted}={value}: is set without {cert} and {key}, so etcd and its supervisor would trust \
                         different CAs; set those too, or put the CA into ED_SSL as {file}"
                    )));
                }
                return None;
            }
            (Some(cert), Some(key)) => KeyFiles { cert: cert.into(), key: key.into() },
            (Some(_), None) => {
                self.wrong(&key, format!("is missing: {cert} is set"));
                return None;
            }
            (None, Some(_)) => {
                self.wrong(&cert, format!("is missing: {key} is set"));
                return None;
            }
        };
        let ca = self.etcd_text(&trusted).map(PathBuf::from);
        // Whatever the setting about client certificates: with a CA etcd demands them (transport.TLSInfo.ServerConfig).
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
        let ssl = self.path(&variables::SSL);
        let file = |variable: &'static Variable| {
            let path = ssl.join(self.text_or_default(variable));
            (self.text(variable.name).is_some() || path.exists()).then_some(path)
        };
        let (cert, key, ca) = (file(side.cert), file(side.key), file(side.ca));
        let Some(cert) = cert else {
            // An incomplete set of files does not mean plain HTTP.
            if let Some(lonely) = key.or(ca) {
                let cert = ssl.join(side.cert.default);
                self.problems.push(Problem(format!(
                    "{}: its certificate {} is missing; put it there, or move this file away",
                    lonely.display(),
                    cert.display()
                )));
            }
            return None;
        };
        if side.file == "peer" && ca.is_none() {
            self.problems.push(Problem(format!(
                "{}: the CA {}, with which members verify each other, is missing; put the CA's certificate there",
                cert.display(),
                ssl.join(side.ca.default).display()
            )));
        }
        let because = format!("{} exists", cert.display());
        let files = Files {
            demands: self.demands(side, ca.as_deref()),
            ca,
            pair: KeyFiles { key: key.unwrap_or_else(|| ssl.join(side.key.default)), cert },
            origin: Origin::Folder,
        };
        Some((Security::Files(files), because))
    }

    /// With a CA, clients must present a certificate, unless the operator says otherwise. Among peers etcd has no such choice.
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

    /// One of etcd's own settings; `ETCD_OPTS` overrides a variable.
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
            (word(&config.etcd.client.security), word(&config.etcd.peer.security))
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
            bare.read(&CA).unwrap().etcd.minting.is_none()
                && bare.read(&minted("PEER_SCHEMA")).unwrap().etcd.minting.is_some()
        );
    }

    #[test]
    fn clients_are_asked_for_a_certificate_where_there_is_a_ca() {
        let (full, served) = (Node::with("asks", &ALL), Node::with("serves", &ALL[..2]));
        let demands = |node: &Node, settings: &[(&str, &str)]| {
            let config = node.read(settings).unwrap();
            let of = |security: &Security| matches!(security, Security::Files(Files { demands: Some(_), .. }));
            (of(&config.etcd.client.security), of(&config.etcd.peer.security))
        };
        assert_eq!(demands(&full, &[]), (true, true));
        assert_eq!(demands(&served, &[]), (false, false));
        assert_eq!(demands(&full, &[("ETCD_CLIENT_CERT_AUTH", "false")]), (false, true));
        assert_eq!(
            demands(&full, &[("ETCD_PEER_CLIENT_CERT_AUTH", "false")]),
            (true, true),
            "etcd knows no such choice"
        );
        let Security::Files(Files { ca, .. }) =
            full.read(&[("ETCD_CLIENT_CERT_AUTH", "false")]).unwrap().etcd.client.security
        else {
            panic!("no files");
        };
        assert!(ca.is_some(), "it still verifies servers");
    }

    #[test]
    fn contradictions_are_problems_that_name_both_sides() {
        let (bare, full) = (Node::with("none", &[]), Node::with("both", &ALL));
        let plain = full.problem(&[("CLNT_SCHEMA", "http")]);
        assert_eq!(plain, "CLNT_SCHEMA=http: but SSL/client.crt exists; unset one of them");
        let plain = bare.problem(&[("PEER_SCHEMA", "http"), ("ETCD_PEER_AUTO_TLS", "true")]);
        assert_eq!(plain, "PEER_SCHEMA=http: but ETCD_PEER_AUTO_TLS=true; unset one of them");
        assert!(
            bare.problem(&[("CLNT_SCHEMA", "https")])
                .starts_with("CLNT_SCHEMA=https: there is no certificate for it; put")
        );
        assert!(
            Node::with("lonely", &["client_ca.crt"]).problem(&[]).contains("its certificate SSL/client.crt is missing")
        );
        assert!(
            Node::with("peer", &["peer.crt", "peer.key"]).problem(&[]).contains("the CA SSL/peer_ca.crt, with which")
        );
        assert!(
            bare.problem(&[("ETCD_KEY_FILE", "/k")]).starts_with("ETCD_CERT_FILE=: is missing: ETCD_KEY_FILE is set")
        );
        assert!(bare.problem(&CA[..1]).starts_with("MUSTER_CA_KEY=: is missing: MUSTER_CA_CERT is set"));
        assert!(bare.problem(&[CA[0], ("MUSTER_CA_KEY", "ssm:")]).contains("has no parameter name"));
        let key = bare.problem(&[CA[0], ("MUSTER_CA_KEY", "-----BEGIN PRIVATE KEY-----\nMIGH")]);
        assert!(key.starts_with("MUSTER_CA_KEY: is the key itself") && !key.contains("MIGH"), "{key}");
        let password = [("MUSTER_ETCD_USER", "root"), ("MUSTER_ETCD_PASSWORD_FILE", "hunter2")];
        assert!(!bare.problem(&password).contains("hunter2"));
        assert!(bare.problem(&[("ETCD_TRUSTED_CA_FILE", "/ca")]).contains("would trust different CAs"));
        assert!(bare.problem(&[CA[0], CA[1], ("MUSTER_CERT_VALIDITY", "500ms")]).contains("is too short"));
        assert!(bare.problem(&[("MUSTER_EXTRA_SANS", "a b")]).contains("neither a name nor an address"));
        assert!(bare.problem(&[("MUSTER_ETCD_USER", "root")]).starts_with("MUSTER_ETCD_PASSWORD_FILE=: is missing"));
    }
}
