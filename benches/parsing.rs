//! DescribeInstances' XML, by our reader and by quick-xml's own loop over the same bytes, which keeps nothing: the limit.
//!
//!     cargo bench --bench parsing -- PAGE.xml [ROUNDS]
//!
//! Prints CPU seconds of each round, and how often memory was allocated: while reading, while copying what was read (whoever
//! keeps an instance can't do with less), and by the loop. scripts/bench records the page and judges the figures.
#![allow(unsafe_code, reason = "a global allocator is unsafe to implement; this one only counts")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

use etcd_muster::aws::xml::{Page, read_page};
use quick_xml::Reader;
use quick_xml::events::Event;
use serde_json::json;

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn main() {
    let [path, rest @ ..] = &common::arguments()[..] else {
        println!("parsing: give it a page of DescribeInstances, as scripts/bench does");
        return;
    };
    let rounds = rest.first().map_or(20, |text| text.parse().expect("a number of rounds"));
    let text = std::fs::read(path).expect("the page");
    let ours = || read_page(&text[..]).expect("a page");
    let page = ours();
    let seconds =
        common::interleaved(rounds, &mut [&mut || _ = black_box(ours()), &mut || _ = black_box(bare_loop(&text))]);
    let answer = json!({
        "bytes": text.len(),
        "instances": page.instances.len(),
        "ours": seconds[0],
        "bare": seconds[1],
        "allocations": {
            "reading": allocations(|| _ = black_box(ours())),
            "copying": allocations(|| _ = black_box(copy(&page))),
            "bare": allocations(|| _ = black_box(bare_loop(&text))),
        },
    });
    println!("{answer}");
}

/// Every event, from a buffered reader as a body is, and nothing done with it.
fn bare_loop(text: &[u8]) -> u64 {
    let mut reader = Reader::from_reader(text);
    let mut buffer = Vec::new();
    let mut events = 0;
    while !matches!(reader.read_event_into(&mut buffer).expect("well-formed"), Event::Eof) {
        events += 1;
        buffer.clear();
    }
    events
}

fn copy(page: &Page) -> Vec<etcd_muster::aws::xml::Described> {
    page.instances.clone()
}

fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    work();
    ALLOCATIONS.load(Ordering::Relaxed) - before
}
