//! The shared files of AWS's SDKs and its CLI: `~/.aws/credentials` and `~/.aws/config` (AWS SDKs and Tools Reference Guide, "Shared
//! config and credentials files"). Pure: from their text to what a profile says.

use std::collections::BTreeMap;

use aws_credential_types::Credentials;

/// The profile that is meant where none is named.
pub const DEFAULT: &str = "default";

/// Which of the two files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Sections are profiles.
    Credentials,
    /// Profiles but the default one are `[profile NAME]`; other sections are no profiles.
    Config,
}

type Settings = BTreeMap<String, String>;

/// The profiles of both files. What the credentials file says counts for more.
#[derive(Clone, Default)]
pub struct Profiles(BTreeMap<String, Settings>);

/// Where credentials come from, by a profile.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Told {
    Keys(Credentials),
    /// A role, assumed with what another profile says.
    Role {
        role: Role,
        base: Box<Told>,
    },
    /// A role, assumed with the token in that file.
    WebIdentity {
        role: Role,
        token_file: String,
    },
    /// The instance's own role.
    Instance,
    /// The profile is there, and says nothing of credentials.
    Nothing,
}

/// A role to be assumed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Role {
    pub arn: String,
    pub session: Option<String>,
    pub external_id: Option<String>,
}

/// Longer chains of roles are a mistake.
const MOST_PROFILES: usize = 8;

impl Profiles {
    /// Adds what a file says.
    ///
    /// # Errors
    /// A line that is neither a section nor a setting, by its number: it may have a secret in it.
    pub fn add(&mut self, kind: Kind, text: &str) -> Result<(), usize> {
        let (mut section, mut indented) = (None, None);
        for (number, line) in text.lines().enumerate() {
            let content = line.trim();
            if content.is_empty() || content.starts_with(['#', ';']) {
                continue;
            }
            let indent = line.len() - line.trim_start().len();
            // Further lines of a setting, as those below `s3 =`, are no settings of the profile.
            if indented.is_some_and(|of_setting| indent > of_setting) {
                continue;
            }
            if let Some(head) = content.strip_prefix('[') {
                let end = head.find(']').ok_or(number + 1)?;
                (section, indented) = (profile_name(kind, &head[..end]), None);
                if let Some(name) = &section {
                    self.0.entry(name.clone()).or_default();
                }
                continue;
            }
            let at = content.find(['=', ':']).ok_or(number + 1)?;
            indented = Some(indent);
            if let Some(settings) = section.as_ref().and_then(|name| self.0.get_mut(name)) {
                settings.insert(content[..at].trim().to_ascii_lowercase(), value(&content[at + 1..]));
            }
        }
        Ok(())
    }

    /// One setting of a profile.
    pub fn setting(&self, profile: &str, key: &str) -> Option<&str> {
        self.0.get(profile)?.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Where a profile's credentials come from; `None`: there is no such profile.
    ///
    /// # Errors
    /// It says it in a way that can't be followed here: what is wrong, and the remedy.
    pub fn credentials(&self, profile: &str) -> Result<Option<Told>, String> {
        match self.0.contains_key(profile) {
            true => self.told(profile, &mut Vec::new()).map(Some),
            false => Ok(None),
        }
    }

    /// The names of all profiles, for a line about one that is missing.
    pub fn names(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    /// (The order is botocore's: a role before keys, and keys before another program's.)
    fn told<'a>(&'a self, profile: &'a str, before: &mut Vec<&'a str>) -> Result<Told, String> {
        let setting = |key| self.setting(profile, key);
        let fault = |why: &str| Err(format!("profile {profile}: {why}"));
        let is_own_source = before.last() == Some(&profile);
        if before.contains(&profile) && !is_own_source || before.len() >= MOST_PROFILES {
            return fault("its source_profile leads back to it; name one that has keys");
        }
        before.push(profile);
        let role = setting("role_arn").filter(|_| !is_own_source).map(|arn| Role {
            arn: arn.to_owned(),
            session: setting("role_session_name").map(str::to_owned),
            external_id: setting("external_id").map(str::to_owned),
        });
        if let Some(role) = role {
            let sources = ["web_identity_token_file", "source_profile", "credential_source"].map(setting);
            return match sources {
                _ if setting("mfa_serial").is_some() => fault(&exported(profile, "mfa_serial asks for a code")),
                [Some(token_file), None, None] => Ok(Told::WebIdentity { role, token_file: token_file.to_owned() }),
                [None, Some(source), None] if self.0.contains_key(source) => {
                    Ok(Told::Role { role, base: Box::new(self.told(source, before)?) })
                }
                [None, Some(source), None] => {
                    fault(&format!("source_profile={source}: there is no such profile; write it, or name another"))
                }
                [None, None, Some("Ec2InstanceMetadata")] => Ok(Told::Role { role, base: Box::new(Told::Instance) }),
                [None, None, Some(source)] => fault(&format!(
                    "credential_source={source}: only Ec2InstanceMetadata is supported; write that, or a source_profile"
                )),
                [None, None, None] => fault(
                    "role_arn needs one of source_profile, web_identity_token_file and credential_source; write one",
                ),
                _ => fault(
                    "has several of source_profile, web_identity_token_file and credential_source; remove all but one",
                ),
            };
        }
        if let Some(sso) = ["sso_session", "sso_start_url", "sso_account_id", "login_session"]
            .into_iter()
            .find(|key| setting(key).is_some())
        {
            return fault(&exported(profile, &format!("{sso}: a login in a browser is not supported")));
        }
        match (setting("aws_access_key_id"), setting("aws_secret_access_key")) {
            (Some(key), Some(secret)) => {
                let token = setting("aws_session_token").map(str::to_owned);
                Ok(Told::Keys(Credentials::new(key, secret, token, None, "profile")))
            }
            (Some(_), None) => fault("aws_secret_access_key is missing: aws_access_key_id is set; write both"),
            (None, Some(_)) => fault("aws_access_key_id is missing: aws_secret_access_key is set; write both"),
            (None, None) if setting("credential_process").is_some() => {
                fault(&exported(profile, "credential_process: no other program is run for credentials"))
            }
            // A role whose source has none could only fail later, without a word of why.
            (None, None) if before.len() > 1 => {
                fault("has no credentials; write aws_access_key_id and aws_secret_access_key")
            }
            (None, None) => Ok(Told::Nothing),
        }
    }
}

/// The AWS CLI gives out what only it can get.
fn exported(profile: &str, why: &str) -> String {
    format!("{why}; run eval \"$(aws configure export-credentials --profile {profile} --format env)\" before")
}

fn profile_name(kind: Kind, head: &str) -> Option<String> {
    let head = head.trim();
    let name = match (kind, head.strip_prefix("profile").filter(|rest| rest.starts_with([' ', '\t']))) {
        (Kind::Credentials, _) => head,
        (Kind::Config, Some(name)) => name.trim(),
        (Kind::Config, None) if head == DEFAULT => head,
        (Kind::Config, None) => return None,
    };
    let quoted = ['"', '\''].into_iter().find_map(|quote| name.strip_prefix(quote)?.strip_suffix(quote));
    Some(quoted.unwrap_or(name).to_owned())
}

/// Without a comment after it.
fn value(text: &str) -> String {
    let comment = [" #", " ;", "\t#", "\t;"].iter().filter_map(|mark| text.find(mark)).min();
    text[..comment.unwrap_or(text.len())].trim().to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn profiles(credentials: &str, config: &str) -> Profiles {
        let mut profiles = Profiles::default();
        profiles.add(Kind::Config, config).unwrap();
        profiles.add(Kind::Credentials, credentials).unwrap();
        profiles
    }

    fn keys(id: &str, token: Option<&str>) -> Told {
        Told::Keys(Credentials::new(id, "s", token.map(str::to_owned), None, "profile"))
    }

    fn role(arn: &str) -> Role {
        Role { arn: arn.to_owned(), session: None, external_id: None }
    }

    const KEYS: &str = "[default]\naws_access_key_id = d\naws_secret_access_key = s\n\n; of others\n[ops]\naws_access_key_id=o\n\
                        aws_secret_access_key=s # mine\naws_session_token = t\n";

    #[test]
    fn keys_are_those_of_the_profile() {
        let config = "[default]\nregion = eu-west-1\ns3 =\n  max_concurrent_requests = 20\n  region = no\noutput = json\n\
                      [profile \"with blank\"]\nregion : eu-west-3\n[sso-session x]\nregion = us-east-1\n[ops]\nregion = no";
        let all = profiles(KEYS, config);
        assert_eq!(all.credentials(DEFAULT), Ok(Some(keys("d", None))));
        assert_eq!(all.credentials("ops"), Ok(Some(keys("o", Some("t")))));
        assert_eq!(all.credentials("x"), Ok(None), "another section is no profile");
        assert_eq!(all.credentials("with blank"), Ok(Some(Told::Nothing)));
        assert_eq!(all.setting(DEFAULT, "region"), Some("eu-west-1"));
        assert_eq!(all.setting(DEFAULT, "output"), Some("json"));
        assert_eq!(all.setting("with blank", "region"), Some("eu-west-3"));
        assert_eq!(all.setting("ops", "region"), None, "there it would be [profile ops]");
        assert_eq!(all.names(), ["default", "ops", "with blank"]);
        // Whole files may be indented, and the credentials file counts for more.
        let both = profiles(
            "  [a]\n  aws_access_key_id = x\n  aws_secret_access_key = s\n",
            "[profile a]\naws_access_key_id = y",
        );
        assert_eq!(both.credentials("a"), Ok(Some(keys("x", None))));
    }

    #[test]
    fn a_role_is_assumed_with_what_its_source_says() {
        let config = "[profile a]\nrole_arn = arn:a\nsource_profile = b\nexternal_id = x\nrole_session_name = me\n\
                      [profile b]\nrole_arn = arn:b\nsource_profile = ops\n[profile own]\nrole_arn = arn:own\nsource_profile = own\n\
                      [profile web]\nrole_arn = arn:w\nweb_identity_token_file = /t\n\
                      [profile ec2]\nrole_arn = arn:e\ncredential_source = Ec2InstanceMetadata";
        let all = profiles(&format!("{KEYS}\n[own]\naws_access_key_id=own\naws_secret_access_key=s"), config);
        let b = Told::Role { role: role("arn:b"), base: Box::new(keys("o", Some("t"))) };
        let told = Role { session: Some("me".to_owned()), external_id: Some("x".to_owned()), ..role("arn:a") };
        assert_eq!(all.credentials("a"), Ok(Some(Told::Role { role: told, base: Box::new(b) })));
        let own = Told::Role { role: role("arn:own"), base: Box::new(keys("own", None)) };
        assert_eq!(all.credentials("own"), Ok(Some(own)), "its own keys are meant");
        let web = Told::WebIdentity { role: role("arn:w"), token_file: "/t".to_owned() };
        assert_eq!(all.credentials("web"), Ok(Some(web)));
        let ec2 = Told::Role { role: role("arn:e"), base: Box::new(Told::Instance) };
        assert_eq!(all.credentials("ec2"), Ok(Some(ec2)));
    }

    #[test]
    fn what_cannot_be_followed_is_named_with_its_way_out() {
        for (profile, expected) in [
            (
                "sso_session = x",
                "sso_session: a login in a browser is not supported; run eval \"$(aws configure export-credentials",
            ),
            (
                "sso_start_url = x\naws_access_key_id = k\naws_secret_access_key = s",
                "sso_start_url: a login in a browser",
            ),
            ("login_session = x", "login_session: a login in a browser"),
            ("credential_process = p", "credential_process: no other program is run for credentials; run eval"),
            ("role_arn = r\nsource_profile = ops\nmfa_serial = m", "mfa_serial asks for a code; run eval"),
            ("role_arn = r\nsource_profile = gone", "source_profile=gone: there is no such profile"),
            ("role_arn = r\nsource_profile = loop", "profile a: its source_profile leads back to it"),
            ("role_arn = r\nsource_profile = empty", "profile empty: has no credentials; write"),
            (
                "role_arn = r\ncredential_source = EcsContainer",
                "credential_source=EcsContainer: only Ec2InstanceMetadata",
            ),
            ("role_arn = r", "role_arn needs one of source_profile"),
            (
                "role_arn = r\nsource_profile = ops\ncredential_source = Ec2InstanceMetadata",
                "has several of source_profile",
            ),
            ("aws_access_key_id = k", "aws_secret_access_key is missing"),
            ("aws_secret_access_key = hunter2", "aws_access_key_id is missing"),
        ] {
            let others = "[profile loop]\nrole_arn = r\nsource_profile = a\n[profile empty]\nregion = x";
            let said = profiles(KEYS, &format!("[profile a]\n{profile}\n{others}")).credentials("a").unwrap_err();
            assert!(said.contains(expected) && !said.contains("hunter2"), "{said}, not: {expected}");
        }
        let process = profiles("", "[profile a]\ncredential_process = p\naws_access_key_id=k\naws_secret_access_key=s");
        assert_eq!(process.credentials("a"), Ok(Some(keys("k", None))), "keys count for more than another program's");
        for (text, line) in [("[a\n", 1), ("[a]\nhunter2\n", 2)] {
            assert_eq!(Profiles::default().add(Kind::Credentials, text), Err(line));
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd(text in "([\\[\\]a=: \\t#;\"'é\n]|profile ){0,40}") {
            for kind in [Kind::Config, Kind::Credentials] {
                let mut profiles = Profiles::default();
                _ = profiles.add(kind, &text);
                for name in profiles.names() {
                    _ = profiles.credentials(name);
                }
            }
        }
    }
}
