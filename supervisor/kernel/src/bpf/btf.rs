//! Where members are in the kernel's structures, read from its own description of its types.
//!
//! A small reader of the BTF format (Documentation/bpf/btf.rst): it skips over everything but structures and
//! unions, never trusts a length or an index, and refuses what is ambiguous.

use std::collections::HashMap;

use skep_ebpf_abi::offsets::Offsets;

use super::BpfError;

const VMLINUX: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u16 = 0xeb9f;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
/// How deep anonymous members and modifiers are followed.
const DEPTH: u32 = 8;

/// The offsets on the running kernel.
///
/// # Errors
/// When the kernel has no BTF, or lacks a member, which is named.
pub(super) fn offsets() -> Result<Offsets, BpfError> {
    let bytes = std::fs::read(VMLINUX).map_err(|error| BpfError::Types(error.to_string()))?;
    let types = Types::parse(&bytes).ok_or_else(|| BpfError::Types("no valid BTF".to_owned()))?;
    let mut found = Vec::with_capacity(Offsets::MEMBERS.len());
    for &(structure, member) in Offsets::MEMBERS {
        let offset = types.offset(structure, member);
        found.push(offset.ok_or(BpfError::Member { structure, member })?);
    }
    Ok(bytemuck::pod_read_unaligned(bytemuck::cast_slice(&found)))
}

/// The types of a BTF blob.
struct Types<'a> {
    /// Every type from its common part on; type 1 is the first.
    types: Vec<&'a [u8]>,
    /// Structures by name.
    structures: HashMap<&'a [u8], Vec<u32>>,
    strings: &'a [u8],
}

/// The part every type begins with.
#[derive(Clone, Copy)]
struct Common {
    name: u32,
    info: u32,
    size_or_type: u32,
}

impl Common {
    const SIZE: usize = 12;

    fn read(bytes: &[u8]) -> Option<Self> {
        Some(Self { name: word(bytes, 0)?, info: word(bytes, 4)?, size_or_type: word(bytes, 8)? })
    }

    fn kind(self) -> u32 {
        self.info >> 24 & 0x1f
    }

    /// Members of a structure, parameters of a function, values of an enumeration.
    fn count(self) -> usize {
        (self.info & 0xffff) as usize
    }

    /// Do member offsets carry the size of a bit field in their top byte.
    fn has_bit_fields(self) -> bool {
        self.info >> 31 == 1
    }

    /// Bytes behind the common part.
    fn tail(self) -> Option<usize> {
        Some(match self.kind() {
            // INT, VAR, DECL_TAG
            1 | 14 | 17 => 4,
            // PTR, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, FLOAT, TYPE_TAG
            2 | 7..=12 | 16 | 18 => 0,
            // ARRAY
            3 => 12,
            // STRUCT, UNION, DATASEC, ENUM64
            STRUCT | UNION | 15 | 19 => self.count() * 12,
            // ENUM, FUNC_PROTO
            6 | 13 => self.count() * 8,
            _ => return None,
        })
    }
}

impl<'a> Types<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        if u16::from_le_bytes(bytes.get(..2)?.try_into().ok()?) != MAGIC {
            return None;
        }
        let body = bytes.get(word(bytes, 4)? as usize..)?;
        let section = |at: usize| {
            let start = word(bytes, at)? as usize;
            body.get(start..start.checked_add(word(bytes, at + 4)? as usize)?)
        };
        let (mut rest, strings) = (section(8)?, section(16)?);
        let mut types = Self { types: Vec::new(), structures: HashMap::new(), strings };
        while !rest.is_empty() {
            let common = Common::read(rest)?;
            let (this, next) = rest.split_at_checked(Common::SIZE + common.tail()?)?;
            types.types.push(this);
            if common.kind() == STRUCT && common.name != 0 {
                let id = u32::try_from(types.types.len()).ok()?;
                types.structures.entry(types.string(common.name)?).or_default().push(id);
            }
            rest = next;
        }
        Some(types)
    }

    fn string(&self, at: u32) -> Option<&'a [u8]> {
        self.strings.get(at as usize..)?.split(|byte| *byte == 0).next()
    }

    /// The byte offset of a member. Structures of the same name must agree.
    fn offset(&self, structure: &str, member: &str) -> Option<u32> {
        let candidates = self.structures.get(structure.as_bytes())?;
        let mut offsets = candidates.iter().filter_map(|id| self.member(*id, member.as_bytes(), DEPTH));
        let first = offsets.next()?;
        let whole_bytes = first % 8 == 0;
        (whole_bytes && offsets.all(|other| other == first)).then_some(first / 8)
    }

    /// The bit offset of a member, anonymous structures and unions inside included: `d_name` of a dentry
    /// stands in one since 6.16, and `f_path` of a file since 6.5.
    fn member(&self, id: u32, wanted: &[u8], depth: u32) -> Option<u32> {
        let bytes = *self.types.get((id as usize).checked_sub(1)?)?;
        let common = Common::read(bytes)?;
        let depth = depth.checked_sub(1)?;
        match common.kind() {
            STRUCT | UNION => {}
            // TYPEDEF, VOLATILE, CONST, TYPE_TAG
            8..=10 | 18 => return self.member(common.size_or_type, wanted, depth),
            _ => return None,
        }
        bytes.get(Common::SIZE..)?.chunks_exact(12).find_map(|entry| {
            let (name, kind, offset) = (word(entry, 0)?, word(entry, 4)?, word(entry, 8)?);
            let bits = if common.has_bit_fields() { offset & 0x00ff_ffff } else { offset };
            if name == 0 {
                return bits.checked_add(self.member(kind, wanted, depth)?);
            }
            (self.string(name)? == wanted).then_some(bits)
        })
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kernel() -> Vec<u8> {
        std::fs::read(VMLINUX).expect("the kernel has BTF")
    }

    #[test]
    fn every_member_is_found_on_this_kernel() {
        let offsets = offsets().expect("all members");
        assert_ne!(offsets.dentry_parent, 0);
        assert_ne!(offsets.file_path, offsets.file_inode);
        assert_eq!(offsets.mount_shown % 8, 0);
    }

    #[test]
    fn a_member_of_an_anonymous_union_is_found_at_its_place() {
        let bytes = kernel();
        let types = Types::parse(&bytes).unwrap();
        // `struct qstr` is a union of hash and length with a pointer behind it, the same since 3.x.
        assert_eq!(types.offset("qstr", "len"), Some(4));
        assert_eq!(types.offset("qstr", "name"), Some(8));
    }

    #[test]
    fn a_member_that_does_not_exist_is_not_found() {
        let bytes = kernel();
        let types = Types::parse(&bytes).unwrap();
        assert_eq!(types.offset("dentry", "d_nothing"), None);
        assert_eq!(types.offset("no_such_structure", "len"), None);
    }

    #[test]
    fn cut_descriptions_are_refused_or_read_without_a_panic() {
        let bytes = kernel();
        for length in (0..bytes.len().min(4096)).chain([bytes.len() / 2, bytes.len() - 1]) {
            let _ = Types::parse(&bytes[..length]);
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 24..512)) {
            bytes[..8].copy_from_slice(&[0x9f, 0xeb, 1, 0, 24, 0, 0, 0]);
            if let Some(types) = Types::parse(&bytes) {
                for id in 0..8 {
                    let _ = types.member(id, b"x", DEPTH);
                }
            }
        }
    }
}
