//! The user of an etcd with authentication enabled (etcd documentation, "Role-based access control").

use std::fmt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::util::clock;
use crate::util::file;
use crate::util::lock::lock;

/// (etcd's api/v3rpc/rpctypes/error.go, ErrGRPCAuthFailed.)
const WRONG: &str = "invalid user ID or password";
/// A refused password is not sent again for this long, unless the file changes.
const REFUSED_FOR: Duration = Duration::from_secs(60);

/// A user, and the token that etcd last issued. etcd's tokens expire, and end with its process: a refused one is replaced.
pub struct Login {
    user: String,
    /// Read again for each token: an operator who changes the password need not restart us.
    password_file: PathBuf,
    token: Mutex<Option<String>>,
    /// The password that etcd last refused, and when: each attempt costs every member a bcrypt.
    refused: Mutex<Option<(String, Instant)>>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

impl fmt::Display for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "user {} with the password in {}", self.user, self.password_file.display())
    }
}

impl Login {
    /// A user that has not logged in yet; trailing line ends in the file do not count.
    pub fn new(user: String, password_file: PathBuf) -> Self {
        Self { user, password_file, token: Mutex::default(), refused: Mutex::default() }
    }

    pub(super) fn token(&self) -> Option<String> {
        self.held().clone()
    }

    pub(super) fn keep(&self, token: String) -> String {
        self.held().insert(token).clone()
    }

    /// The body for `/v3/auth/authenticate`.
    ///
    /// # Errors
    /// The password file can't be read; the message names its path.
    pub(super) async fn credentials(&self) -> Result<Value, String> {
        let read = file::fetch_text(&self.password_file).await;
        let text =
            read.map_err(|cause| format!("MUSTER_ETCD_PASSWORD_FILE={}: {cause}", self.password_file.display()))?;
        let password = text.trim_end_matches(['\r', '\n']);
        match &*self.last_refused() {
            Some((same, at)) if same == password && clock::now() - *at < REFUSED_FOR => Err(self.refusal(WRONG)),
            _ => Ok(json!({"name": self.user, "password": password})),
        }
    }

    /// etcd refused the credentials: the reason.
    pub(super) fn refused(&self, credentials: &Value, message: &str) -> String {
        if message.contains(WRONG) {
            let password = credentials["password"].as_str().unwrap_or_default().to_owned();
            *self.last_refused() = Some((password, clock::now()));
            return self.refusal(WRONG);
        }
        self.refusal(message)
    }

    fn refusal(&self, why: &str) -> String {
        format!("{self} was refused: {why}")
    }

    fn last_refused(&self) -> MutexGuard<'_, Option<(String, Instant)>> {
        lock(&self.refused)
    }

    fn held(&self) -> MutexGuard<'_, Option<String>> {
        lock(&self.token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_secret_is_shown() {
        let login = Login::new("root".to_owned(), "/nonexistent".into());
        login.keep("a-token".to_owned());
        assert_eq!(format!("{login:?}"), "Login { user: \"root\", .. }");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let said = runtime.block_on(login.credentials()).unwrap_err();
        assert!(said.starts_with("MUSTER_ETCD_PASSWORD_FILE=/nonexistent: "), "{said}");
    }
}
