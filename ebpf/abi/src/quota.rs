//! How the ring is divided: one sandbox's flood must not cost another its records, nor the flooder's own
//! starts and ends of programs, which are what an audit can least do without.

use crate::record::{EXEC, EXIT};

/// Parts of the ring; one sandbox may fill one of them.
const PARTS: u64 = 4;

/// Bytes of the ring that a record of `length` bytes takes: the kernel puts 8 before it and rounds up to 8.
#[inline(always)]
pub const fn footprint(length: usize) -> u64 {
    (length as u64 + 8).next_multiple_of(8)
}

/// Is there room for one more record of this kind in a ring of `ring` bytes, of which `unread` are filled, `held` of
/// them by records of the same sandbox.
///
/// Starts and ends of programs may fill the sandbox's whole part, everything else half of it, and half of the ring.
/// Whoever asks does not wait for others who ask at the same time, so the bounds are overstepped by a record or two.
#[inline(always)]
pub fn has_room(kind: u32, ring: u64, unread: u64, held: u64) -> bool {
    let own = ring / PARTS;
    match kind {
        EXEC | EXIT => held < own,
        _ => held < own / 2 && unread <= ring / 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{CHANGED, CONNECT, OPENED, REFUSED};

    const RING: u64 = 1 << 20;

    #[test]
    fn a_record_takes_its_length_and_the_kernels_header_in_steps_of_8() {
        assert_eq!([0, 1, 8, 9].map(footprint), [8, 16, 16, 24]);
    }

    #[test]
    fn starts_and_ends_may_fill_a_quarter_of_the_ring_whatever_others_fill() {
        for kind in [EXEC, EXIT] {
            assert!(has_room(kind, RING, RING, RING / 4 - 1));
            assert!(!has_room(kind, RING, RING / 4, RING / 4));
        }
    }

    #[test]
    fn everything_else_may_fill_half_of_that_and_half_of_the_ring() {
        for kind in [OPENED, REFUSED, CHANGED, CONNECT] {
            assert!(has_room(kind, RING, RING / 2, RING / 8 - 1));
            assert!(!has_room(kind, RING, RING / 8, RING / 8));
            assert!(!has_room(kind, RING, RING / 2 + 1, 0));
        }
    }

    #[test]
    fn a_ring_of_no_size_has_no_room() {
        assert!(!has_room(EXEC, 0, 0, 0) && !has_room(OPENED, 0, 0, 0));
    }
}
