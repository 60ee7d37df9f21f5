//! Where sandbox tasks connect and send: in a namespace where every address answers, so that an error can only
//! be the hook's.

use std::net::{IpAddr, SocketAddr};

use skep_ebpf_abi::net::Verdict;
use skep_kernel::bpf::{Connect, Event, Settings};

use crate::rig::{Rig, settings};
use crate::roles::{self, ADDRESSES};

/// The errno that each destination should answer inside, for TCP and for UDP other than DNS.
fn expected(address: &str) -> (i32, i32) {
    match address {
        "192.0.2.1" | "2001:db8::1" | "::ffff:192.0.2.1" => (libc::EPERM, libc::EPERM),
        "198.18.0.5" | "fd5c:e900::5" => (0, libc::EPERM),
        _ => (0, 0),
    }
}

#[test]
fn as_root_outside_a_sandbox_every_destination_is_reached() {
    let rig = Rig::new(false);
    let lines = roles::reported(&roles::command("connect").output().unwrap());
    assert_eq!(lines.len(), 4 * ADDRESSES.len());
    // Nobody listens on port 53, but sending there succeeds.
    assert!(lines.iter().all(|line| line.ends_with(" 0")), "{lines:?}");
    drop(rig);
}

#[test]
fn as_root_inside_a_sandbox_literals_answer_eperm_and_are_recorded() {
    let mut rig = Rig::new(false);
    let lines = roles::reported(&rig.run_inside(&roles::command("connect")));
    for address in ADDRESSES {
        let (tcp, udp) = expected(address);
        for (what, errno) in [("tcp", tcp), ("sendto", udp), ("udp", udp), ("dns", 0)] {
            let line = format!("{what} {address} {errno}");
            assert!(lines.contains(&line), "{line} is not in {lines:?}");
        }
    }
    let events = rig.events();
    let connects: Vec<_> = events
        .iter()
        .filter_map(|event| if let Event::Connect(it) = event { Some(it) } else { None })
        .collect();
    check_records(&connects);
}

#[test]
fn as_root_a_port_that_no_rule_opens_answers_eperm_on_virtual_addresses_too() {
    let mut rig = Rig::new(false);
    let settings = Settings { ports: Some([1].into()), ..settings(false) };
    rig.programs.admit(rig.cgroup, &settings).unwrap();
    let lines = roles::reported(&rig.run_inside(&roles::command("connect")));
    for address in ["198.18.0.5", "fd5c:e900::5"] {
        assert!(lines.contains(&format!("tcp {address} {}", libc::EPERM)), "{address} in {lines:?}");
    }
    assert!(lines.contains(&"tcp 127.0.0.1 0".to_owned()), "{lines:?}");
    let passed = |event: &Event| matches!(event, Event::Connect(it) if it.verdict == Verdict::Virtual);
    assert!(!rig.events().iter().any(passed));
}

fn check_records(connects: &[&Connect]) {
    let of = |address: &str, protocol: i32, verdict| {
        let address: IpAddr = address.parse().unwrap();
        let fits = |connect: &&&Connect| {
            connect.destination.ip() == address
                && connect.protocol == protocol.cast_unsigned()
                && connect.verdict == verdict
        };
        connects.iter().filter(fits).count()
    };
    let (tcp, udp) = (libc::IPPROTO_TCP, libc::IPPROTO_UDP);
    assert_eq!(of("192.0.2.1", tcp, Verdict::Denied), 1);
    assert_eq!(of("2001:db8::1", tcp, Verdict::Denied), 1);
    assert_eq!(of("::ffff:192.0.2.1", tcp, Verdict::Denied), 1);
    assert_eq!(of("198.18.0.5", tcp, Verdict::Virtual), 1);
    assert_eq!(of("fd5c:e900::5", tcp, Verdict::Virtual), 1);
    // sendto and connect; the mapped sendto shows as IPv4.
    assert_eq!(of("192.0.2.1", udp, Verdict::Denied), 3);
    assert_eq!(of("::ffff:192.0.2.1", udp, Verdict::Denied), 1);
    assert_eq!(of("2001:db8::1", udp, Verdict::Denied), 2);
    // Only the sendto: the connect sends nothing, and resolvers do it for every name.
    assert_eq!(of("198.18.0.5", udp, Verdict::Denied), 1);
    assert_eq!(of("fd5c:e900::5", udp, Verdict::Denied), 1);
    let local = |address: &SocketAddr| address.ip().is_loopback();
    assert!(!connects.iter().any(|connect| local(&connect.destination)));
    assert!(connects.iter().all(|connect| connect.cookie != 0));
}
