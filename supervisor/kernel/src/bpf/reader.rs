//! The consumer of the ring: records in, events out, gaps counted.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{MapData, PerCpuArray, RingBuf};
use skep_ebpf_abi::quota::footprint;
use skep_ebpf_abi::record::Header;

use super::BpfError;
use super::decode;
use super::event::Event;
use super::ledger::Ledger;
use super::object::{OBSERVE, map_error};

/// Ended processes that are remembered, to drop a second record of the same end.
const REMEMBERED_ENDS: usize = 256;

/// How often records that were numbered are looked for before they count as lost,
const ATTEMPTS: u32 = 50;

/// and how long in between. A task that is preempted runs again after a few of these, also on a busy machine.
const PAUSE: Duration = Duration::from_millis(1);

/// Bytes of the ring that a record takes at least.
const SMALLEST_RECORD: u64 = footprint(size_of::<Header>());

/// A record that was taken out of the ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// What it says.
    pub event: Event,
    /// Id of the cgroup that is the sandbox it is of; 0 where a record makes no sense.
    pub cgroup: u64,
    /// What it takes of its sandbox's room, until [`EventReader::give_back`].
    pub bytes: u64,
}

/// Reads what the programs report. Readable (epoll, `AsyncFd`) when there are records.
///
/// A sandbox whose records nobody takes runs out of room: its further ones are only counted, and reported as
/// [`Event::Overflowed`]. Records of one CPU are numbered when they have room, so a number that is skipped is a
/// record that met a full ring, reported as [`Event::Lost`]. Under `preempt=full` a connect hook may be overtaken
/// between numbering its record and putting it into the ring: the gap is then reported although the record still comes.
pub struct EventReader {
    ring: RingBuf<MapData>,
    numbers: PerCpuArray<MapData, u64>,
    sequence: Sequence,
    waiting: VecDeque<Taken>,
    ended: VecDeque<(u32, u64)>,
    ledger: Ledger,
    /// Numbers that never arrived, by CPU, not reported yet.
    gaps: BTreeMap<u32, u64>,
    most_records: u64,
}

impl EventReader {
    /// `ring_bytes` is the size of the ring.
    pub(super) fn new(ebpf: &mut Ebpf, ring_bytes: u32) -> Result<Self, BpfError> {
        let ring = OBSERVE.map(ebpf, "EVENTS")?;
        let numbers = OBSERVE.map(ebpf, "NUMBERS")?;
        Ok(Self {
            ring,
            numbers,
            sequence: Sequence::default(),
            waiting: VecDeque::new(),
            ended: VecDeque::new(),
            ledger: Ledger::new(ebpf)?,
            gaps: BTreeMap::new(),
            most_records: u64::from(ring_bytes) / SMALLEST_RECORD,
        })
    }

    /// The next record, or `None` when there is none for now.
    #[expect(clippy::should_implement_trait, reason = "not an iterator: None is not the end")]
    pub fn next(&mut self) -> Option<Taken> {
        while self.waiting.is_empty() {
            self.take()?;
        }
        self.waiting.pop_front()
    }

    /// Notes that a record was handled: its sandbox has its room again after the next [`EventReader::account`]. A sandbox
    /// whose records take long to handle so holds up nobody but itself, and what is kept of it has a bound.
    pub fn give_back(&mut self, taken: &Taken) {
        self.ledger.took(taken.cgroup, taken.bytes);
    }

    /// Gives the room of the records handled since the last time back to their sandboxes, and says what was lost
    /// meanwhile: at most one event for each CPU and each of these sandboxes, however many gaps there were. To be
    /// called after every batch, for until then the room counts as filled.
    ///
    /// # Errors
    /// When a map cannot be read or written.
    pub fn account(&mut self) -> Result<Vec<Event>, BpfError> {
        let mut losses = self.ledger.settle()?;
        let gaps = std::mem::take(&mut self.gaps);
        losses.extend(gaps.into_iter().map(|(cpu, count)| Event::Lost { cpu, count }));
        Ok(losses)
    }

    /// Finds gaps that no later record has shown yet, as when a sandbox ends: everything numbered up to now is
    /// queued, and what has not arrived is told by [`EventReader::account`]. A record that is numbered but not in the
    /// ring yet, or not whole, is waited for, for a moment: its program was preempted, and those behind it wait with
    /// it. No more is taken than the ring holds: a sandbox that never rests fills it faster than anybody empties it.
    ///
    /// # Errors
    /// When the counters cannot be read; the records are queued all the same.
    pub fn settle(&mut self) -> Result<(), BpfError> {
        let numbers = self.numbers.get(&0, 0).map_err(|source| map_error("NUMBERS", source));
        let mut left = self.most_records;
        self.take_up_to(&mut left);
        let numbers: Vec<u64> = numbers?.iter().copied().collect();
        patiently(|| {
            self.take_up_to(&mut left);
            left == 0 || self.sequence.has_up_to(&numbers)
        });
        for (cpu, number) in (0..).zip(numbers) {
            self.lost(cpu, number);
        }
        Ok(())
    }

    /// Moves all records of the ring to the queue, but no more than are `left`.
    fn take_up_to(&mut self, left: &mut u64) {
        while *left > 0 && self.take().is_some() {
            *left -= 1;
        }
    }

    /// How many records [`EventReader::next`] has without looking into the ring.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.waiting.len()
    }

    /// Moves one record from the ring to the queue.
    fn take(&mut self) -> Option<()> {
        let item = self.ring.next()?;
        let (header, event, length) = (decode::header(&item), decode::event(&item), item.len());
        drop(item);
        if let Some(header) = header {
            self.lost(header.cpu, header.number);
            self.sequence.arrived(header.cpu, header.number);
        }
        let cgroup = header.map_or(0, |header| header.cgroup);
        let event = event.unwrap_or(Event::Malformed { length });
        let taken = Taken { event, cgroup, bytes: footprint(length) };
        if self.is_second_end(&taken.event) {
            self.give_back(&taken);
        } else {
            self.waiting.push_back(taken);
        }
        Some(())
    }

    fn lost(&mut self, cpu: u32, number: u64) {
        let count = self.sequence.missing_before(cpu, number);
        if count > 0 {
            *self.gaps.entry(cpu).or_default() += count;
            self.sequence.arrived(cpu, number - 1);
        }
    }

    /// Two threads that end at once may each report the end of their process.
    fn is_second_end(&mut self, event: &Event) -> bool {
        let Event::Exit(exit) = event else { return false };
        let process = (exit.task.process, exit.task.start_ns);
        if self.ended.contains(&process) {
            return true;
        }
        self.ended.truncate(REMEMBERED_ENDS - 1);
        self.ended.push_front(process);
        false
    }
}

impl AsFd for EventReader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

impl AsRawFd for EventReader {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

/// Tries until it is done, as often as [`ATTEMPTS`] and with a [`PAUSE`] after each.
fn patiently(mut is_done: impl FnMut() -> bool) {
    for _ in 0..ATTEMPTS {
        if is_done() {
            return;
        }
        std::thread::sleep(PAUSE);
    }
}

/// The next number expected of each CPU.
#[derive(Default)]
struct Sequence {
    next: std::collections::HashMap<u32, u64>,
}

impl Sequence {
    /// How many numbers are missing if `number` is the next to arrive.
    fn missing_before(&self, cpu: u32, number: u64) -> u64 {
        number.saturating_sub(self.next.get(&cpu).copied().unwrap_or(0))
    }

    /// Has everything arrived that was numbered when these were the next numbers, by CPU.
    fn has_up_to(&self, numbers: &[u64]) -> bool {
        (0..).zip(numbers).all(|(cpu, number)| self.missing_before(cpu, *number) == 0)
    }

    /// Notes that `number` arrived; one that comes late changes nothing.
    fn arrived(&mut self, cpu: u32, number: u64) {
        let next = self.next.entry(cpu).or_default();
        *next = (*next).max(number.saturating_add(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_counted_per_cpu() {
        let mut sequence = Sequence::default();
        sequence.arrived(0, 0);
        sequence.arrived(0, 1);
        assert_eq!(sequence.missing_before(0, 2), 0);
        assert_eq!(sequence.missing_before(0, 5), 3);
        assert_eq!(sequence.missing_before(1, 2), 2);
    }

    #[test]
    fn a_late_record_moves_nothing_back() {
        let mut sequence = Sequence::default();
        sequence.arrived(0, 7);
        sequence.arrived(0, 3);
        assert_eq!(sequence.missing_before(0, 8), 0);
    }

    #[test]
    fn everything_has_arrived_when_no_cpu_has_a_higher_number() {
        let mut sequence = Sequence::default();
        sequence.arrived(0, 4);
        assert!(sequence.has_up_to(&[5, 0]) && sequence.has_up_to(&[4, 0]));
        assert!(!sequence.has_up_to(&[6, 0]) && !sequence.has_up_to(&[5, 1]));
    }

    #[test]
    fn what_is_late_is_waited_for_and_what_never_comes_is_not() {
        for (late, asked) in [(0, 1), (3, 4), (u32::MAX, ATTEMPTS)] {
            let mut count = 0;
            patiently(|| {
                count += 1;
                count > late
            });
            assert_eq!(count, asked);
        }
    }
}
