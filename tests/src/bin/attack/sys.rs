//! Raw system calls: what a library would refuse to ask for is asked here as it is.

// UNSAFETY: attempts need system calls with arguments that no safe wrapper passes: other entry points of the
// kernel, pointers to nowhere, flags that exist for nobody's good.
#![expect(unsafe_code, reason = "see UNSAFETY above")]

use std::arch::asm;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// What the kernel answered.
pub(crate) type Answer = io::Result<i64>;

/// A system call with up to six arguments.
pub(crate) fn call(number: i64, arguments: &[usize]) -> Answer {
    let mut six = [0usize; 6];
    six[..arguments.len()].copy_from_slice(arguments);
    let [a, b, c, d, e, f] = six;
    // SAFETY: `syscall` passes words to the kernel, which checks every pointer itself; the callers give either
    // pointers to live buffers of the right size or addresses that the kernel answers with EFAULT. No caller
    // asks for a call that changes this process's own mappings or threads behind Rust's back, but `clone`, whose
    // child only exits.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The same by `int 0x80`, with the numbers of i386 and 32-bit arguments.
pub(crate) fn call_i386(number: u32, first: u32, second: u32) -> Answer {
    let result: i32;
    // SAFETY: the kernel preserves all registers but eax, which is declared; rbx is saved by hand because LLVM
    // reserves it. The arguments are addresses below 4 GiB or plain numbers.
    unsafe {
        asm!(
            "push rbx",
            "mov ebx, {first:e}",
            "int 0x80",
            "pop rbx",
            first = in(reg) first,
            inlateout("eax") number => result,
            in("ecx") second,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(i64::from(result)) }
}

/// A page below 4 GiB that holds `bytes` and a NUL, for [`call_i386`].
pub(crate) fn low_page(bytes: &[u8]) -> io::Result<u32> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: an anonymous mapping at an address of the kernel's choice overlaps nothing.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) };
    if page == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    assert!(bytes.len() < 4096, "a path fits a page");
    // SAFETY: the page is 4096 writable bytes of our own, and `bytes` is shorter.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), page.cast::<u8>(), bytes.len()) };
    u32::try_from(page as usize).map_err(io::Error::other)
}

/// The address of a value that the kernel reads.
pub(crate) fn address<T: ?Sized>(value: &T) -> usize {
    std::ptr::from_ref(value).cast::<u8>().expose_provenance()
}

/// The address of a value that the kernel writes.
pub(crate) fn address_mut<T: ?Sized>(value: &mut T) -> usize {
    std::ptr::from_mut(value).cast::<u8>().expose_provenance()
}

/// A descriptor the kernel just returned, as something that closes it.
pub(crate) fn owned(descriptor: i64) -> OwnedFd {
    // SAFETY: it comes straight from a call that makes a descriptor, so it is open and nobody else's.
    unsafe { OwnedFd::from_raw_fd(descriptor as i32) }
}
