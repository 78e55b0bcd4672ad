//! `decisions`: what the supervisor on this node decided, and what it had seen; also of earlier runs, and while none runs.

use argh::FromArgs;
use serde_json::json;

use super::terminal;
use crate::config::Etcd;
use crate::etcd::data_dir::MUSTER_DIR;
use crate::status::journal::{self, Entry, JOURNAL};
use crate::util::exit::{Code, Failure};
use crate::util::file;

/// Show the decisions that are kept on this node, the latest last: time, step, reason, and what each other instance was seen as. The
/// supervisor need not run. Exits with 69 if none are kept in ED_DATA.
#[derive(FromArgs)]
#[argh(subcommand, name = "decisions")]
pub(super) struct Decisions {
    /// print JSON, one decision a line
    #[argh(switch)]
    json: bool,
}

impl Decisions {
    pub(super) async fn run(&self, config: &Etcd) -> Result<i32, Failure> {
        let dir = config.data.join(MUSTER_DIR).join(JOURNAL);
        let unreadable = |path: &std::path::Path, error: &std::io::Error| {
            let way_out = file::way_out(error, path).map_or_else(String::new, |way_out| format!("; {way_out}"));
            Failure::new(Code::Unavailable, format!("{} can't be read: {error}{way_out}", path.display()))
        };
        let place = dir.clone();
        let read = file::aside(&dir, move || journal::read(&place)).await.map_err(|error| unreadable(&dir, &error))?;
        let entries = read.map_err(|(path, error)| unreadable(&path, &error))?;
        if entries.is_empty() {
            return Err(Failure::new(
                Code::Unavailable,
                format!("no decisions are kept in {}; has `etcd-muster run` run with this ED_DATA?", dir.display()),
            ));
        }
        for entry in &entries {
            if self.json {
                terminal::json_line(&json!(entry));
            } else {
                show(entry);
            }
        }
        Ok(0)
    }
}

fn show(entry: &Entry) {
    if entry.dropped > 0 {
        terminal::line(format_args!("({} decisions are missing here: the disk did not keep up)", entry.dropped));
    }
    let kind = match entry.kind.as_str() {
        "" => String::new(),
        kind => format!(" ({kind})"),
    };
    terminal::line(format_args!("{}  {}{kind}: {}", entry.at, entry.step.replace('_', " "), entry.reason));
    for (who, what) in &entry.seen {
        terminal::line(format_args!("    {who}: {what}"));
    }
}
