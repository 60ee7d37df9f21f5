//! What a relayed connection costs beside a direct one, in one run and interleaved. Printed, not judged:
//! `cargo test -p skep-egress --profile quick --test gateway -- --ignored --nocapture`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;
use skep_kernel::seqpacket::Channel;
use skep_policy::decision::Decision::Allow;
use skep_policy::gateway::{GatewayEvent, GatewayRequest};

use crate::world::{World, rules};

const ROUNDS: usize = 2000;
const BULK: Duration = Duration::from_secs(2);

#[test]
#[ignore = "a measurement, not a test"]
fn root_only_connect_and_bulk_beside_direct() {
    let world = World::new("93.184.216.34 api.example\n2606:2800:220:1::1 api.example\n");
    serve(&world.host.listen("127.0.0.1:8443"));
    serve(&world.internet.listen("[::]:443"));
    serve(&world.agent.listen("127.0.0.1:8443"));
    let upstreams = vec![("fixed.example".to_owned(), "127.0.0.1:8443".parse().unwrap())];
    world.serve_with(443, rules(&[("*", Some(443), Allow)]), upstreams);
    let fixed = SocketAddr::new(world.address("fixed.example.", RecordType::A), 443);
    let resolved = SocketAddr::new(world.address("api.example.", RecordType::A), 443);
    let channel = Channel::from_socket(world.gateway.channel.into()).unwrap();
    thread::spawn(move || record(&channel));
    let targets = [("direct", "127.0.0.1:8443".parse().unwrap()), ("relayed", fixed), ("resolved", resolved)];
    let times = world.agent.run(move || {
        let mut times = [const { Vec::new() }; 3];
        for _ in 0..ROUNDS {
            for (index, (_, target)) in targets.iter().enumerate() {
                times[index].push(connect_and_byte(*target));
            }
        }
        times
    });
    for ((name, _), mut times) in targets.iter().zip(times) {
        times.sort_unstable();
        let at = |share: usize| times[times.len() * share / 100].as_secs_f64() * 1e6;
        println!("connect + 1 byte, {name}: p10 {:.0} p50 {:.0} p99 {:.0} us", at(10), at(50), at(99));
    }
    for (name, target) in [targets[0], targets[1], targets[0], targets[1]] {
        let rate = world.agent.run(move || bulk(target));
        println!("bulk, {name}: {rate:.1} Gbit/s");
    }
}

/// As `skepd` does, without its disk.
fn record(channel: &Channel) {
    while let Ok(Some((event, _))) = channel.receive::<GatewayEvent>() {
        if let GatewayEvent::Judged { number, .. } = event {
            channel.send(&GatewayRequest::Recorded { number }, &[]).unwrap();
        }
    }
}

/// One byte is answered by one; more is swallowed.
fn serve(listener: &TcpListener) {
    let listener = listener.try_clone().unwrap();
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut byte = [0];
            if stream.read_exact(&mut byte).is_ok() && byte == [1] {
                let _gone = stream.write_all(&byte);
                continue;
            }
            thread::spawn(move || {
                let mut buffer = vec![0; 1 << 20];
                while stream.read(&mut buffer).is_ok_and(|length| length > 0) {}
            });
        }
    });
}

fn connect_and_byte(target: SocketAddr) -> Duration {
    let start = Instant::now();
    let mut stream = TcpStream::connect(target).unwrap();
    stream.write_all(&[1]).unwrap();
    stream.read_exact(&mut [0]).unwrap();
    start.elapsed()
}

fn bulk(target: SocketAddr) -> f64 {
    let mut stream = TcpStream::connect(target).unwrap();
    let buffer = vec![2; 1 << 20];
    let start = Instant::now();
    let mut bits = 0.0;
    while start.elapsed() < BULK {
        stream.write_all(&buffer).unwrap();
        bits += 8.0 * 1_048_576.0;
    }
    bits / start.elapsed().as_secs_f64() / 1e9
}

#[test]
#[ignore = "prints what clients make of denials; needs them installed"]
fn root_only_what_real_clients_say_to_denials() {
    let world = World::new("93.184.216.34 api.example\n");
    world.agent.lay_over("/etc/resolv.conf", "nameserver 10.113.0.2\n".to_owned());
    world.agent.lay_over("/etc/nsswitch.conf", "hosts: files dns\n".to_owned());
    world.serve(443, rules(&[("api.example", Some(80), Allow)]));
    let channel = Channel::from_socket(world.gateway.channel.into()).unwrap();
    thread::spawn(move || record(&channel));
    let python = "import urllib.request, sys; urllib.request.urlopen(sys.argv[1])";
    let node = "fetch(process.argv[1]).catch(e => { console.error(String(e.cause)); process.exit(1) })";
    for url in ["https://evil.example/", "https://api.example/"] {
        let commands =
            [vec!["curl", "-sS", url], vec!["python3", "-c", python, url], vec!["node", "-e", node, url]];
        for command in commands.map(|words| words.into_iter().map(str::to_owned).collect::<Vec<_>>()) {
            let start = Instant::now();
            let run = command.clone();
            let output = world.agent.run(move || Command::new(&run[0]).args(&run[1..]).output());
            let said = output.map(|output| String::from_utf8_lossy(&output.stderr).trim().to_owned());
            let last = said.map(|said| said.lines().last().unwrap_or_default().to_owned());
            println!("{url} {}: {:?} after {:?}", command[0], last, start.elapsed());
        }
    }
}
