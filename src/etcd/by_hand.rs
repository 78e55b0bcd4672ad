//! How an etcd that somebody set up by hand is started: by flags, by variables in a file, by a configuration file, by a pod's
//! manifest. All become etcd's variables. What can't be read with certainty is refused, with the way out.

use std::collections::BTreeMap;

/// etcd's settings, as its variables.
pub type Given = BTreeMap<String, String>;

/// The flags of a command line as variables: `--name=a`, `-name a`; a flag without a value is true.
///
/// # Errors
/// A word that is no flag and no flag's value: etcd itself refuses it.
pub fn of_flags<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Given, String> {
    let mut given = Given::new();
    let mut words = words.into_iter().peekable();
    while let Some(word) = words.next() {
        let flag = word.strip_prefix("--").or_else(|| word.strip_prefix('-')).filter(|flag| !flag.is_empty());
        let flag = flag.ok_or_else(|| format!("{word:?} is not a flag of etcd; write --flag=value"))?;
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, value),
            None => (flag, words.next_if(|next| !next.starts_with('-')).unwrap_or("true")),
        };
        given.insert(variable(name), value.to_owned());
    }
    Ok(given)
}

/// The variables of an environment file, as systemd and a shell read it: of these only etcd's own, and those flags that
/// `ETCD_OPTS` adds.
///
/// # Errors
/// A value that only a shell knows.
pub fn of_env_file(text: &str) -> Result<Given, String> {
    let mut given = Given::new();
    for (number, line) in numbered(text) {
        let line = line.strip_prefix("export ").unwrap_or(line).trim();
        let Some((name, value)) = line.split_once('=') else { continue };
        let (name, value) = (name.trim(), unquoted(value.trim()));
        if !name.starts_with("ETCD_") {
            continue;
        }
        if value.contains(['$', '`']) {
            return Err(format!("line {number}: the value of {name} is one that a shell computes; write what it is"));
        }
        given.insert(name.to_owned(), value.to_owned());
    }
    let flags = given.remove("ETCD_OPTS").map_or_else(|| Ok(Given::new()), |opts| of_flags(opts.split_whitespace()))?;
    given.extend(flags);
    Ok(given)
}

/// A pod's manifest, of which the flags are read (`- --flag=value`), or else etcd's own configuration file, of which only flat
/// `key: value` lines are.
///
/// # Errors
/// A line that is neither.
pub fn of_config_file(text: &str) -> Result<Given, String> {
    let flags = || numbered(text).filter_map(|(_, line)| line.trim().strip_prefix("- ")).map(unquoted_word);
    if flags().any(|word| word.starts_with("--")) {
        // Of probes and of the program itself nothing begins so.
        return of_flags(flags().filter(|word| word.starts_with("--")));
    }
    let mut given = Given::new();
    for (number, line) in numbered(text) {
        // What is nested is indented.
        let pair = line.split_once(':').filter(|(key, _)| !key.contains(char::is_whitespace));
        let value = pair.map(|(_, value)| unquoted(value.split(" #").next().unwrap_or_default().trim()));
        match (pair, value) {
            (Some((key, _)), Some(value))
                if !value.is_empty() && !value.starts_with(['[', '{', '|', '>', '&', '*']) =>
            {
                given.insert(variable(key), value.to_owned());
            }
            // An empty value, as etcd's sample has many: etcd's own default.
            (Some((key, raw)), _) if !key.ends_with("-transport-security") && is_empty(raw) => {}
            _ => {
                return Err(format!(
                    "line {number}: only flat lines (key: value) are read; write the settings into a file of variables \
                     (ETCD_CERT_FILE=…, one a line) and give that as --env-file"
                ));
            }
        }
    }
    Ok(given)
}

fn is_empty(value: &str) -> bool {
    ["", "\"\"", "''", "null", "~"].contains(&value.trim())
}

/// The lines that say something, with their numbers.
fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(place, line)| (place + 1, line.trim_end()));
    lines.filter(|(_, line)| {
        let begins = line.trim_start();
        !begins.is_empty() && !begins.starts_with(['#', ';']) && begins != "---"
    })
}

fn variable(flag: &str) -> String {
    format!("ETCD_{}", flag.to_ascii_uppercase().replace('-', "_"))
}

fn unquoted(value: &str) -> &str {
    let within = |quote| value.strip_prefix(quote).and_then(|rest: &str| rest.strip_suffix(quote));
    within('"').or_else(|| within('\'')).unwrap_or(value)
}

fn unquoted_word(word: &str) -> &str {
    unquoted(word.trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(given: &Given) -> String {
        given.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn flags_are_read_as_go_does() {
        let given = of_flags(["--name", "db 1", "-data-dir=/d", "--client-cert-auth", "--wal-dir=/w=x"]).unwrap();
        assert_eq!(shown(&given), "ETCD_CLIENT_CERT_AUTH=true ETCD_DATA_DIR=/d ETCD_NAME=db 1 ETCD_WAL_DIR=/w=x");
        assert!(of_flags(["gateway", "start"]).unwrap_err().contains("\"gateway\" is not a flag"));
        assert!(of_flags(["--"]).is_err() && of_flags(["-"]).is_err());
    }

    #[test]
    fn an_env_file_is_read_as_systemd_does() {
        let text = "# etcd\n; old\nETCD_NAME='db 1'\nexport ETCD_DATA_DIR=\"/d\"\nGOMAXPROCS=2\n\nETCD_OPTS=\"--wal-dir=/w --name=x\"\n";
        assert_eq!(shown(&of_env_file(text).unwrap()), "ETCD_DATA_DIR=/d ETCD_NAME=x ETCD_WAL_DIR=/w");
        for computed in ["ETCD_NAME=$(hostname)", "ETCD_NAME=${HOST}", "ETCD_NAME=`hostname`"] {
            assert!(of_env_file(computed).unwrap_err().contains("line 1: the value of ETCD_NAME"), "{computed}");
        }
        assert!(of_env_file("PS1=$HOST").unwrap().is_empty());
    }

    #[test]
    fn a_manifest_shows_its_flags_and_a_flat_file_its_keys() {
        let manifest = "spec:\n  containers:\n  - command:\n    - etcd\n    - --name=cp-1\n    - \"--data-dir=/var/lib/etcd\"\n    image: etcd\n";
        assert_eq!(shown(&of_config_file(manifest).unwrap()), "ETCD_DATA_DIR=/var/lib/etcd ETCD_NAME=cp-1");
        let flat = "---\n# etcd\nname: 'db-1'\ndata-dir: /d # here\nwal-dir:\ncors: \"\"\nlisten-peer-urls: http://10.0.0.1:2380\n";
        let shown = shown(&of_config_file(flat).unwrap());
        assert_eq!(shown, "ETCD_DATA_DIR=/d ETCD_LISTEN_PEER_URLS=http://10.0.0.1:2380 ETCD_NAME=db-1");
        for nested in [
            "client-transport-security:\n  cert-file: /c\n",
            "name: a\nlog-outputs: [stderr]\n",
            "name: a\n- b\n",
            "eco:\n  etcd:\n    data-dir: /d\n",
        ] {
            let said = of_config_file(nested).unwrap_err();
            assert!(said.contains("only flat lines") && said.contains("--env-file"), "{nested}: {said}");
        }
    }

    proptest! {
        /// Whatever somebody's file holds: settings of etcd, or a line that says why not.
        #[test]
        fn any_text_is_settings_or_a_reason(text in "[-a-zA-Z_=:'\"#$ \\t\n\u{e9}\u{2028}]{0,60}") {
            let words = text.split_whitespace();
            for outcome in [of_env_file(&text), of_config_file(&text), of_flags(words)] {
                match outcome {
                    Ok(given) => prop_assert!(given.keys().all(|name| name.starts_with("ETCD_"))),
                    Err(why) => prop_assert!(!why.is_empty()),
                }
            }
        }
    }
}
