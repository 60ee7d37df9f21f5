//! From the bytes of a record to an [`Event`]. Whatever the bytes say, the answer is an event or `None`.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use bytemuck::AnyBitPattern;
use skep_ebpf_abi::net::Verdict;
use skep_ebpf_abi::record::*;

use super::event::{
    Accuracy, Call, Claimed, Connect, Event, Exec, Exit, Named, Opened, Ran, ResolvedPath, Status, Task,
};

/// `FMODE_CREATED`.
const CREATED: u32 = 0x10_0000;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
/// Low bits of the kernel's `dev_t` that are the minor number.
const MINOR_BITS: u32 = 20;

/// The header of a record, if it is long enough to have one.
pub(super) fn header(bytes: &[u8]) -> Option<Header> {
    read(bytes)
}

/// Decodes one record.
pub(super) fn event(bytes: &[u8]) -> Option<Event> {
    match header(bytes)?.kind {
        EXEC => exec(bytes).map(Event::Exec),
        EXIT => exit(&read(bytes)?).map(Event::Exit),
        OPENED => opened(bytes).map(Event::Opened),
        REFUSED => call(bytes).map(Event::Refused),
        CHANGED => call(bytes).map(Event::Changed),
        CONNECT => connect(&read(bytes)?).map(Event::Connect),
        _ => None,
    }
}

fn read<T: AnyBitPattern>(bytes: &[u8]) -> Option<T> {
    bytes.get(..size_of::<T>()).map(bytemuck::pod_read_unaligned)
}

fn task(header: &Header) -> Task {
    let end = header.comm.iter().position(|byte| *byte == 0).unwrap_or(header.comm.len());
    Task {
        cgroup: header.cgroup,
        process: header.process,
        thread: header.thread,
        parent: header.parent,
        start_ns: header.start_ns,
        time_ns: header.time_ns,
        comm: header.comm.get(..end).unwrap_or_default().to_vec(),
    }
}

/// The head and the sections of a record with text; a section that is not present is `None`.
struct Text<'a> {
    head: TextHead,
    sections: [Option<(&'a [u8], Section)>; SECTIONS],
}

impl<'a> Text<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let head: TextHead = read(bytes)?;
        let mut rest = bytes.get(size_of::<TextHead>()..)?;
        let mut sections = [None; SECTIONS];
        for (slot, section) in sections.iter_mut().zip(head.sections) {
            if section.present == 0 {
                continue;
            }
            let (this, next) = rest.split_at_checked(usize::try_from(section.length).ok()?)?;
            *slot = Some((this, section));
            rest = next;
        }
        Some(Self { head, sections })
    }

    fn path(&self, section: usize) -> Option<ResolvedPath> {
        let (bytes, section) = (*self.sections.get(section)?)?;
        let accuracy = accuracy(section.marks);
        Some(ResolvedPath { path: upright(bytes, accuracy), accuracy })
    }

    fn claimed(&self, section: usize) -> Option<Claimed> {
        let (bytes, section) = (*self.sections.get(section)?)?;
        Some(Claimed { bytes: bytes.to_vec(), total: section.total, accuracy: accuracy(section.marks) })
    }

    fn named(&self, base: usize, claimed: usize) -> Option<Named> {
        let marks = self.sections.get(base).copied().flatten().map_or(0, |(_, section)| section.marks);
        let by_descriptor = marks & MARK_DESCRIPTOR != 0 && marks & MARK_DETACHED == 0;
        let named = Named { base: self.path(base), by_descriptor, claimed: self.claimed(claimed) };
        (named.base.is_some() || named.claimed.is_some()).then_some(named)
    }

    fn file(&self) -> Ran {
        let device = self.head.device;
        Ran {
            path: self.path(0).unwrap_or_else(missing),
            device: (device >> MINOR_BITS, device & ((1 << MINOR_BITS) - 1)),
            inode: self.head.inode,
            mode: self.head.mode,
        }
    }
}

fn missing() -> ResolvedPath {
    ResolvedPath { path: Vec::new(), accuracy: Accuracy { unreadable: true, ..Accuracy::default() } }
}

fn accuracy(marks: u32) -> Accuracy {
    Accuracy {
        truncated: marks & MARK_TRUNCATED != 0,
        too_deep: marks & MARK_TOO_DEEP != 0,
        unreadable: marks & MARK_UNREADABLE != 0,
        detached: marks & MARK_DETACHED != 0,
    }
}

/// Turns `leaf/parent/top/` into `/top/parent/leaf`. Without its top the path does not begin with a slash, so
/// that it cannot be taken for another one.
fn upright(bytes: &[u8], accuracy: Accuracy) -> Vec<u8> {
    let names = bytes.strip_suffix(b"/").unwrap_or(bytes);
    if names.is_empty() {
        return if accuracy.is_whole() { b"/".to_vec() } else { Vec::new() };
    }
    let mut path = Vec::with_capacity(bytes.len() + 1);
    for name in names.rsplit(|byte| *byte == b'/') {
        if !path.is_empty() || accuracy.is_whole() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
    }
    path
}

fn exec(bytes: &[u8]) -> Option<Exec> {
    let text = Text::read(bytes)?;
    Some(Exec {
        task: task(&text.head.header),
        program: text.file(),
        arguments: text.claimed(1)?,
        old_thread: u32::try_from(text.head.result).unwrap_or(0),
    })
}

fn exit(record: &ExitRecord) -> Option<Exit> {
    let [low, high, ..] = record.status.to_le_bytes();
    let status = if low & 0x7f == 0 { Status::Code(high) } else { Status::Signal(low & 0x7f) };
    Some(Exit { task: task(&record.header), status })
}

fn opened(bytes: &[u8]) -> Option<Opened> {
    let text = Text::read(bytes)?;
    Some(Opened {
        task: task(&text.head.header),
        syscall: text.head.syscall,
        file: text.file(),
        passed_flags: text.head.argument,
        kept_flags: text.head.file_flags,
        created: text.head.file_mode & CREATED != 0,
    })
}

fn call(bytes: &[u8]) -> Option<Call> {
    let text = Text::read(bytes)?;
    let result = i32::try_from(text.head.result.min(0)).ok()?;
    Some(Call {
        task: task(&text.head.header),
        syscall: text.head.syscall,
        errno: result.checked_neg()?,
        argument: text.head.argument,
        first: text.named(0, 1).unwrap_or_default(),
        second: text.named(2, 3),
    })
}

fn connect(record: &ConnectRecord) -> Option<Connect> {
    let port = u16::try_from(record.port).ok()?;
    let [a, b, c, d] = record.address;
    let destination = match record.family {
        AF_INET => SocketAddr::from((Ipv4Addr::from_bits(a), port)),
        AF_INET6 => {
            let words = [a, b, c, d].into_iter().fold(0, |bits, word| bits << 32 | u128::from(word));
            SocketAddr::from((Ipv6Addr::from_bits(words), port))
        }
        _ => return None,
    };
    Some(Connect {
        task: task(&record.header),
        destination,
        protocol: record.protocol,
        verdict: Verdict::from_number(record.verdict)?,
        cookie: record.cookie,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytemuck::Zeroable;
    use proptest::prelude::*;

    fn record(kind: u32, sections: &[(&[u8], u32)]) -> Vec<u8> {
        let mut head = TextHead::zeroed();
        head.header.kind = kind;
        head.device = 8 << 20 | 1;
        let mut text = Vec::new();
        for (slot, (bytes, marks)) in head.sections.iter_mut().zip(sections) {
            let length = u32::try_from(bytes.len()).unwrap();
            *slot = Section { length, marks: *marks, total: length, present: 1 };
            text.extend_from_slice(bytes);
        }
        let mut record = bytemuck::bytes_of(&head).to_vec();
        record.extend(text);
        record.extend([0xaa; 64]);
        record
    }

    #[test]
    fn a_walked_path_is_turned_upright() {
        let Some(Event::Opened(opened)) = event(&record(OPENED, &[(b"c/b/a/", 0)])) else { panic!() };
        assert_eq!(opened.file.path.path, b"/a/b/c");
        assert_eq!(opened.file.device, (8, 1));
    }

    #[test]
    fn the_root_itself_is_a_slash() {
        assert_eq!(upright(b"", Accuracy::default()), b"/");
    }

    #[test]
    fn a_path_without_its_top_does_not_look_absolute() {
        let bytes = record(OPENED, &[(b"c/b/", MARK_TOO_DEEP)]);
        let Some(Event::Opened(opened)) = event(&bytes) else { panic!() };
        assert_eq!(opened.file.path.path, b"b/c");
        assert!(opened.file.path.accuracy.too_deep);
    }

    #[test]
    fn a_rename_has_two_names() {
        let sections: [(&[u8], u32); 4] = [(b"w/", 0), (b"old", 0), (b"w/", 0), (b"/new", 0)];
        let Some(Event::Changed(call)) = event(&record(CHANGED, &sections)) else { panic!() };
        assert_eq!(call.first.joined(), b"/w/old");
        assert_eq!(call.second.unwrap().joined(), b"/new");
    }

    #[test]
    fn a_section_longer_than_the_record_is_refused() {
        let mut bytes = record(OPENED, &[(b"abc/", 0)]);
        bytes.truncate(size_of::<TextHead>() + 2);
        assert_eq!(event(&bytes), None);
    }

    #[test]
    fn an_exit_is_a_code_or_a_signal() {
        let mut record = ExitRecord::zeroed();
        record.header.kind = EXIT;
        for (raw, status) in [(0x300, Status::Code(3)), (9, Status::Signal(9)), (0x8b, Status::Signal(11))] {
            record.status = raw;
            let Some(Event::Exit(exit)) = event(bytemuck::bytes_of(&record)) else { panic!() };
            assert_eq!(exit.status, status);
        }
    }

    #[test]
    fn an_ipv6_destination_keeps_its_words_in_order() {
        let mut record = ConnectRecord::zeroed();
        (record.header.kind, record.family, record.port, record.verdict) = (CONNECT, AF_INET6, 443, 2);
        record.address = [0x2001_0db8, 0, 0, 7];
        let Some(Event::Connect(connect)) = event(bytemuck::bytes_of(&record)) else { panic!() };
        assert_eq!(connect.destination.to_string(), "[2001:db8::7]:443");
        assert_eq!(connect.verdict, Verdict::Denied);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..600),
            kind in 0u32..8,
            lengths in proptest::collection::vec(0u32..300, 4),
        ) {
            if let Some(field) = bytes.get_mut(48..52) {
                field.copy_from_slice(&kind.to_le_bytes());
            }
            for (index, length) in lengths.iter().enumerate() {
                if let Some(field) = bytes.get_mut(120 + 16 * index..124 + 16 * index) {
                    field.copy_from_slice(&length.to_le_bytes());
                }
            }
            let _ = event(&bytes);
        }
    }
}
