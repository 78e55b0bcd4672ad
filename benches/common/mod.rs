//! What the benches have in common: this process's own CPU time, and pairs.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// CPU seconds that the work took: others on the machine aren't in it.
fn cpu_seconds(work: impl FnOnce()) -> f64 {
    let now = || {
        Duration::from(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).unwrap_or_else(|e| panic!("no CPU clock: {e}")))
    };
    let began = now();
    work();
    (now() - began).as_secs_f64()
}

/// One warm-up, then every contestant once a round, each round beginning with another: seconds by contestant.
pub fn interleaved(rounds: usize, contestants: &mut [&mut dyn FnMut()]) -> Vec<Vec<f64>> {
    contestants.iter_mut().for_each(|work| work());
    let mut seconds = vec![Vec::new(); contestants.len()];
    for round in 0..rounds {
        for turn in 0..contestants.len() {
            let which = (round + turn) % contestants.len();
            seconds[which].push(cpu_seconds(&mut *contestants[which]));
        }
    }
    seconds
}

/// The arguments, without those that `cargo bench` adds.
pub fn arguments() -> Vec<String> {
    std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect()
}
