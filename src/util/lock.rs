//! Locks for state shared between threads.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks it, even if a thread panicked while holding it: a panic in a probe or a page only costs that result. State that must
/// not be half changed is on disk.
pub fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
