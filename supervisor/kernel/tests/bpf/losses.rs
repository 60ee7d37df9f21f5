//! Rings that are too small for what happens.

use std::process::Child;
use std::time::{Duration, Instant};

use skep_kernel::bpf::{Event, Exec, Exit, Status};

use crate::rig::Rig;
use crate::roles;

const SCRIPT: &str =
    "for i in 1 2 3 4 5 6 7 8 9; do for j in 1 2 3 4 5 6 7 8 9; do echo x > file$i$j; done; done";

/// How many records this sandbox has lost, as the last event about it says.
fn lost(events: &[Event], of: u64) -> u64 {
    let of = |event: &Event| match event {
        Event::Overflowed { cgroup, lost } => (*cgroup == of).then_some(*lost),
        _ => None,
    };
    events.iter().rev().find_map(of).unwrap_or(0)
}

fn is_loss(event: &Event) -> bool {
    matches!(event, Event::Overflowed { .. } | Event::Lost { .. })
}

#[test]
fn as_root_records_without_room_are_counted_to_the_last_and_told_once() {
    let mut large = Rig::new(false);
    large.inside(SCRIPT);
    let whole = large.events();
    assert!(!whole.iter().any(is_loss), "{whole:?}");
    let mut rig = Rig::with_ring(false, 4096);
    rig.inside(SCRIPT);
    let events = rig.events();
    let arrived = events.iter().filter(|event| !is_loss(event)).count();
    let counts = rig.programs.counts(rig.cgroup).unwrap().unwrap();
    assert!(counts.lost > 0);
    assert_eq!((lost(&events, rig.cgroup), events.len() - arrived), (counts.lost, 1), "{events:?}");
    assert_eq!(arrived as u64 + counts.lost, whole.len() as u64);
}

#[test]
fn as_root_records_that_meet_a_full_ring_are_a_gap_of_each_cpu_and_counted() {
    let mut rig = Rig::with_ring(false, 4096);
    // A record of such arguments needs 12 KiB.
    let long = "w".repeat(1000);
    rig.inside(&format!("for i in 1 2 3 4 5 6 7 8 9; do /bin/true {long}; done"));
    let events = rig.events();
    let gaps: Vec<_> = events
        .iter()
        .filter_map(|event| if let Event::Lost { cpu, count } = event { Some((*cpu, *count)) } else { None })
        .collect();
    let missing: u64 = gaps.iter().map(|(_, count)| count).sum();
    assert!(missing > 0 && missing <= lost(&events, rig.cgroup), "{events:?}");
    let mut cpus: Vec<_> = gaps.iter().map(|(cpu, _)| cpu).collect();
    cpus.dedup();
    assert_eq!(cpus.len(), gaps.len(), "{events:?}");
}

#[test]
fn as_root_after_a_loss_the_next_records_arrive() {
    let mut rig = Rig::with_ring(false, 32 << 10);
    rig.inside(SCRIPT);
    let before = lost(&rig.events(), rig.cgroup);
    assert!(before > 0);
    rig.inside("exit 7");
    let events = rig.events();
    assert_eq!(lost(&events, rig.cgroup), before, "{events:?}");
    let last = events.iter().rfind(|event| !is_loss(event));
    assert!(matches!(last, Some(Event::Exit(exit)) if exit.status == Status::Code(7)), "{events:?}");
}

#[test]
fn as_root_a_flood_that_nobody_reads_costs_another_sandbox_nothing() {
    const STARTS: usize = 100;
    let mut rig = Rig::with_ring(false, 1 << 20);
    let flooder = rig.cgroup;
    let output = rig.run_inside(&roles::command("flood"));
    assert!(output.status.success(), "{output:?}");
    let other = rig.admit(false);
    rig.inside(&format!("for i in $(seq {STARTS}); do /bin/true; done"));
    let events = rig.events();
    assert!(lost(&events, flooder) > 0, "the flood is none");
    let of_true = |event: &&Event| match event {
        Event::Exec(Exec { task, .. }) | Event::Exit(Exit { task, .. }) => {
            task.cgroup == other && task.comm == b"true"
        }
        _ => false,
    };
    assert_eq!(events.iter().filter(of_true).count(), 2 * STARTS);
    assert_eq!(lost(&events, other), 0);
    assert!(!events.iter().any(|event| matches!(event, Event::Lost { .. })), "the ring was full");
}

#[test]
fn as_root_a_flooder_loses_no_start_and_no_end_of_its_own_programs() {
    let mut rig = Rig::with_ring(false, 1 << 20);
    let output = rig.run_inside(&roles::command("flood"));
    assert!(output.status.success(), "{output:?}");
    rig.inside("/bin/true");
    let events = rig.events();
    assert!(lost(&events, rig.cgroup) > 0, "the flood is none");
    let started = events.iter().any(|event| matches!(event, Event::Exec(exec) if exec.task.comm == b"true"));
    let ended = events.iter().any(|event| matches!(event, Event::Exit(exit) if exit.task.comm == b"true"));
    assert!(started && ended, "{:?}", events.iter().rev().take(9).collect::<Vec<_>>());
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
        rig.reader.account().unwrap();
        let queued = rig.reader.queued();
        // No record is as small as 64 bytes.
        assert!(queued <= RING as usize / 64, "{queued} events");
        // They have to start first.
        rounds += usize::from(queued > 0);
        for _ in 0..queued {
            let taken = rig.reader.next().unwrap();
            rig.reader.give_back(&taken);
        }
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
