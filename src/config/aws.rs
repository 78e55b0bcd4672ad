//! Which AWS is called, as whom and by which way; and what is used of it.

use std::net::IpAddr;
use std::path::PathBuf;

use aws_credential_types::Credentials;

use super::reader::{Problem, Reader};
use crate::aws::credentials::Source;
use crate::aws::s3::Object;
use crate::net::proxy::Proxy;
use crate::net::tls::CaFile;

/// Where ECS hands out a task's credentials,
const ECS_AGENT: &str = "169.254.170.2";

/// and, beside it, EKS.
const AGENTS: [&str; 3] = [ECS_AGENT, "169.254.170.23", "fd00:ec2::23"];

/// The claim's own name below its prefix.
const CLAIM: &str = "claim.json";

impl Reader<'_> {
    /// `s3://bucket/prefix`: the object below it that is claimed.
    pub(super) fn claim(&mut self) -> Option<Object> {
        let value = self.text("MUSTER_CLAIM")?.to_owned();
        let place = value.strip_prefix("s3://").map(|rest| rest.trim_end_matches('/'));
        let place = place.map(|place| place.split_once('/').unwrap_or((place, "")));
        // (S3 User Guide, "General purpose bucket naming rules".)
        let is_bucket = |name: &str| {
            let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-".contains(c);
            (3..=63).contains(&name.len()) && name.chars().all(fits)
        };
        match place {
            Some((bucket, prefix)) if is_bucket(bucket) && !prefix.starts_with('/') && !prefix.contains("//") => {
                let key = [prefix, CLAIM].iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join("/");
                Some(Object { bucket: bucket.to_owned(), key })
            }
            _ => {
                self.wrong("MUSTER_CLAIM", "is not a location in S3; write s3://bucket/prefix");
                None
            }
        }
    }

    /// Names of lifecycle hooks, as Auto Scaling allows them (API Reference, "PutLifecycleHook").
    pub(super) fn lifecycle_hooks(&mut self) -> Vec<String> {
        let value = self.text("MUSTER_LIFECYCLE_HOOK").unwrap_or_default().to_owned();
        let names: Vec<String> = value.split(',').map(|name| name.trim().to_owned()).collect();
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_/".contains(c);
        match value.is_empty() {
            true => Vec::new(),
            false if names.iter().all(|name| (1..=255).contains(&name.len()) && name.chars().all(fits)) => names,
            false => {
                self.wrong("MUSTER_LIFECYCLE_HOOK", "is not the name of a lifecycle hook; write NAME, or NAME,NAME2");
                Vec::new()
            }
        }
    }

    /// Whether they can be read shows when they are needed ([`crate::net::tls::Trust::public`]).
    pub(super) fn ca_files(&self) -> Vec<CaFile> {
        let named = |variable| self.text(variable).map(|path| CaFile { variable, path: PathBuf::from(path) });
        ["AWS_CA_BUNDLE", "SSL_CERT_FILE"].into_iter().filter_map(named).collect()
    }

    /// Lower case wins, as with curl and the AWS CLI.
    pub(super) fn proxy(&mut self) -> Option<Proxy> {
        let (variable, url) = ["https_proxy", "HTTPS_PROXY"].iter().find_map(|name| Some((name, self.text(name)?)))?;
        let except = ["no_proxy", "NO_PROXY"].iter().find_map(|name| self.text(name)).unwrap_or_default();
        match Proxy::new(url, except) {
            Ok(proxy) => Some(proxy),
            Err(cause) => {
                // Without the value: it may hold a password.
                let write = "write http://host:port or http://user:password@host:port";
                self.problems.push(Problem(format!("{variable}=…: {cause}; {write}")));
                None
            }
        }
    }

    pub(super) fn credentials(&mut self) -> Source {
        if let Some(key) = self.text("AWS_ACCESS_KEY_ID") {
            let Some(secret) = self.text("AWS_SECRET_ACCESS_KEY") else {
                self.wrong("AWS_SECRET_ACCESS_KEY", "is missing beside AWS_ACCESS_KEY_ID");
                return Source::Role;
            };
            let token = self.text("AWS_SESSION_TOKEN").map(str::to_owned);
            return Source::Static(Credentials::new(key, secret, token, None, "environment"));
        }
        let url = self.container_credentials();
        match url {
            Some(url) => Source::Container {
                url,
                token: self.text("AWS_CONTAINER_AUTHORIZATION_TOKEN").map(str::to_owned),
                token_file: self.text("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE").map(PathBuf::from),
            },
            None => Source::Role,
        }
    }

    /// Container credentials (ECS, EKS): a path on the link-local host, or a whole URL. The token goes there: over plain http only to
    /// this host or to the two that AWS has for it (AWS SDKs and Tools Reference Guide, "Container credential provider").
    pub(super) fn container_credentials(&mut self) -> Option<String> {
        const PATH: &str = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI";
        const URL: &str = "AWS_CONTAINER_CREDENTIALS_FULL_URI";
        if let Some(path) = self.text(PATH) {
            let url = format!("http://{ECS_AGENT}{path}");
            if path.starts_with('/') && url.parse::<hyper::Uri>().is_ok_and(|uri| uri.host() == Some(ECS_AGENT)) {
                return Some(url);
            }
            self.wrong(PATH, "is not a path; write /path, or the whole URL in AWS_CONTAINER_CREDENTIALS_FULL_URI");
            return None;
        }
        let url = self.url(URL)?;
        let uri = url.parse::<hyper::Uri>().ok();
        let may = uri.is_some_and(|uri| {
            let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_ascii_lowercase();
            let is_near = |address: IpAddr| address.is_loopback() || AGENTS.iter().any(|a| a.parse() == Ok(address));
            uri.scheme_str() == Some("https") || host == "localhost" || host.parse().is_ok_and(is_near)
        });
        if !may {
            let hosts = AGENTS.join(", ");
            self.wrong(
                URL,
                format!(
                    "is http to another host, which would see the token; write https://, or name {hosts} or loopback"
                ),
            );
        }
        may.then_some(url)
    }
}
