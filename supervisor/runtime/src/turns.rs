//! Whose records are handled next.
//!
//! What a record costs is in the hands of whoever made it: the rules of his profile, the length of a path, the links on
//! its way. So each sandbox has a queue of its own, and the next turn is always that of the sandbox that has used the
//! least time: one whose records are slow waits for itself. Time nobody else wants is anybody's, and is no debt later:
//! whoever comes new begins where the others are.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// What waits, by sandbox.
#[derive(Debug)]
pub struct Turns<T> {
    queues: BTreeMap<u64, Queue<T>>,
    /// What the sandbox of the last turn had used before it: where those that come new begin.
    level: Duration,
    /// The number of the next thing that comes.
    next: u64,
    bytes: u64,
}

#[derive(Debug)]
struct Queue<T> {
    waiting: VecDeque<Waiting<T>>,
    bytes: u64,
    used: Duration,
}

#[derive(Debug)]
struct Waiting<T> {
    number: u64,
    bytes: u64,
    thing: T,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self { queues: BTreeMap::new(), level: Duration::ZERO, next: 0, bytes: 0 }
    }
}

impl<T> Turns<T> {
    /// Puts a thing of so many bytes behind what the sandbox has waiting.
    pub fn push(&mut self, sandbox: u64, bytes: u64, thing: T) {
        let new = || Queue { waiting: VecDeque::new(), bytes: 0, used: self.level };
        let queue = self.queues.entry(sandbox).or_insert_with(new);
        if queue.waiting.is_empty() {
            queue.used = queue.used.max(self.level);
        }
        queue.waiting.push_back(Waiting { number: self.next, bytes, thing });
        queue.bytes += bytes;
        self.bytes += bytes;
        self.next += 1;
    }

    /// The sandbox whose turn it is, if any has something waiting.
    pub fn whose(&mut self) -> Option<u64> {
        let waiting = self.queues.iter().filter(|(_, queue)| !queue.waiting.is_empty());
        let Some((sandbox, used)) =
            waiting.map(|(sandbox, queue)| (*sandbox, queue.used)).min_by_key(|(_, used)| *used)
        else {
            // Nobody was kept waiting by what has been used so far.
            self.queues.clear();
            return None;
        };
        self.level = used;
        self.queues.retain(|_, queue| !queue.waiting.is_empty() || queue.used > used);
        Some(sandbox)
    }

    /// The first thing that a sandbox has waiting.
    pub fn take(&mut self, sandbox: u64) -> Option<T> {
        let queue = self.queues.get_mut(&sandbox)?;
        let Waiting { bytes, thing, .. } = queue.waiting.pop_front()?;
        queue.bytes -= bytes;
        self.bytes -= bytes;
        Some(thing)
    }

    /// Notes what the turn of a sandbox took.
    pub fn charge(&mut self, sandbox: u64, time: Duration) {
        if let Some(queue) = self.queues.get_mut(&sandbox) {
            queue.used += time;
        }
    }

    /// What a sandbox has used, counted from an arbitrary beginning as long as it has something waiting.
    pub fn used(&self, sandbox: u64) -> Duration {
        self.queues.get(&sandbox).map_or(self.level, |queue| queue.used)
    }

    /// The sandbox that has the most bytes waiting, if all together have more than so many.
    pub fn heaviest_beyond(&self, bytes: u64) -> Option<u64> {
        let heaviest = || self.queues.iter().max_by_key(|(_, queue)| queue.bytes);
        if self.bytes > bytes { heaviest().map(|(sandbox, _)| *sandbox) } else { None }
    }

    /// The number of the next thing that comes.
    pub fn now(&self) -> u64 {
        self.next
    }

    /// Has everything been taken that came before number `now`, of one sandbox or of all?
    pub fn are_past(&self, now: u64, sandbox: Option<u64>) -> bool {
        let is_past = |queue: &Queue<T>| queue.waiting.front().is_none_or(|first| first.number >= now);
        match sandbox {
            Some(sandbox) => self.queues.get(&sandbox).is_none_or(is_past),
            None => self.queues.values().all(is_past),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    /// Gives so many turns of one thing each, where a thing says what it costs, and returns whose they were.
    fn turns(turns: &mut Turns<Duration>, count: usize) -> Vec<u64> {
        let turn = |_| {
            let sandbox = turns.whose()?;
            let cost = turns.take(sandbox)?;
            turns.charge(sandbox, cost);
            Some(sandbox)
        };
        (0..count).map_while(turn).collect()
    }

    fn pushed(queues: &[(u64, usize, Duration)]) -> Turns<Duration> {
        let mut turns = Turns::default();
        for (sandbox, count, cost) in queues {
            (0..*count).for_each(|_| turns.push(*sandbox, 1, *cost));
        }
        turns
    }

    #[test]
    fn one_slow_thing_of_another_is_all_that_a_sandbox_waits_for() {
        let mut slow = pushed(&[(1, 100, 500 * MILLISECOND)]);
        assert_eq!(turns(&mut slow, 10), [1; 10]);
        (0..50).for_each(|_| slow.push(2, 1, MILLISECOND));
        let order = turns(&mut slow, 60);
        assert_eq!(order[..50], [2; 50], "each of its own is quick");
        assert_eq!(order[50..], [1; 10]);
    }

    #[test]
    fn what_was_used_while_nobody_else_wanted_it_is_no_debt() {
        let mut alone = pushed(&[(1, 200, MILLISECOND)]);
        assert_eq!(turns(&mut alone, 100).len(), 100);
        (0..100).for_each(|_| alone.push(2, 1, MILLISECOND));
        let order = turns(&mut alone, 20);
        assert!((9..=11).contains(&order.iter().filter(|sandbox| **sandbox == 1).count()), "{order:?}");
    }

    #[test]
    fn who_has_nothing_waiting_for_a_while_saves_no_time_up_and_loses_no_debt() {
        let mut two = pushed(&[(1, 1, 50 * MILLISECOND), (2, 500, MILLISECOND)]);
        assert_eq!(turns(&mut two, 11)[0], 1);
        two.push(1, 1, MILLISECOND);
        assert!(!turns(&mut two, 30).contains(&1), "it has used fifty");
        assert!(turns(&mut two, 200).contains(&1));
        (0..100).for_each(|_| two.push(1, 1, MILLISECOND));
        let order = turns(&mut two, 20);
        assert!((9..=11).contains(&order.iter().filter(|sandbox| **sandbox == 1).count()), "{order:?}");
    }

    #[test]
    fn what_comes_later_is_not_waited_for() {
        let mut two = pushed(&[(1, 2, MILLISECOND), (2, 1, MILLISECOND)]);
        let now = two.now();
        two.push(1, 1, MILLISECOND);
        assert!(!two.are_past(now, Some(1)) && !two.are_past(now, Some(2)) && two.are_past(now, Some(3)));
        two.take(1);
        two.take(1);
        assert!(two.are_past(now, Some(1)) && !two.are_past(now, None));
        two.take(2);
        assert!(two.are_past(now, None) && !two.are_past(two.now(), None));
    }

    #[test]
    fn when_there_is_too_much_it_is_the_heaviest_that_has_it() {
        let mut turns = Turns::default();
        for (sandbox, bytes) in [(1, 60), (2, 10), (1, 20), (3, 70)] {
            turns.push(sandbox, bytes, ());
        }
        assert_eq!((turns.heaviest_beyond(160), turns.heaviest_beyond(159)), (None, Some(1)));
        turns.take(1);
        assert_eq!((turns.heaviest_beyond(100), turns.heaviest_beyond(99)), (None, Some(3)));
    }

    proptest! {
        /// Of `others` that always have something waiting, each one turn of which costs at most `cost`, a sandbox waits for
        /// no more than one turn each beyond what it uses itself.
        #[test]
        fn nobody_waits_for_more_than_one_turn_of_each_other_beyond_his_own_time(
            others in proptest::collection::vec(1_u32..1000, 1..6),
            before in 0_usize..40,
            own in proptest::collection::vec(1_u32..50, 1..20),
        ) {
            let mut all = Turns::default();
            for (sandbox, cost) in (1..).zip(&others) {
                (0..1100 / cost + 50).for_each(|_| all.push(sandbox, 1, *cost * MILLISECOND));
            }
            turns(&mut all, before);
            own.iter().for_each(|cost| all.push(0, 1, *cost * MILLISECOND));
            let now = all.now();
            let mut spent = vec![Duration::ZERO; others.len() + 1];
            while !all.are_past(now, Some(0)) {
                let sandbox = turns(&mut all, 1)[0];
                let cost = if sandbox == 0 { continue } else { others[usize::try_from(sandbox).unwrap() - 1] };
                spent[usize::try_from(sandbox).unwrap()] += cost * MILLISECOND;
            }
            let own: u32 = own.iter().sum();
            for (spent, cost) in spent[1..].iter().zip(&others) {
                prop_assert!(*spent <= (own + cost) * MILLISECOND, "{spent:?} of {cost}, own {own}");
            }
        }
    }
}
