//! The Auto Scaling group's lifecycle hooks (`MUSTER_LIFECYCLE_HOOK`): completed in the background, until it is done.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::termination_notice::Notices;
use crate::aws::autoscaling::{Answer, AutoScaling};
use crate::aws::ec2::Ec2;
use crate::core::types::{InstanceId, Known};
use crate::util::backoff::Backoff;
use crate::util::clock;
use crate::util::log_once::LogOnce;

/// Where EC2 shows which group an instance is of.
const GROUP_TAG: &str = "aws:autoscaling:groupName";
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The group may be behind the instance: so long a hook that isn't waiting is asked again.
const LAG: Duration = Duration::from_secs(60);

/// What a hook may hold up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transition {
    Launch,
    Terminate,
}

/// The hooks by name; of one transition one is waiting, and a call for another does nothing.
#[derive(Debug)]
pub struct Hooks {
    ec2: Arc<Ec2>,
    autoscaling: AutoScaling,
    notices: Arc<Notices>,
    names: Vec<String>,
    work: Mutex<Option<(Transition, JoinHandle<()>)>>,
}

impl Hooks {
    /// The hooks of these names; the group they are of is found out by the instance's tag.
    pub fn new(ec2: Arc<Ec2>, autoscaling: AutoScaling, notices: Arc<Notices>, names: Vec<String>) -> Self {
        Self { ec2, autoscaling, notices, names, work: Mutex::default() }
    }

    /// Whether any is named.
    pub fn are_wanted(&self) -> bool {
        !self.names.is_empty()
    }

    /// Has the hook of that transition completed, in the background; what is under way or done is not begun again.
    pub fn complete(self: &Arc<Self>, transition: Transition, me: &InstanceId) {
        let mut work = self.work.lock().unwrap_or_else(|e| e.into_inner());
        if !self.are_wanted() || work.as_ref().is_some_and(|(begun, _)| *begun == transition) {
            return;
        }
        if let Some((_, other)) = work.take() {
            other.abort();
        }
        let (hooks, me) = (self.clone(), me.clone());
        *work = Some((transition, tokio::spawn(async move { hooks.until_completed(transition, &me).await })));
    }

    /// The instance lives on: its terminate hook isn't to be completed, and its launch hook may be waiting anew.
    pub fn recall_termination(&self) {
        let mut work = self.work.lock().unwrap_or_else(|e| e.into_inner());
        if let Some((_, termination)) = work.take_if(|(begun, _)| *begun == Transition::Terminate) {
            termination.abort();
        }
    }

    /// Waits for what is under way, so long.
    pub async fn settle(&self, within: Duration) {
        let work = self.work.lock().unwrap_or_else(|e| e.into_inner()).take();
        if let Some((_, task)) = work {
            let _best_effort = tokio::time::timeout(within, task).await;
        }
    }

    async fn until_completed(&self, transition: Transition, me: &InstanceId) {
        let began = clock::now();
        let (mut backoff, mut complained) = (Backoff::new(FIRST_PAUSE, LONGEST_PAUSE), LogOnce::default());
        loop {
            let answer = self.attempt(transition, me).await;
            let trouble = match &answer {
                Ok(Answer::Completed) => return,
                Ok(Answer::NotWaiting) => None,
                Ok(Answer::Refused(trouble)) | Err(trouble) => Some(trouble),
            };
            match trouble {
                None => log::debug!("no lifecycle hook waits for {me}"),
                Some(trouble) if complained.is_news(trouble) => {
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
            // A name may be the terminate hook's: that one isn't for a start of ours to complete.
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
                    log::info!("lifecycle hook {hook} of Auto Scaling group {group} is completed");
                    outcome = answer;
                    // Only one waits; a name that comes later may begin to at any moment, for another reason.
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
