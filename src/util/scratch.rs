//! For tests: a directory that is gone with its test.

use std::fs;
use std::path::{Path, PathBuf};

use super::clock;

/// Made empty, in the system's directory for what is temporary.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// A new one.
    pub fn make() -> Self {
        let dir = std::env::temp_dir().join(format!("etcd-muster-test-{:016x}", clock::random()));
        fs::create_dir(&dir).unwrap();
        Self(dir)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A file in it, of that text; its path.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Scratch {
    #[expect(clippy::disallowed_methods, reason = "made by this test")]
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.0);
    }
}
