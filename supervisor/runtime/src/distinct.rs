//! What was met before, as far as it is remembered.
//!
//! An agent chooses how many different things it does and how long their names are, so both are bounded. What finds
//! no room can only be counted from then on, or be treated as new every time.

use std::collections::BTreeMap;

/// How many different things are remembered,
const MOST: usize = 10_000;

/// and how many bytes of them.
const MOST_BYTES: usize = 4 << 20;

/// Was it met before? Of several answers the greatest says whether there was anything new.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Met {
    /// Yes.
    Again,
    /// Perhaps: there is no room to remember it.
    Perhaps,
    /// No. It is remembered now.
    First,
}

/// The different things that were met, each with what is known of it.
#[derive(Debug)]
pub struct Distinct<K, V = ()> {
    known: BTreeMap<K, V>,
    bytes: usize,
    is_full: bool,
    was_said: bool,
}

impl<K, V> Default for Distinct<K, V> {
    fn default() -> Self {
        Self { known: BTreeMap::new(), bytes: 0, is_full: false, was_said: false }
    }
}

impl<K: Ord, V> Distinct<K, V> {
    /// Notes that `thing` was met. The first time it is remembered with `value`, both of which have `bytes` bytes;
    /// what is known of it is there to be changed.
    pub fn meet(&mut self, thing: K, value: V, bytes: usize) -> (Met, Option<&mut V>) {
        use std::collections::btree_map::Entry;

        let has_room = self.known.len() < MOST && self.bytes + bytes <= MOST_BYTES;
        match self.known.entry(thing) {
            Entry::Occupied(entry) => (Met::Again, Some(entry.into_mut())),
            Entry::Vacant(entry) if has_room && !self.is_full => {
                self.bytes += bytes;
                (Met::First, Some(entry.insert(value)))
            }
            // From here on nothing new is remembered, however short: what is said of the things without room
            // holds for all that come later.
            Entry::Vacant(_) => {
                self.is_full = true;
                (Met::Perhaps, None)
            }
        }
    }

    /// What is known of a thing.
    pub fn get(&self, thing: &K) -> Option<&V> {
        self.known.get(thing)
    }

    /// Those that are remembered.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.known.iter()
    }

    /// Is it time to say that nothing new is remembered any more? The answer is yes once.
    pub fn says_it_is_full(&mut self) -> bool {
        self.is_full && !std::mem::replace(&mut self.was_said, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn met(distinct: &mut Distinct<Vec<u8>>, thing: &[u8]) -> Met {
        distinct.meet(thing.to_vec(), (), thing.len()).0
    }

    #[test]
    fn a_thing_is_met_for_the_first_time_once() {
        let mut distinct = Distinct::default();
        assert_eq!([met(&mut distinct, b"a"), met(&mut distinct, b"a")], [Met::First, Met::Again]);
        assert_eq!(met(&mut distinct, b"b"), Met::First);
    }

    #[test]
    fn what_is_known_of_a_thing_can_be_changed() {
        let mut distinct = Distinct::<&str, u32>::default();
        for count in 1..=3 {
            let (_, known) = distinct.meet("a", 0, 1);
            *known.unwrap() += 1;
            assert!(distinct.iter().eq([(&"a", &count)]));
        }
    }

    #[test]
    fn there_is_room_for_ten_thousand_things() {
        let mut distinct = Distinct::default();
        for number in 0..MOST {
            assert_eq!(met(&mut distinct, &number.to_be_bytes()), Met::First);
        }
        assert_eq!([met(&mut distinct, b"a"), met(&mut distinct, b"a")], [Met::Perhaps; 2]);
        assert_eq!(met(&mut distinct, &0usize.to_be_bytes()), Met::Again);
    }

    #[test]
    fn there_is_room_for_four_mebibytes_whatever_their_number() {
        let mut distinct = Distinct::default();
        for number in 0..4 {
            assert_eq!(met(&mut distinct, &vec![number; (1 << 20) - 1]), Met::First);
        }
        assert_eq!(met(&mut distinct, b"12345"), Met::Perhaps);
        assert_eq!(met(&mut distinct, b"1"), Met::Perhaps, "once full, it stays so");
        assert_eq!(met(&mut distinct, &vec![0; (1 << 20) - 1]), Met::Again);
    }

    #[test]
    fn that_it_is_full_is_said_once() {
        let mut distinct = Distinct::default();
        met(&mut distinct, b"a");
        assert!(!distinct.says_it_is_full());
        met(&mut distinct, &vec![0; MOST_BYTES]);
        assert!(distinct.says_it_is_full() && !distinct.says_it_is_full());
    }
}
