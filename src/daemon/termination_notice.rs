//! What the metadata service reports about this instance's termination.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::aws::imds::Imds;
use crate::config::Leave;
use crate::core::types::Known;
use crate::core::view::Ending;
use crate::util::clock;
use crate::util::lock::lock;

/// EC2 gives two minutes for a Spot instance; a poll may take some seconds of them (the EC2 User Guide recommends five).
pub const POLL: Duration = Duration::from_secs(5);
/// No observation waits longer: with data, etcd must start whatever the metadata service does.
const PATIENCE: Duration = Duration::from_secs(1);

/// `Known(None)`: nothing reports that this instance is about to be terminated.
pub type Reading = Known<Option<Ending>>;

/// Reads the notices; with `MUSTER_LEAVE=no` it makes no calls.
#[derive(Debug)]
pub struct TerminationNotices {
    imds: Arc<Imds>,
    leave: Leave,
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
    pub fn new(imds: Arc<Imds>, leave: Leave) -> Self {
        Self { imds, leave, last: Mutex::default() }
    }

    /// Whether this instance is to leave before it is terminated (`MUSTER_LEAVE`).
    pub fn are_wanted(&self) -> bool {
        self.leave == Leave::OnTerminate
    }

    /// The current notice.
    pub async fn read(&self) -> Reading {
        if !self.are_wanted() {
            return Known::Known(None);
        }
        let reading = self.ask().await;
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
            Known::Known(Some(_)) => before.or(Some(at)),
            Known::Known(None) => None,
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
        (server, TerminationNotices::new(Arc::new(imds), Leave::OnTerminate))
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
}
