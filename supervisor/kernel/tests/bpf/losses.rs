//! A ring that is too small.

use std::process::Child;
use std::time::{Duration, Instant};

use skep_kernel::bpf::{Event, Status};

use crate::rig::Rig;
use crate::roles;

const SCRIPT: &str =
    "for i in 1 2 3 4 5 6 7 8 9; do for j in 1 2 3 4 5 6 7 8 9; do echo x > file$i$j; done; done";

fn lost(events: &[Event]) -> u64 {
    events.iter().map(|event| if let Event::Lost { count, .. } = event { *count } else { 0 }).sum()
}

#[test]
fn as_root_records_lost_in_a_full_ring_are_counted_to_the_last() {
    let mut large = Rig::new(false);
    large.inside(SCRIPT);
    let whole = large.events();
    assert_eq!(lost(&whole), 0);
    let mut rig = Rig::with_ring(false, 4096);
    rig.inside(SCRIPT);
    let events = rig.events();
    let arrived = events.iter().filter(|event| !matches!(event, Event::Lost { .. })).count() as u64;
    let counts = rig.programs.counts(rig.cgroup).unwrap().unwrap();
    assert!(lost(&events) > 0);
    assert_eq!((arrived, lost(&events)), (counts.records, counts.lost));
    assert_eq!(arrived + lost(&events), whole.len() as u64);
}

#[test]
fn as_root_after_a_loss_the_next_records_arrive() {
    let mut rig = Rig::with_ring(false, 32 << 10);
    rig.inside(SCRIPT);
    assert!(lost(&rig.events()) > 0);
    rig.inside("exit 7");
    let events = rig.events();
    assert_eq!(lost(&events), 0, "{events:?}");
    assert!(matches!(events.last(), Some(Event::Exit(exit)) if exit.status == Status::Code(7)), "{events:?}");
}

#[test]
fn as_root_a_sandbox_that_never_rests_does_not_keep_the_reader_for_itself() {
    const RING: u32 = 64 << 10;
    let mut rig = Rig::with_ring(false, RING);
    let restless: Vec<_> =
        (0..4).map(|_| Ended(rig.command_inside(&roles::command("restless")).spawn().unwrap())).collect();
    let begun = Instant::now();
    let mut rounds = 0;
    while rounds < 200 {
        assert!(begun.elapsed() < Duration::from_secs(30), "nobody is restless");
        rig.reader.settle().unwrap();
        let queued = rig.reader.queued();
        // No record is as small as 64 bytes, and a loss may stand before each.
        assert!(queued <= 2 * RING as usize / 64, "{queued} events");
        // They have to start first.
        rounds += usize::from(queued > 0);
        (0..queued).for_each(|_| drop(rig.reader.next()));
    }
    drop(restless);
}

/// A child that would not end by itself.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).unwrap();
    }
}
