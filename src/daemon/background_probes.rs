//! Probes that run beside the observations: a host that was unreachable is probed in the background, so that an observation
//! does not wait for it each time and still notices when it answers. Each probe gets its full timeout before its result counts
//! as no answer.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::timeout_at;

use crate::util::clock;

/// An unreachable host is probed this often, whether or not an answer to the previous probe may still come.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// How long an observation waits for a host that was unreachable just before: one that is back answers within milliseconds.
const GLANCE: Duration = Duration::from_millis(100);
/// After this long, a failure to answer no longer counts: the host gets its full timeout again.
const REMEMBERED: Duration = Duration::from_secs(10);

/// The result of a probe, also if there was no answer.
#[derive(Clone, Debug)]
pub struct Heard<V> {
    pub value: V,
    /// When the probe was sent; of consecutive unanswered probes, the first.
    pub began: Instant,
    /// When it was answered or given up.
    pub until: Instant,
}

/// A host that was probed, with the probes still open.
#[derive(Debug)]
pub struct Questions<K, V> {
    silences: BTreeMap<K, Heard<V>>,
    asked: BTreeMap<K, Asked<V>>,
    is_silence: fn(&V) -> bool,
}

#[derive(Debug)]
struct Asked<V> {
    last: Instant,
    open: JoinSet<Heard<V>>,
}

impl<K, V> Questions<K, V>
where
    K: Clone + Ord + Debug,
    V: Clone + Send + 'static,
{
    /// A state without any probes. `is_silence`: whether an outcome means that nothing answered.
    pub fn new(is_silence: fn(&V) -> bool) -> Self {
        Self { silences: BTreeMap::new(), asked: BTreeMap::new(), is_silence }
    }

    /// Forgets all earlier probes.
    pub fn forget(&mut self) {
        self.silences.clear();
        self.asked.clear();
    }

    /// Probes all of these. `at_a_glance`: does not wait for those that were unreachable until just now. `None`: the probe
    /// itself failed, which proves nothing.
    pub async fn ask<F>(
        &mut self,
        keys: &[K],
        at_a_glance: bool,
        question: impl Fn(&K) -> F,
    ) -> BTreeMap<K, Option<Heard<V>>>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let begun = clock::now();
        self.asked.retain(|key, _| keys.contains(key));
        self.silences.retain(|key, _| keys.contains(key));
        let is_remembered = |heard: &Heard<V>| at_a_glance && begun - heard.until < REMEMBERED;
        let (silent, others): (Vec<_>, Vec<_>) =
            keys.iter().cloned().partition(|key| self.silences.get(key).is_some_and(is_remembered));
        for key in &others {
            // An answer to this probe supersedes the older ones.
            self.asked.remove(key);
            self.silences.remove(key);
        }
        let mut answers = BTreeMap::new();
        let mut unheard = keys.to_vec();
        self.ask_again(&unheard, &question);
        for key in &others {
            let answer = loop {
                match timeout_at((clock::now() + ASK_EVERY).into(), self.hear(key)).await {
                    Ok(answer) => break answer,
                    Err(_) => self.ask_again(&unheard, &question),
                }
            };
            unheard.retain(|one| one != key);
            answers.insert(key.clone(), answer);
        }
        for key in &silent {
            let mut answer = self.silences.get(key).cloned();
            while let Ok(heard) = timeout_at((begun + GLANCE).into(), self.hear(key)).await {
                answer = heard;
                if !self.silences.contains_key(key) || self.has_nothing_open(key) {
                    break;
                }
            }
            answers.insert(key.clone(), answer);
        }
        answers
    }

    fn has_nothing_open(&self, key: &K) -> bool {
        self.asked.get(key).is_none_or(|asked| asked.open.is_empty())
    }

    /// Probes those whose last probe is old enough.
    fn ask_again<F>(&mut self, keys: &[K], question: &impl Fn(&K) -> F)
    where
        F: Future<Output = V> + Send + 'static,
    {
        let began = clock::now();
        for key in keys {
            let asked = self.asked.entry(key.clone()).or_insert_with(|| Asked { last: began, open: JoinSet::new() });
            if asked.open.is_empty() || began - asked.last >= ASK_EVERY {
                asked.last = began;
                let answer = question(key);
                asked.open.spawn(async move {
                    let value = answer.await;
                    Heard { value, began, until: clock::now() }
                });
            }
        }
    }

    /// The next outcome of one of its probes. Cancel-safe.
    async fn hear(&mut self, key: &K) -> Option<Heard<V>> {
        let heard = self.asked.get_mut(key)?.open.join_next().await?;
        match heard {
            Ok(heard) if (self.is_silence)(&heard.value) => {
                let silence = self.silences.entry(key.clone()).or_insert_with(|| heard.clone());
                silence.until = silence.until.max(heard.until);
                silence.value = heard.value;
                Some(silence.clone())
            }
            other => {
                self.silences.remove(key);
                self.asked.remove(key);
                other.inspect_err(|error| log::error!("a probe failed: {error}")).ok()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use super::*;

    /// Far longer than a glance, and short enough for a test.
    const PATIENCE: Duration = Duration::from_millis(1500);

    fn run<T>(what: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(what)
    }

    /// Answers "here" once the host is back, otherwise gives up after a while.
    fn asking(
        back: &Arc<AtomicBool>,
    ) -> impl Fn(&&'static str) -> std::pin::Pin<Box<dyn Future<Output = bool> + Send>> {
        let back = back.clone();
        move |key| {
            let here = *key == "here" || back.load(Ordering::SeqCst);
            Box::pin(async move {
                if !here {
                    clock::pause(PATIENCE).await;
                }
                here
            })
        }
    }

    #[test]
    fn who_was_silent_just_before_holds_up_no_look_and_is_heard_when_he_is_back() {
        run(async {
            let mut questions = Questions::new(|here: &bool| !here);
            let back = Arc::new(AtomicBool::new(false));
            let keys = ["here", "dark"];
            let first = questions.ask(&keys, true, asking(&back)).await;
            let silence = first["dark"].clone().unwrap();
            assert!(!silence.value && first["here"].as_ref().unwrap().value);
            assert!(silence.until - silence.began >= PATIENCE, "the first time he is waited for");
            let begun = clock::now();
            let second = questions.ask(&keys, true, asking(&back)).await;
            assert!(!second["dark"].as_ref().unwrap().value && second["here"].as_ref().unwrap().value);
            assert!(clock::now() - begun < PATIENCE);
            back.store(true, Ordering::SeqCst);
            let mut heard = false;
            while !heard {
                heard = questions.ask(&keys, true, asking(&back)).await["dark"].as_ref().unwrap().value;
            }
            assert!(questions.silences.is_empty());
        });
    }

    /// Time without an answer that grew by mere waiting would prove nothing.
    #[test]
    fn silence_lasts_until_the_end_of_a_question_that_was_waited_for() {
        run(async {
            let mut questions = Questions::new(|here: &bool| !here);
            let dark = Arc::new(AtomicBool::new(false));
            let first = questions.ask(&["dark"], true, asking(&dark)).await["dark"].clone().unwrap();
            let mut last = first.clone();
            while last.until == first.until {
                last = questions.ask(&["dark"], true, asking(&dark)).await["dark"].clone().unwrap();
                assert!(last.until <= clock::now() && last.began == first.began);
            }
            // Queried again while the first query was open, so that the answer is soon known.
            assert!(last.until - first.until < PATIENCE);
        });
    }

    #[test]
    fn without_a_glance_everybody_is_waited_for_each_time() {
        run(async {
            let mut questions = Questions::new(|here: &bool| !here);
            let dark = Arc::new(AtomicBool::new(false));
            for _ in 0..2 {
                let begun = clock::now();
                let heard = questions.ask(&["dark"], false, asking(&dark)).await["dark"].clone().unwrap();
                assert!(heard.began >= begun && heard.until - heard.began >= PATIENCE);
            }
        });
    }

    /// etcd must not suffer from a bug in a probe of another node.
    #[test]
    fn a_question_that_panics_is_none_and_takes_nobody_with_it() {
        let asked = AtomicU64::new(0);
        let seen = run(async {
            let mut questions = Questions::new(|here: &bool| !here);
            let question = |key: &&'static str| {
                asked.fetch_add(1, Ordering::SeqCst);
                let fine = *key == "fine";
                async move {
                    assert!(fine, "a bug in a probe");
                    true
                }
            };
            questions.ask(&["bad", "fine"], false, question).await
        });
        assert!(seen["bad"].is_none() && seen["fine"].is_some());
        assert_eq!(asked.into_inner(), 2);
    }
}
