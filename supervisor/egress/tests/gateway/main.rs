//! The real binary between a sandbox, a host and a `skepd` that are all ours. Root only: it makes namespaces.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod measure;
mod world;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use nix::libc;
use nix::sys::signal::Signal;
use skep_kernel::seqpacket::MAX_MESSAGE;
use skep_policy::decision::Decision::{Allow, Ask, Deny};
use skep_policy::gateway::{GatewayEvent, GatewayRequest, Subject};

use world::{Place, World, accept, is_reset, is_untouched, question, rules};

const HOSTS: &str = "93.184.216.34 api.example\n127.0.0.1 rebind.example\n169.254.169.254 meta.example\n\
                     ::ffff:127.0.0.1 mapped.example\n10.99.0.1 lan.example\n\
                     93.184.217.1 first.example\n93.184.217.2 second.example\n2600:9000::1 sixth.example\n\
                     2606:2800:220:1::1 api6.example\n";

/// A world with one sandbox on port 443 whose rules allow `name:443`.
fn allowing(name: &str) -> World {
    let world = World::new(HOSTS);
    world.serve(443, rules(&[(name, Some(443), Allow)]));
    world
}

fn on_443(address: std::net::IpAddr) -> SocketAddr {
    SocketAddr::new(address, 443)
}

#[test]
fn root_only_bytes_reach_the_real_host_and_back_over_both_families() {
    let world = allowing("api.example");
    let server = world.internet.listen("0.0.0.0:443");
    for kind in [RecordType::A, RecordType::AAAA] {
        let mut client = world.agent.connect(on_443(world.address("API.example.", kind))).unwrap();
        client.write_all(b"question").unwrap();
        // The end of one direction is passed on, and the other goes on.
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(world.record(), (Allow, "allowed by the rule".to_owned()));
        let mut upstream = accept(&server);
        assert_eq!(upstream.local_addr().unwrap().to_string(), "93.184.216.34:443");
        let mut got = String::new();
        upstream.read_to_string(&mut got).unwrap();
        assert_eq!(got, "question");
        upstream.write_all(b"the answer").unwrap();
        drop(upstream);
        let mut got = String::new();
        client.read_to_string(&mut got).unwrap();
        assert_eq!(got, "the answer");
        assert_eq!(world.closed(), (8, 10, None));
    }
    assert!(world.hang_up().success());
}

#[test]
fn root_only_nothing_is_dialled_before_the_record_is_written() {
    let world = allowing("api.example");
    let server = world.internet.listen("0.0.0.0:443");
    let mut client = world.agent.connect(on_443(world.address("api.example.", RecordType::A))).unwrap();
    client.write_all(b"early").unwrap();
    let (number, decision, _) = world.judged();
    assert_eq!(decision, Allow);
    // Two more questions are answered meanwhile: the gateway had every chance to dial.
    world.ask("other.example.", RecordType::A);
    world.ask("another.example.", RecordType::A);
    assert!(is_untouched(&server));
    world.say(&GatewayRequest::Recorded { number });
    let mut got = [0; 5];
    accept(&server).read_exact(&mut got).unwrap();
    assert_eq!(&got, b"early");
}

#[test]
fn root_only_an_address_is_given_away_only_when_its_name_is_written_down() {
    let world = allowing("api.example");
    let questions = [RecordType::A, RecordType::AAAA].map(|kind| world.send_question("api.example.", kind).0);
    let GatewayEvent::Judged { number, subject, .. } = world.event() else { panic!("not judged") };
    let addresses = ("198.18.1.0".parse().unwrap(), "fd5c:e900::100".parse().unwrap());
    assert_eq!(subject, Subject::Name { name: "api.example".to_owned(), addresses: Some(addresses) });
    // A question about nothing of the kind is answered meanwhile.
    world.ask("other.example.", RecordType::A);
    for socket in &questions {
        socket.set_nonblocking(true).unwrap();
        assert_eq!(socket.recv(&mut [0; 512]).unwrap_err().kind(), ErrorKind::WouldBlock);
        socket.set_nonblocking(false).unwrap();
    }
    world.say(&GatewayRequest::Recorded { number });
    for socket in &questions {
        assert!(socket.recv(&mut [0; 512]).unwrap() > 12);
    }
}

#[test]
fn root_only_a_port_no_rule_names_is_reset_and_never_dialled() {
    let world = World::new(HOSTS);
    world.serve(443, rules(&[("api.example", Some(80), Allow)]));
    let server = world.internet.listen("0.0.0.0:443");
    let mut client = world.agent.connect(on_443(world.address("api.example.", RecordType::A))).unwrap();
    let (decision, _reason) = world.record();
    assert_eq!(decision, Deny);
    assert!(is_reset(&mut client));
    assert!(is_untouched(&server));
}

#[test]
fn root_only_an_ask_denies_for_there_is_no_approver() {
    let world = World::new(HOSTS);
    world.serve(443, rules(&[("api.example", Some(443), Ask), ("api.example", Some(80), Allow)]));
    let mut client = world.agent.connect(on_443(world.address("api.example.", RecordType::A))).unwrap();
    assert_eq!(world.record(), (Deny, "no approver".to_owned()));
    assert!(is_reset(&mut client));
}

#[test]
fn root_only_a_denied_name_does_not_exist_and_is_reported_once() {
    let world = allowing("api.example");
    for kind in [RecordType::A, RecordType::AAAA, RecordType::HTTPS] {
        let answer = world.ask("Evil.example.", kind);
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
        assert!(answer.edns.unwrap().option(15_u16.into()).is_some(), "an extended error says why");
    }
    world.ask("api.example.", RecordType::A);
    let subjects = [world.event(), world.event()].map(|event| match event {
        GatewayEvent::Judged { subject: Subject::Name { name, .. }, decision, .. } => (name, decision),
        other => panic!("{other:?}"),
    });
    assert_eq!(subjects, [("evil.example".to_owned(), Deny), ("api.example".to_owned(), Allow)]);
}

#[test]
fn root_only_other_record_types_of_an_allowed_name_are_empty() {
    let world = allowing("api.example");
    for kind in [RecordType::HTTPS, RecordType::SVCB, RecordType::TXT, RecordType::ANY] {
        let answer = world.ask("api.example.", kind);
        assert_eq!((answer.metadata.response_code, answer.answers.len()), (ResponseCode::NoError, 0));
    }
}

#[test]
fn root_only_an_address_without_a_name_is_reset_and_reported() {
    let world = allowing("api.example");
    let server = world.internet.listen("0.0.0.0:443");
    for literal in ["93.184.216.34:443", "169.254.169.254:443", "198.18.77.1:443", "[fd00:ec2::254]:443"] {
        let mut client = world.agent.connect(literal.parse().unwrap()).unwrap();
        match world.event() {
            GatewayEvent::Judged { number, subject, decision, .. } => {
                let source_port = client.local_addr().unwrap().port();
                let address = literal.parse().unwrap();
                assert_eq!((subject, decision), (Subject::Address { address, source_port }, Deny));
                world.say(&GatewayRequest::Recorded { number });
            }
            other => panic!("{other:?}"),
        }
        assert!(is_reset(&mut client), "{literal}");
    }
    assert!(is_untouched(&server));
}

#[test]
fn root_only_an_allowed_name_that_leads_into_the_host_leads_nowhere() {
    let world = World::new(HOSTS);
    world.serve(443, rules(&[("*", Some(443), Allow)]));
    let server = world.host.listen("[::]:443");
    for (name, why) in [
        ("rebind.example.", "not public"),
        ("meta.example.", "not public"),
        ("mapped.example.", "not public"),
        ("lan.example.", "not public"),
        // A host speaks to its second address of a network from the first.
        ("first.example.", "93.184.217.1 is an address of this host"),
        ("second.example.", "93.184.217.2 is an address of this host"),
        ("sixth.example.", "2600:9000::1 is an address of this host"),
    ] {
        let mut client = world.agent.connect(on_443(world.address(name, RecordType::A))).unwrap();
        assert_eq!(world.record().0, Allow);
        let (sent, received, error) = world.closed();
        let error = error.unwrap();
        assert!(error.contains(why), "{name}: {error}");
        assert_eq!((sent, received), (0, 0));
        assert!(is_reset(&mut client), "{name}");
    }
    assert!(is_untouched(&server));
    // The control: who dials these addresses on the host reaches the server, and a public name its own.
    for own in ["10.99.0.1:443", "93.184.217.1:443", "93.184.217.2:443", "[2600:9000::1]:443"] {
        let _client = world.host.connect(own.parse().unwrap()).unwrap();
        accept(&server);
    }
    for public in ["api.example.", "api6.example."] {
        let server = world.internet.listen("[::]:443");
        let client = world.agent.connect(on_443(world.address(public, RecordType::A))).unwrap();
        assert_eq!(world.record().0, Allow, "{public}");
        drop((accept(&server), client));
        world.closed();
    }
    comply(
        r#"{"case":98,"title":"allowed names that resolve to private, loopback and metadata addresses, and to the host's own public ones","status":"stopped","control":"the same addresses dialled on the host, and a public one","layers":["gateway"]}"#,
    );
}

/// Appends a line to the results of attacks (`tests/src/compliance.rs`), where somebody collects them.
fn comply(line: &str) {
    let Some(directory) = std::env::var_os("SKEP_COMPLIANCE_DIR") else { return };
    let path = std::path::Path::new(&directory).join("results.jsonl");
    let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
    file.write_all(format!("{line}\n").as_bytes()).unwrap();
}

#[test]
fn root_only_a_server_that_refuses_and_a_resolver_that_is_down_are_said_in_the_record() {
    let world = World::new(HOSTS);
    world.serve(443, rules(&[("*", Some(443), Allow)]));
    for (name, words) in [("api.example.", "Connection refused"), ("unknown.example.", "resolver")] {
        let mut client = world.agent.connect(on_443(world.address(name, RecordType::A))).unwrap();
        world.record();
        let error = world.closed().2.unwrap();
        assert!(error.contains(words), "{name}: {error}");
        assert!(is_reset(&mut client), "{name}");
    }
}

#[test]
fn root_only_a_reset_of_the_server_reaches_the_client() {
    let world = allowing("api.example");
    let server = world.internet.listen("0.0.0.0:443");
    let mut client = world.agent.connect(on_443(world.address("api.example.", RecordType::A))).unwrap();
    world.record();
    let mut upstream = accept(&server);
    upstream.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    nix::sys::socket::setsockopt(
        &upstream,
        nix::sys::socket::sockopt::Linger,
        &libc::linger { l_onoff: 1, l_linger: 0 },
    )
    .unwrap();
    drop(upstream);
    assert!(is_reset(&mut client));
    let error = world.closed().2.unwrap();
    assert!(error.contains("ECONNRESET"), "{error}");
}

#[test]
fn root_only_much_data_passes_a_slow_reader_unchanged() {
    let world = allowing("api.example");
    let server = world.internet.listen("0.0.0.0:443");
    let mut client = world.agent.connect(on_443(world.address("api.example.", RecordType::A))).unwrap();
    world.record();
    let mut upstream = accept(&server);
    let total = 24 << 20;
    let pattern = |from: usize, length: usize| -> Vec<u8> {
        (from..from + length).map(|place| u8::try_from((place * 31 + place / 251) % 256).unwrap()).collect()
    };
    let writer = std::thread::spawn(move || {
        for from in (0..total).step_by(1 << 20) {
            client.write_all(&pattern(from, 1 << 20)).unwrap();
        }
        client
    });
    let mut at = 0;
    let mut buffer = vec![0; 700_001];
    while at < total {
        let length = upstream.read(&mut buffer).unwrap();
        assert!(length > 0 && buffer[..length] == pattern(at, length)[..], "differs at {at}");
        at += length;
    }
    drop(writer.join().unwrap());
    assert_eq!(upstream.read(&mut buffer).unwrap(), 0);
    drop(upstream);
    assert_eq!(world.closed(), (total as u64, 0, None));
}

#[test]
fn root_only_dismissing_a_sandbox_cuts_its_connections_and_closes_its_listeners() {
    let world = allowing("api.example");
    let server = world.internet.listen("0.0.0.0:443");
    let address = on_443(world.address("api.example.", RecordType::A));
    let mut client = world.agent.connect(address).unwrap();
    world.record();
    let mut upstream = accept(&server);
    client.write_all(b"x").unwrap();
    upstream.read_exact(&mut [0]).unwrap();
    world.dismiss("s");
    let (sent, _, error) = world.closed();
    assert_eq!((sent, error.as_deref()), (1, Some("cut: the sandbox was dismissed")));
    assert!(client.read(&mut [0]).is_ok_and(|length| length == 0));
    assert_eq!(upstream.read(&mut [0]).unwrap(), 0);
    let refused = world.agent.connect(address).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::ECONNREFUSED));
}

fn dismissed(sandbox: &str) -> GatewayEvent {
    GatewayEvent::Dismissed { sandbox: sandbox.to_owned() }
}

/// Serves a sandbox whose allowed name is at a fixed address: the resolver of these worlds, who is nobody, takes as
/// long as a dismissal may.
fn allow_at_once(world: &World) {
    let upstreams = vec![("api.example".to_owned(), "127.0.0.1:8443".parse().unwrap())];
    world.serve_with(443, rules(&[("api.example", Some(443), Allow)]), upstreams);
}

#[test]
fn root_only_what_a_client_wrote_just_before_its_end_arrives() {
    let world = World::new(HOSTS);
    let server = world.host.listen("127.0.0.1:8443");
    let words = vec![b'x'; 100_000];
    for round in 0..100 {
        allow_at_once(&world);
        let address = on_443(world.address("api.example.", RecordType::A));
        let mut client = world.agent.connect(address).unwrap();
        client.write_all(&words).unwrap();
        drop(client);
        world.dismiss("s");
        assert_eq!(world.record().0, Allow, "round {round}");
        let mut got = Vec::new();
        accept(&server).read_to_end(&mut got).unwrap();
        assert_eq!(got.len(), words.len(), "round {round}");
        assert_eq!(world.closed(), (words.len() as u64, 0, None), "round {round}");
        assert_eq!(world.event(), dismissed("s"));
    }
}

#[test]
fn root_only_what_waits_in_a_dismissed_sandboxs_queue_is_judged_and_recorded() {
    let world = World::new(HOSTS);
    let server = world.host.listen("127.0.0.1:8443");
    allow_at_once(&world);
    let address = on_443(world.address("api.example.", RecordType::A));
    world.signal(Signal::SIGSTOP);
    for target in [address, on_443("93.184.216.34".parse().unwrap())] {
        world.agent.connect(target).unwrap().write_all(b"last words").unwrap();
    }
    world.dismiss("s");
    world.signal(Signal::SIGCONT);
    let verdicts = [world.record(), world.record()];
    let denied = (Deny, "an address without a name".to_owned());
    assert_eq!(verdicts, [(Allow, "allowed by the rule".to_owned()), denied]);
    let mut got = String::new();
    accept(&server).read_to_string(&mut got).unwrap();
    assert_eq!(got, "last words");
    assert_eq!(world.closed(), (10, 0, None));
    assert_eq!(world.event(), dismissed("s"));
}

#[test]
fn root_only_an_answer_nobody_reads_does_not_hold_up_the_end() {
    let world = allowing("api.example");
    let server = world.internet.listen("0.0.0.0:443");
    let mut client = world.agent.connect(on_443(world.address("api.example.", RecordType::A))).unwrap();
    world.record();
    let mut upstream = accept(&server);
    client.write_all(b"x").unwrap();
    upstream.read_exact(&mut [0]).unwrap();
    drop(client);
    world.dismiss("s");
    // The server has not closed: had the gateway waited for it, the record would say that it was cut.
    assert_eq!(world.closed(), (1, 0, None));
    assert_eq!(world.event(), dismissed("s"));
    assert_eq!(upstream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn root_only_a_server_that_never_reads_holds_up_its_own_sandbox_only_and_not_for_long() {
    let world = allowing("api.example");
    let server = world.internet.listen("0.0.0.0:443");
    let mut client = world.agent.connect(on_443(world.address("api.example.", RecordType::A))).unwrap();
    world.record();
    let _upstream = accept(&server);
    // Until everything between here and the server is full.
    client.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    while client.write(&[0; 1 << 16]).is_ok() {}
    drop(client);
    let begun = Instant::now();
    world.dismiss("s");
    let other = Place::new("10.113.0.3");
    for _ in 0..3 {
        world.ask_to_serve("t", &other, 443, rules(&[]), Vec::new());
        assert_eq!(world.event(), GatewayEvent::Serving { sandbox: "t".to_owned() });
        world.dismiss("t");
        assert_eq!(world.event(), dismissed("t"));
    }
    assert_eq!(world.closed().2.as_deref(), Some("cut: the sandbox was dismissed"));
    assert_eq!(world.event(), dismissed("s"));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn root_only_with_the_gateway_dead_nothing_passes() {
    let mut world = allowing("api.example");
    let server = world.internet.listen("0.0.0.0:443");
    let mut client = world.agent.connect(on_443(world.address("api.example.", RecordType::A))).unwrap();
    world.record();
    let mut upstream = accept(&server);
    world.gateway.child.kill().unwrap();
    world.gateway.child.wait().unwrap();
    assert_eq!(client.read(&mut [0]).unwrap_or(0), 0);
    assert_eq!(upstream.read(&mut [0]).unwrap_or(0), 0);
}

#[test]
fn root_only_dns_works_over_tcp_and_ends_at_what_is_no_question() {
    let world = World::new(HOSTS);
    world.serve(53, rules(&[("api.example", Some(443), Allow)]));
    let mut client = world.agent.connect("8.8.8.8:53".parse().unwrap()).unwrap();
    for _ in 0..2 {
        let bytes = question("api.example.", RecordType::A).to_vec().unwrap();
        client.write_all(&u16::try_from(bytes.len()).unwrap().to_be_bytes()).unwrap();
        client.write_all(&bytes).unwrap();
        world.record_until(&client);
        let mut length = [0; 2];
        client.read_exact(&mut length).unwrap();
        let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(Message::from_vec(&answer).unwrap().answers.len(), 1);
    }
    client.write_all(&[0xff, 0xff, 1, 2, 3]).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap_or(0), 0);
}

#[test]
fn root_only_connections_over_the_limit_are_refused_and_reported() {
    let world = allowing("api.example");
    let address = on_443(world.address("api.example.", RecordType::A));
    let held: Vec<_> = (0..512).map(|_| world.agent.connect(address).unwrap()).collect();
    for _ in &held {
        assert_eq!(world.judged().1, Allow);
    }
    let mut over = world.agent.connect(address).unwrap();
    assert_eq!(world.record(), (Deny, "too many connections".to_owned()));
    assert!(is_reset(&mut over));
    // The rest of the gateway goes on.
    world.address("api.example.", RecordType::AAAA);
}

#[test]
fn root_only_an_upstream_for_tests_is_dialled_instead_of_the_name() {
    let world = World::new(HOSTS);
    let server = world.host.listen("127.0.0.1:8443");
    let upstreams = vec![("Api.Example".to_owned(), "127.0.0.1:8443".parse().unwrap())];
    world.serve_with(443, rules(&[("api.example", Some(443), Allow)]), upstreams);
    let mut client = world.agent.connect(on_443(world.address("api.example.", RecordType::A))).unwrap();
    world.record();
    accept(&server).write_all(b"ok").unwrap();
    let mut got = String::new();
    client.read_to_string(&mut got).unwrap();
    assert_eq!(got, "ok");
}

#[test]
fn root_only_the_gateway_has_no_rights_left() {
    let world = World::new(HOSTS);
    let status = std::fs::read_to_string(format!("/proc/{}/status", world.gateway.child.id())).unwrap();
    let line = |key: &str| {
        let found = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        found.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(line("Uid:"), vec![world::IDS.0.to_string(); 4]);
    assert_eq!(line("Gid:"), vec![world::IDS.1.to_string(); 4]);
    assert_eq!(line("Groups:"), Vec::<String>::new());
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(line(set), ["0000000000000000"], "{set}");
    }
    assert_eq!((line("NoNewPrivs:"), line("Seccomp:")), (vec!["1".to_owned()], vec!["2".to_owned()]));
    assert_eq!(line("Threads:"), ["1"]);
}

#[test]
fn root_only_rules_that_are_larger_than_a_message_are_judged_by() {
    let names: Vec<_> = (0..1500).map(|number| format!("{}.{number}.example", "a".repeat(63))).collect();
    let mut all: Vec<_> = names.iter().map(|name| (name.as_str(), Some(443), Allow)).collect();
    all.push(("api.example", Some(443), Allow));
    let rules = rules(&all);
    let bytes: usize = rules.rules.iter().map(|rule| rule.labels.concat().len() + rule.display.len()).sum();
    assert!(bytes > MAX_MESSAGE, "{bytes}");
    let world = World::new("");
    world.serve(443, rules);
    let answered = |name: &str| world.ask(name, RecordType::A).metadata.response_code;
    assert_eq!(
        (answered("api.example."), answered("evil.example.")),
        (ResponseCode::NoError, ResponseCode::NXDomain)
    );
}

#[test]
fn root_only_what_no_skepd_sends_ends_the_gateway() {
    for case in 0..6 {
        let world = allowing("api.example");
        match case {
            0 => world.say(&GatewayRequest::Recorded { number: 99 }),
            1 => world.dismiss("other"),
            5 => world.say(&GatewayRequest::Large),
            2 => drop(world.gateway.channel.send(&[0xff_u8; 9], &[])),
            3 => world.say(&GatewayRequest::Serve {
                sandbox: "t".to_owned(),
                rules: rules(&[]),
                own: ("10.113.0.3".parse().unwrap(), "fd00:5ce9::3".parse().unwrap()),
                upstreams: Vec::new(),
            }),
            _ => world.say(&GatewayRequest::Serve {
                sandbox: "s".to_owned(),
                rules: rules(&[]),
                own: ("10.113.0.3".parse().unwrap(), "fd00:5ce9::3".parse().unwrap()),
                upstreams: Vec::new(),
            }),
        }
        assert_eq!(world.end().code(), Some(1), "case {case}");
    }
}

#[test]
fn root_only_the_c_library_finds_allowed_names_and_gives_up_on_denied_ones() {
    let world = allowing("api.example");
    world.agent.lay_over("/etc/resolv.conf", "nameserver 10.113.0.2\n".to_owned());
    world.agent.lay_over("/etc/hosts", String::new());
    world.agent.lay_over("/etc/nsswitch.conf", "hosts: files dns\n".to_owned());
    let lookup = |name: &'static str| {
        let run = move || std::process::Command::new("getent").args(["ahosts", name]).output().unwrap();
        let output = world.agent.run(run);
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    // Written down now, so that the look-ups below wait for nobody.
    world.ask("api.example.", RecordType::A);
    let (code, found) = lookup("api.example");
    assert!(code == Some(0) && found.contains("fd5c:e900::100") && found.contains("198.18.1.0"), "{found}");
    // 2 is "not found"; a resolver that is refused or fails makes getent wait for seconds first.
    assert_eq!(lookup("evil.example"), (Some(2), String::new()));
}

#[test]
fn root_only_names_are_resolved_when_dialled_and_not_before() {
    let world = World::new("");
    let (asked, questions) = std::sync::mpsc::channel();
    let resolver = world.host.run(|| std::net::UdpSocket::bind("127.0.0.1:53").unwrap());
    std::thread::spawn(move || resolve(&resolver, &asked));
    world.serve(443, rules(&[("*", Some(443), Allow)]));
    let server = world.internet.listen("0.0.0.0:443");
    for (name, public) in [("inside.example.", false), ("outside.example.", true)] {
        let mut client = world.agent.connect(on_443(world.address(name, RecordType::AAAA))).unwrap();
        let (number, decision, _) = world.judged();
        assert_eq!((decision, questions.try_recv().ok()), (Allow, None), "asked before the record");
        world.say(&GatewayRequest::Recorded { number });
        let mut kinds = [0; 2].map(|_| questions.recv_timeout(world::PATIENCE).unwrap());
        kinds.sort_unstable_by_key(|(_, kind)| u16::from(*kind));
        assert_eq!(kinds, [RecordType::A, RecordType::AAAA].map(|kind| (name.to_owned(), kind)));
        if public {
            accept(&server).write_all(b"x").unwrap();
            client.read_exact(&mut [0]).unwrap();
        } else {
            assert!(world.closed().2.unwrap().contains("not public"));
            assert!(is_reset(&mut client) && is_untouched(&server));
        }
    }
}

/// A resolver by which `inside.example` leads into a private network and everything else to the Internet.
fn resolve(socket: &std::net::UdpSocket, asked: &std::sync::mpsc::Sender<(String, RecordType)>) {
    use hickory_proto::op::{Metadata, OpCode};
    use hickory_proto::rr::{RData, Record, rdata::A};
    let mut buffer = [0; 2048];
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        let question = Message::from_vec(&buffer[..length]).unwrap();
        let query = question.queries[0].clone();
        let name = query.name.to_lowercase().to_ascii();
        asked.send((name.clone(), query.query_type)).unwrap();
        let mut answer = Message::response(question.metadata.id, OpCode::Query);
        answer.metadata = Metadata::response_from_request(&question.metadata);
        if query.query_type == RecordType::A {
            let inside = name.starts_with("inside.");
            let address = if inside { "10.0.0.7" } else { "93.184.216.34" }.parse().unwrap();
            answer.add_answer(Record::from_rdata(query.name.clone(), 1, RData::A(A(address))));
        }
        answer.add_query(query);
        socket.send_to(&answer.to_vec().unwrap(), from).unwrap();
    }
}
