//! Which AWS is called, with which credentials and through which proxy; and which of its services are used.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use aws_credential_types::Credentials;

use super::reader::{Problem, Reader};
use super::snapshots::{Location, location};
use super::variables;
use crate::aws::credentials::{SharedFiles, Source};
use crate::aws::partition::{Region, USE_DUALSTACK, USE_FIPS, Variants, region_fault};
use crate::aws::profile::{Profiles, Role};
use crate::aws::s3::Object;
use crate::aws::sigv4::Service;
use crate::net::proxy::Proxy;
use crate::net::tls::CaFile;
use crate::util::file;

/// Where ECS serves a task's credentials,
const ECS_AGENT: &str = "169.254.170.2";

/// and, next to it, EKS.
const AGENTS: [&str; 3] = [ECS_AGENT, "169.254.170.23", "fd00:ec2::23"];

/// The claim's own name below its prefix.
const CLAIM: &str = "claim.json";

/// The metadata service's address on every instance, by `AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE`. The SDKs ignore its case.
const AWS_METADATA: [(&str, &str); 4] = [
    ("IPv4", "http://169.254.169.254"),
    ("IPv6", "http://[fd00:ec2::254]"),
    ("ipv4", "http://169.254.169.254"),
    ("ipv6", "http://[fd00:ec2::254]"),
];

/// AWS's services, as this node reaches them.
#[derive(Clone, Debug)]
pub struct Aws {
    pub region: Option<String>,
    pub credentials: Source,
    /// `None`: the metadata service is never asked (`AWS_EC2_METADATA_DISABLED`).
    pub imds_endpoint: Option<String>,
    pub endpoints: Endpoints,
    pub variants: Variants,
    /// `MUSTER_S3_*`: the store for snapshots and the claim, where it isn't the region's S3.
    pub store: Store,
    /// `AWS_CA_BUNDLE`, `SSL_CERT_FILE`: the CAs to trust for AWS, besides the public roots.
    pub ca_files: Vec<CaFile>,
    /// `HTTPS_PROXY`, `NO_PROXY`: the proxy for AWS.
    pub proxy: Option<Proxy>,
}

/// The endpoint to call instead of AWS's own; `None`: AWS's endpoint of the region.
#[derive(Clone, Debug)]
pub struct Endpoints {
    pub ec2: Option<String>,
    pub s3: Option<String>,
    pub autoscaling: Option<String>,
    pub ssm: Option<String>,
    pub sts: Option<String>,
}

/// How a store that is not the region's S3 is called; `None`: as the other services are.
#[derive(Clone, Debug, Default)]
pub struct Store {
    pub region: Option<String>,
    pub credentials: Option<Source>,
}

/// What a profile of the shared files says besides credentials. Files that can't be read say nothing here: their fault shows with
/// the credentials, which nothing but a call of AWS needs.
#[derive(Default)]
struct ProfileSettings {
    profiles: Profiles,
    profile: String,
    origin: String,
}

impl ProfileSettings {
    fn read(files: &SharedFiles) -> Self {
        let (config, credentials) = (file::read_patiently(&files.config), file::read_patiently(&files.credentials));
        let profile = files.profile().to_owned();
        let origin = format!("profile {profile} in {}", files.config.display());
        Self { profiles: files.profiles(config, credentials).unwrap_or_default(), profile, origin }
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.profiles.setting(&self.profile, key)
    }

    fn says_true(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }
}

impl Reader {
    pub(super) fn aws(&mut self) -> Aws {
        let metadata = self.choice(&variables::AWS_METADATA_MODE, &AWS_METADATA);
        let metadata = self.url("AWS_EC2_METADATA_SERVICE_ENDPOINT").unwrap_or_else(|| metadata.to_owned());
        let shared = self.shared_files();
        let profile = shared.as_ref().map(ProfileSettings::read).unwrap_or_default();
        Aws {
            region: self.region(&profile),
            credentials: self.credentials(shared),
            imds_endpoint: Some(metadata).filter(|_| !self.is_true(&variables::AWS_METADATA_DISABLED)),
            endpoints: Endpoints {
                ec2: self.endpoint(Service::Ec2),
                s3: self.url(variables::S3_ENDPOINT.name).or_else(|| self.endpoint(Service::S3)),
                autoscaling: self.endpoint(Service::AutoScaling),
                ssm: self.endpoint(Service::Ssm),
                sts: self.endpoint(Service::Sts),
            },
            variants: Variants {
                fips: self.yes(&variables::AWS_USE_FIPS)
                    || self.text(USE_FIPS).is_none() && profile.says_true("use_fips_endpoint"),
                dualstack: self.yes(&variables::AWS_USE_DUALSTACK)
                    || self.text(USE_DUALSTACK).is_none() && profile.says_true("use_dualstack_endpoint"),
            },
            store: self.store(),
            ca_files: self.ca_files(),
            proxy: self.proxy(),
        }
    }

    /// (AWS SDKs and Tools Reference Guide, "Service-specific endpoints".)
    fn endpoint(&mut self, service: Service) -> Option<String> {
        self.url(service.endpoint_variable()).or_else(|| self.url("AWS_ENDPOINT_URL"))
    }

    fn region(&mut self, profile: &ProfileSettings) -> Option<String> {
        let names = [variables::REGION.name, "AWS_REGION", "AWS_DEFAULT_REGION"];
        let given = names.iter().find_map(|name| Some((*name, self.text(name)?.to_owned())));
        let region = given.as_ref().map(|(_, region)| region.as_str()).or(profile.get("region"))?.to_owned();
        match (region_fault(&region), given) {
            (None, _) => return Some(region),
            (Some(why), Some((name, _))) => self.wrong(name, why),
            (Some(why), None) => {
                self.problems.push(Problem(format!("region={region} of {}: {why}", profile.origin)));
            }
        }
        None
    }

    /// If the store is S3 in a region that is known here, its endpoint exists. (The metadata service's region is known later: then
    /// each call fails for the same reason.)
    pub(super) fn refuse_store(&mut self, aws: &Aws) {
        let region = aws.store.region.as_ref().or(aws.region.as_ref()).filter(|_| aws.endpoints.s3.is_none());
        if let Some(Err(refusal)) = region.map(|region| Region::named(region).host(Service::S3, aws.variants)) {
            self.wrong(refusal.variable, refusal.why);
        }
    }

    fn store(&mut self) -> Store {
        let region = self.text(variables::S3_REGION.name).map(str::to_owned);
        let name = |variable: &'static variables::Variable| variable.name;
        let [id, secret, file] =
            [&variables::S3_ACCESS_KEY_ID, &variables::S3_SECRET_ACCESS_KEY, &variables::S3_SECRET_ACCESS_KEY_FILE]
                .map(name);
        let [given_id, given_secret, given_file] = [id, secret, file].map(|name| self.text(name).map(str::to_owned));
        let credentials = match (given_id, given_secret, given_file) {
            (None, None, None) => None,
            (_, Some(_), Some(_)) => {
                self.wrong(file, format!("is set, and so is {secret}; unset one of them"));
                None
            }
            (Some(_), None, None) => {
                self.wrong(file, format!("is missing: {id} is set; give the file with its secret"));
                None
            }
            (None, ..) => {
                self.wrong(id, "is missing: its secret is set");
                None
            }
            (Some(id), Some(secret), None) => {
                Some(Source::Static(Credentials::new(id, secret, None, None, "environment")))
            }
            (Some(_), None, Some(path)) if !path.starts_with('/') => {
                self.wrong(file, "is no absolute path");
                None
            }
            (Some(id), None, Some(path)) => Some(Source::File { id, secret: PathBuf::from(path) }),
        };
        Store { region, credentials }
    }

    /// `s3://bucket/prefix`: the claim's object is below it.
    pub(super) fn claim(&mut self) -> Option<Object> {
        let value = self.text(variables::CLAIM.name)?.to_owned();
        match location(&value) {
            Some(Location::Bucket { bucket, prefix }) => {
                let key = if prefix.is_empty() { CLAIM.to_owned() } else { format!("{prefix}/{CLAIM}") };
                Some(Object { bucket, key })
            }
            _ => {
                self.wrong(variables::CLAIM.name, "is not a location in S3; write s3://bucket/prefix");
                None
            }
        }
    }

    /// Names of lifecycle hooks, as Auto Scaling allows them (API Reference, "PutLifecycleHook").
    pub(super) fn lifecycle_hooks(&mut self) -> Vec<String> {
        let value = self.text(variables::LIFECYCLE_HOOK.name).unwrap_or_default().to_owned();
        let names: Vec<String> = value.split(',').map(|name| name.trim().to_owned()).collect();
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_/".contains(c);
        match value.is_empty() {
            true => Vec::new(),
            false if names.iter().all(|name| (1..=255).contains(&name.len()) && name.chars().all(fits)) => names,
            false => {
                self.wrong(
                    variables::LIFECYCLE_HOOK.name,
                    "is not the name of a lifecycle hook; write NAME, or NAME,NAME2",
                );
                Vec::new()
            }
        }
    }

    /// Whether the files can be read shows when they are needed ([`crate::net::tls::Trust::public`]).
    fn ca_files(&self) -> Vec<CaFile> {
        let named = |variable| self.text(variable).map(|path| CaFile { variable, path: PathBuf::from(path) });
        ["AWS_CA_BUNDLE", "SSL_CERT_FILE"].into_iter().filter_map(named).collect()
    }

    /// Lower case wins, as with curl and the AWS CLI.
    fn proxy(&mut self) -> Option<Proxy> {
        let (variable, url) = ["https_proxy", "HTTPS_PROXY"].iter().find_map(|name| Some((name, self.text(name)?)))?;
        let except = ["no_proxy", "NO_PROXY"].iter().find_map(|name| self.text(name)).unwrap_or_default();
        match Proxy::new(url, except) {
            Ok(proxy) => Some(proxy),
            Err(cause) => {
                // Without the value, which may contain a password.
                let write = "write http://host:port or http://user:password@host:port";
                self.problems.push(Problem(format!("{variable}=…: {cause}; {write}")));
                None
            }
        }
    }

    fn credentials(&mut self, shared: Option<SharedFiles>) -> Source {
        if let Some(key) = self.text("AWS_ACCESS_KEY_ID") {
            let Some(secret) = self.text("AWS_SECRET_ACCESS_KEY") else {
                self.wrong("AWS_SECRET_ACCESS_KEY", "is missing: AWS_ACCESS_KEY_ID is set");
                return Source::Role;
            };
            let token = self.text("AWS_SESSION_TOKEN").map(str::to_owned);
            return Source::Static(Credentials::new(key, secret, token, None, "environment"));
        }
        if let Some(source) = self.web_identity() {
            return source;
        }
        let otherwise = match self.container_credentials() {
            Some(url) => Source::Container {
                url,
                token: self.text("AWS_CONTAINER_AUTHORIZATION_TOKEN").map(str::to_owned),
                token_file: self.text("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE").map(PathBuf::from),
            },
            None => Source::Role,
        };
        match shared {
            Some(files) => Source::Shared { files, otherwise: Box::new(otherwise) },
            None => otherwise,
        }
    }

    /// (AWS SDKs and Tools Reference Guide, "Assume role with web identity". Without a file a role alone is not used.)
    fn web_identity(&mut self) -> Option<Source> {
        const FILE: &str = "AWS_WEB_IDENTITY_TOKEN_FILE";
        const ROLE: &str = "AWS_ROLE_ARN";
        const SESSION: &str = "AWS_ROLE_SESSION_NAME";
        let token_file = PathBuf::from(self.text(FILE)?);
        let arn = self.text(ROLE).unwrap_or_default().to_owned();
        let session = self.text(SESSION).map(str::to_owned);
        match arn.as_str() {
            "" => self.wrong(ROLE, format!("is missing: {FILE} is set; give the role that is to be assumed")),
            arn if !arn.starts_with("arn:") || !arn.contains(":role/") => {
                self.wrong(ROLE, "is not the ARN of a role; write arn:aws:iam::ACCOUNT:role/NAME");
            }
            _ => {}
        }
        // (STS API Reference, "AssumeRoleWithWebIdentity".)
        let fits = |c: char| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c);
        if session.as_ref().is_some_and(|name| !(2..=64).contains(&name.len()) || !name.chars().all(fits)) {
            self.wrong(SESSION, "is not the name of a session; write 2 to 64 letters, digits and _+=,.@-");
        }
        Some(Source::WebIdentity { role: Role { arn, session, external_id: None }, token_file })
    }

    /// (AWS SDKs and Tools Reference Guide, "Location of the shared files".) `None`: there is no place for them.
    fn shared_files(&self) -> Option<SharedFiles> {
        let home = self.text("HOME");
        let at = |variable, name: &str| match (self.text(variable), home) {
            (Some(path), Some(home)) if path.starts_with("~/") => Some(Path::new(home).join(&path[2..])),
            (Some(path), _) => Some(PathBuf::from(path)),
            (None, home) => Some(Path::new(home?).join(".aws").join(name)),
        };
        let profile = self.text("AWS_PROFILE").map(str::to_owned);
        let (credentials, config) = (at("AWS_SHARED_CREDENTIALS_FILE", "credentials"), at("AWS_CONFIG_FILE", "config"));
        if profile.is_none() && credentials.is_none() && config.is_none() {
            return None;
        }
        let names = ["AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"];
        let is_asked_for = names.iter().any(|name| self.text(name).is_some());
        // No file has no name.
        let (credentials, config) = (credentials.unwrap_or_default(), config.unwrap_or_default());
        Some(SharedFiles { profile, credentials, config, is_asked_for })
    }

    /// As the SDKs read it: nothing else is true.
    fn is_true(&self, variable: &'static variables::Variable) -> bool {
        self.text_or_default(variable).eq_ignore_ascii_case("true")
    }

    /// Container credentials (ECS, EKS): a path on the link-local host, or a whole URL. The token is sent there: over plain
    /// http only to this host or to the two that AWS has for it (AWS SDKs and Tools Reference Guide, "Container credential
    /// provider").
    fn container_credentials(&mut self) -> Option<String> {
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
        let may = keeps_secrets(&url, |address| AGENTS.iter().any(|agent| agent.parse() == Ok(address)));
        if !may {
            let hosts = AGENTS.join(", ");
            self.wrong(
                URL,
                format!(
                    "is http to another host, which would see the token; write https://, or use {hosts} or loopback"
                ),
            );
        }
        may.then_some(url)
    }
}

/// Whether nobody on the way to that URL can read what is sent: by TLS, or because it does not leave the host, or goes to a `near` address.
pub(super) fn keeps_secrets(url: &str, near: impl Fn(IpAddr) -> bool) -> bool {
    url.parse::<hyper::Uri>().is_ok_and(|uri| {
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_ascii_lowercase();
        let is_near = |address: IpAddr| address.is_loopback() || near(address);
        uri.scheme_str() == Some("https") || host == "localhost" || host.parse().is_ok_and(is_near)
    })
}
