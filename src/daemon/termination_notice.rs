//! Whether this node's member is to leave: what the metadata service reports about this instance's termination, and the operator's
//! request, a file beside the ledger.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::aws::imds::Imds;
use crate::config::Leave;
use crate::core::types::Known;
use crate::core::view::Ending;
use crate::util::clock;
use crate::util::file;
use crate::util::lock::lock;

/// EC2 gives two minutes for a Spot instance; a poll may take some seconds of them (the EC2 User Guide recommends five).
pub const POLL: Duration = Duration::from_secs(5);
/// No observation waits longer: with data, etcd must start whatever the metadata service does.
const PATIENCE: Duration = Duration::from_secs(1);

/// `Known(None)`: nothing shows that this member is to leave.
pub type Reading = Known<Option<Ending>>;

/// Reads the notices; with `MUSTER_LEAVE=no` it makes no calls.
#[derive(Debug)]
pub struct TerminationNotices {
    imds: Arc<Imds>,
    leave: Leave,
    request: PathBuf,
    last: Mutex<Option<Last>>,
}

#[derive(Debug)]
struct Last {
    reading: Reading,
    at: Instant,
    /// When the termination was first proven, if it was and has not been cancelled.
    proven_since: Option<Instant>,
}

impl TerminationNotices {
    /// `request`: the file that is the operator's request to leave.
    pub fn new(imds: Arc<Imds>, leave: Leave, request: PathBuf) -> Self {
        Self { imds, leave, request, last: Mutex::default() }
    }

    /// Whether this instance is to leave before it is terminated (`MUSTER_LEAVE`).
    pub fn are_wanted(&self) -> bool {
        self.leave == Leave::OnTerminate
    }

    /// The current notice. A termination is one by EC2's word, whether or not the operator has asked, too.
    pub async fn read(&self) -> Reading {
        let request = self.request.clone();
        let reading = match file::aside(&self.request, move || request.try_exists()).await {
            Ok(Ok(true)) => match self.are_wanted().then_some(self.ask()) {
                Some(asking) => match asking.await {
                    Known::Known(Some(ending)) => Known::Known(Some(ending)),
                    _ => Known::Known(Some(Ending::Asked)),
                },
                None => Known::Known(Some(Ending::Asked)),
            },
            Ok(Ok(false)) if !self.are_wanted() => Known::Known(None),
            Ok(Ok(false)) => self.ask().await,
            Ok(Err(cause)) | Err(cause) => Known::Unknown(format!("{}: {cause}", self.request.display())),
        };
        self.remember(&reading);
        reading
    }

    /// The last notice read; returns quickly.
    pub async fn recent(&self) -> Reading {
        if let Some(last) = &*lock(&self.last)
            && clock::now() - last.at < POLL
        {
            return last.reading.clone();
        }
        match tokio::time::timeout(PATIENCE, self.read()).await {
            Ok(reading) => reading,
            Err(_) => {
                let reading = Known::Unknown("the metadata service does not answer".to_owned());
                self.remember(&reading);
                reading
            }
        }
    }

    /// Since when the termination is known, over any number of etcd runs.
    pub fn proven_since(&self) -> Option<Instant> {
        lock(&self.last).as_ref().and_then(|last| last.proven_since)
    }

    fn remember(&self, reading: &Reading) {
        let mut last = lock(&self.last);
        let before = last.as_ref().and_then(|last| last.proven_since);
        let at = clock::now();
        let proven_since = match reading {
            Known::Known(Some(ending)) if ending.is_termination() => before.or(Some(at)),
            Known::Known(_) => None,
            Known::Unknown(_) => before,
        };
        *last = Some(Last { reading: reading.clone(), at, proven_since });
    }

    /// Calls the service, whether or not notices are wanted. Either notice is enough; to know that there is none takes both
    /// answers.
    pub async fn ask(&self) -> Reading {
        let group = self.by_group().await;
        match group {
            Ok(Some(ending)) => Known::Known(Some(ending)),
            other => match (self.by_spot().await, other) {
                (Ok(Some(ending)), _) => Known::Known(Some(ending)),
                (Ok(None), Ok(_)) => Known::Known(None),
                (Err(cause), _) | (_, Err(cause)) => Known::Unknown(cause),
            },
        }
    }

    async fn by_group(&self) -> Result<Option<Ending>, String> {
        let state = self.imds.fetch_target_lifecycle_state().await.map_err(|e| e.to_string())?;
        Ok(state.and_then(|state| Ending::by_target_state(state.trim())))
    }

    async fn by_spot(&self) -> Result<Option<Ending>, String> {
        #[derive(Deserialize)]
        struct Notice {
            action: String,
        }
        let Some(text) = self.imds.fetch_spot_action().await.map_err(|e| e.to_string())? else { return Ok(None) };
        let notice: Notice =
            serde_json::from_str(&text).map_err(|e| format!("spot/instance-action can't be read: {e}"))?;
        Ok(Ending::by_spot_action(&notice.action))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::net::http::Client;
    use crate::net::scripted::{Reply, Scripted};
    use crate::net::tls::Trust;
    use crate::util::file::paused_time::stand_still_while_reading;
    use crate::util::scratch::Scratch;

    const GROUP: &str = "GET /latest/meta-data/autoscaling/target-lifecycle-state";

    /// What the group's state is at each moment, of this script, is for the test to say.
    async fn notices(states: &'static [&'static str], now: Arc<AtomicUsize>) -> (Scripted, TerminationNotices) {
        let server = Scripted::start(move |line, _| match line {
            "PUT /latest/api/token" => Reply::ok("token"),
            GROUP => match states[now.load(Ordering::Relaxed)] {
                "mute" => Reply::Silence,
                state => Reply::ok(state),
            },
            _ => Reply::status(404),
        })
        .await;
        let imds = Imds::new(Client::new(Trust::public(None)), &server.url);
        stand_still_while_reading();
        (
            server,
            TerminationNotices::new(
                Arc::new(imds),
                Leave::OnTerminate,
                format!("/nowhere/{:x}", clock::random()).into(),
            ),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn a_notice_serves_for_five_seconds() {
        let (server, notices) = notices(&["InService"], Arc::default()).await;
        assert_eq!(notices.recent().await, Known::Known(None));
        assert_eq!(notices.recent().await, Known::Known(None));
        assert_eq!(server.count(GROUP), 1);
        tokio::time::advance(POLL).await;
        notices.recent().await;
        assert_eq!(server.count(GROUP), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_proven_end_stands_through_silence_until_it_is_called_off() {
        let now = Arc::<AtomicUsize>::default();
        let (_, notices) = notices(&["Terminated", "mute", "InService"], now.clone()).await;
        assert_eq!(notices.recent().await, Known::Known(Some(Ending::Group("Terminated".to_owned()))));
        let since = notices.proven_since().unwrap();
        now.store(1, Ordering::Relaxed);
        tokio::time::advance(POLL).await;
        let began = clock::now();
        assert!(matches!(notices.recent().await, Known::Unknown(_)));
        assert_eq!(clock::now() - began, PATIENCE, "no look waits longer");
        assert_eq!(notices.proven_since(), Some(since));
        now.store(2, Ordering::Relaxed);
        tokio::time::advance(POLL).await;
        assert_eq!(notices.recent().await, Known::Known(None));
        assert_eq!(notices.proven_since(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_not_to_leave_asks_nothing() {
        let (server, notices) = notices(&["Terminated"], Arc::default()).await;
        let notices = TerminationNotices { leave: Leave::Never, ..notices };
        assert_eq!(notices.read().await, Known::Known(None));
        assert!(server.asked().is_empty());
    }

    /// The operator's word needs no EC2, and stands until it is taken back; what EC2 ends ends by EC2's word.
    #[tokio::test(start_paused = true)]
    async fn a_request_to_leave_stands_until_it_is_taken_back() {
        let scratch = Scratch::make();
        let now = Arc::<AtomicUsize>::default();
        let (server, notices) = notices(&["InService", "Terminated"], now.clone()).await;
        let notices = TerminationNotices { leave: Leave::Never, request: scratch.path().join("leave"), ..notices };
        assert_eq!(notices.read().await, Known::Known(None));
        std::fs::write(&notices.request, "").unwrap();
        assert_eq!(notices.read().await, Known::Known(Some(Ending::Asked)));
        assert!(server.asked().is_empty() && notices.proven_since().is_none(), "nobody waits for this instance's end");
        let notices = TerminationNotices { leave: Leave::OnTerminate, ..notices };
        assert_eq!(notices.read().await, Known::Known(Some(Ending::Asked)));
        now.store(1, Ordering::Relaxed);
        assert_eq!(notices.read().await, Known::Known(Some(Ending::Group("Terminated".to_owned()))));
        now.store(0, Ordering::Relaxed);
        std::fs::rename(&notices.request, scratch.path().join("away")).unwrap();
        assert_eq!(notices.read().await, Known::Known(None));
    }
}
