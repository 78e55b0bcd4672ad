//! The Auto Scaling group's lifecycle hooks (`MUSTER_LIFECYCLE_HOOK`): completed in the background, with retries until that
//! succeeds.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::termination_notice::TerminationNotices;
use crate::aws::autoscaling::{Answer, AutoScaling};
use crate::aws::ec2::Ec2;
use crate::core::types::{InstanceId, Known};
use crate::util::backoff::Backoff;
use crate::util::clock;
use crate::util::lock::lock;
use crate::util::log_once::LogOnce;

/// The tag with which EC2 shows an instance's group.
const GROUP_TAG: &str = "aws:autoscaling:groupName";
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The group may lag behind the instance: a hook that is not waiting is tried again for this long.
const LAG: Duration = Duration::from_secs(60);

/// The longest that a hook may delay an exit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transition {
    Launch,
    Terminate,
}

/// The hooks by name. Of one transition one is waiting; a call for another has no effect.
#[derive(Debug)]
pub struct LifecycleHooks {
    ec2: Arc<Ec2>,
    autoscaling: AutoScaling,
    notices: Arc<TerminationNotices>,
    names: Vec<String>,
    work: Mutex<Option<(Transition, JoinHandle<()>)>>,
}

impl LifecycleHooks {
    /// The hooks of these names; their group is read from the instance's tag.
    pub fn new(ec2: Arc<Ec2>, autoscaling: AutoScaling, notices: Arc<TerminationNotices>, names: Vec<String>) -> Self {
        Self { ec2, autoscaling, notices, names, work: Mutex::default() }
    }

    /// Whether any hook is named.
    pub fn are_wanted(&self) -> bool {
        !self.names.is_empty()
    }

    /// Starts completing the hook of that transition in the background; does nothing if that is in progress or done.
    pub fn complete(self: &Arc<Self>, transition: Transition, me: &InstanceId) {
        let mut work = lock(&self.work);
        if !self.are_wanted() || work.as_ref().is_some_and(|(begun, _)| *begun == transition) {
            return;
        }
        if let Some((_, other)) = work.take() {
            other.abort();
        }
        let (hooks, me) = (self.clone(), me.clone());
        *work = Some((transition, tokio::spawn(async move { hooks.until_completed(transition, &me).await })));
    }

    /// The termination was cancelled: the terminate hook is not to be completed, and a launch hook may be waiting again.
    pub fn recall_termination(&self) {
        let mut work = lock(&self.work);
        if let Some((_, termination)) = work.take_if(|(begun, _)| *begun == Transition::Terminate) {
            termination.abort();
        }
    }

    /// Waits up to that long for what is in progress.
    pub async fn settle(&self, timeout: Duration) {
        let work = lock(&self.work).take();
        if let Some((_, task)) = work {
            let _best_effort = tokio::time::timeout(timeout, task).await;
        }
    }

    async fn until_completed(&self, transition: Transition, me: &InstanceId) {
        let began = clock::now();
        let (mut backoff, mut last_warning) = (Backoff::new(FIRST_PAUSE, LONGEST_PAUSE), LogOnce::default());
        loop {
            let answer = self.attempt(transition, me).await;
            let trouble = match &answer {
                Ok(Answer::Completed) => return,
                Ok(Answer::NotWaiting) => None,
                Ok(Answer::Refused(trouble)) | Err(trouble) => Some(trouble),
            };
            match trouble {
                None => log::debug!("no lifecycle hook waits for {me}"),
                Some(trouble) if last_warning.is_news(trouble) => {
                    log::warn!("the lifecycle hook could not be completed: {trouble}");
                }
                Some(_) => {}
            }
            // A hook waits once in an instance's life; this may be a later start.
            if answer.is_ok() && clock::now() - began >= LAG {
                return;
            }
            clock::pause(backoff.jittered()).await;
        }
    }

    async fn attempt(&self, transition: Transition, me: &InstanceId) -> Result<Answer, String> {
        let described = self.ec2.describe_instance(me).await.map_err(|e| e.to_string())?;
        let tags = described.map(|d| d.tags).unwrap_or_default();
        let Some((_, group)) = tags.into_iter().find(|(key, _)| key == GROUP_TAG) else {
            return Ok(Answer::Refused(format!("{me} is in no Auto Scaling group: EC2 shows no tag {GROUP_TAG}")));
        };
        let mut outcome = Answer::NotWaiting;
        for hook in &self.names {
            // The name may be the terminate hook's, which a start of ours must not complete.
            if transition == Transition::Launch {
                match self.notices.ask().await {
                    Known::Known(None) => {}
                    Known::Known(Some(_)) => return Ok(Answer::NotWaiting),
                    Known::Unknown(cause) => return Err(cause),
                }
            }
            let answer = self.autoscaling.complete(&group, hook, &me.0).await.map_err(|e| e.to_string())?;
            match (&outcome, &answer) {
                (_, Answer::Completed) => {
                    log::info!("completed lifecycle hook {hook} of Auto Scaling group {group}");
                    outcome = answer;
                    // Only one hook waits; one that comes later may begin to wait at any moment, for another reason.
                    if transition == Transition::Launch {
                        break;
                    }
                }
                (Answer::NotWaiting, Answer::Refused(_)) => outcome = answer,
                _ => {}
            }
        }
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use aws_credential_types::Credentials;

    use std::path::PathBuf;

    use super::*;
    use crate::aws::credentials::{Provider, Source};
    use crate::aws::imds::Imds;
    use crate::aws::partition::Region;
    use crate::aws::signing_client::SigningClient;
    use crate::aws::sts::Sts;
    use crate::config::Leave;
    use crate::net::http::Client;
    use crate::net::scripted::{Reply, Scripted};
    use crate::net::tls::Trust;

    const WITH_GROUP: &str = "<DescribeInstancesResponse><reservationSet><item><instancesSet><item><instanceId>i-a</instanceId>\
        <instanceState><name>running</name></instanceState><launchTime>2026-01-01T00:00:00.000Z</launchTime><tagSet><item><key>aws:autoscaling:groupName</key><value>g</value></item>\
        </tagSet></item></instancesSet></item></reservationSet></DescribeInstancesResponse>";
    const DONE: &str =
        "<CompleteLifecycleActionResponse><CompleteLifecycleActionResult/></CompleteLifecycleActionResponse>";

    fn refusal(message: &str) -> Reply {
        let text = format!(
            "<ErrorResponse><Error><Code>ValidationError</Code><Message>{message}</Message></Error></ErrorResponse>"
        );
        Reply::Answer(400, text)
    }

    /// `complete`: what Auto Scaling says to the n-th call.
    async fn hooks(complete: impl Fn(usize) -> Reply + Send + Sync + 'static) -> (Scripted, LifecycleHooks) {
        let server = Scripted::start(move |line, before| match line {
            "PUT /latest/api/token" => Reply::ok("token"),
            _ if line.starts_with("GET") => Reply::status(404),
            _ if line.contains("Action=DescribeInstances") => Reply::ok(WITH_GROUP),
            _ => complete(before),
        })
        .await;
        let http = Client::new(Trust::public(None));
        let imds = Arc::new(Imds::new(http.clone(), &server.url));
        let source = Source::Static(Credentials::new("key", "secret", None, None, "test"));
        let provider = Provider::new(source, imds.clone(), http.clone(), Sts::at(&http, &server.url));
        let caller = Arc::new(SigningClient::new(http, Region::named("eu-west-1"), provider, imds.meters().clone()));
        let ec2 = Arc::new(Ec2::new(caller.clone(), server.url.clone()));
        let autoscaling = AutoScaling::new(caller, server.url.clone());
        let notices = Arc::new(TerminationNotices::new(imds, Leave::OnTerminate, PathBuf::from("/nowhere")));
        (server, LifecycleHooks::new(ec2, autoscaling, notices, vec!["launch".to_owned()]))
    }

    fn completions(server: &Scripted) -> usize {
        server.asked().iter().filter(|line| line.contains("Action=CompleteLifecycleAction")).count()
    }

    #[tokio::test(start_paused = true)]
    async fn a_hook_is_tried_until_it_is_completed_with_pauses_that_double() {
        let (server, hooks) = hooks(|n| if n < 3 { Reply::status(500) } else { Reply::ok(DONE) }).await;
        let began = clock::now();
        let me = InstanceId("i-a".to_owned());
        let completed = hooks.until_completed(Transition::Launch, &me);
        tokio::time::timeout(LAG * 10, completed).await.unwrap();
        assert_eq!(completions(&server), 4);
        let took = clock::now() - began;
        assert!(
            (Duration::from_millis(3_500)..Duration::from_secs(8)).contains(&took),
            "half to whole of 1, 2 and 4 s: {took:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_hook_that_does_not_wait_is_asked_for_a_minute_and_no_longer() {
        let (server, hooks) = hooks(|_| refusal("No active Lifecycle Action found with instance ID i-a")).await;
        let began = clock::now();
        let me = InstanceId("i-a".to_owned());
        let completed = hooks.until_completed(Transition::Launch, &me);
        tokio::time::timeout(LAG * 10, completed).await.unwrap();
        let took = clock::now() - began;
        assert!(took >= LAG && took < LAG * 2, "{took:?}");
        assert!(completions(&server) > 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_launch_hook_is_left_to_an_instance_that_is_about_to_end() {
        let (server, hooks) = hooks(|_| Reply::ok(DONE)).await;
        let ending =
            Scripted::start(|line, _| Reply::ok(if line.starts_with("PUT") { "token" } else { "Terminated" })).await;
        let imds = Imds::new(Client::new(Trust::public(None)), &ending.url);
        let hooks = LifecycleHooks {
            notices: Arc::new(TerminationNotices::new(Arc::new(imds), Leave::OnTerminate, PathBuf::from("/nowhere"))),
            ..hooks
        };
        assert_eq!(hooks.attempt(Transition::Launch, &InstanceId("i-a".to_owned())).await, Ok(Answer::NotWaiting));
        assert_eq!(completions(&server), 0);
        assert_eq!(hooks.attempt(Transition::Terminate, &InstanceId("i-a".to_owned())).await, Ok(Answer::Completed));
    }
}
