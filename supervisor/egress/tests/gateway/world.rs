//! A world for the real gateway: a namespace that plays the host, with public addresses of its own; one that plays the
//! Internet, so that every "public" server is ours; one that plays the sandbox; and ourselves as skepd.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitStatus;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::{Pid, gettid};
use skep_kernel::seqpacket::ChannelError;
use skep_kernel::spawn::{Helper, Spawner};
use skep_kernel::{memfd, netns};
use skep_policy::decision::Decision;
use skep_policy::egress::{Rule, Rules};
use skep_policy::gateway::{GatewayEvent, GatewayRequest, Subject};
use skep_policy::launch::Network;

/// How long anything may take before a test fails; nothing waits for it to pass.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Addresses of the host: a private one, two of one public network, and one of IPv6.
const OWN: [&str; 4] = ["10.99.0.1/24", "93.184.217.1/24", "93.184.217.2/24", "2600:9000::1/64 nodad"];

/// Ids nobody has.
pub(crate) const IDS: (u32, u32) = (64_871, 64_872);

type Job = Box<dyn FnOnce() + Send>;

/// A thread in namespaces of its own. Sockets made there stay there and can be used from anywhere.
pub(crate) struct Place(mpsc::Sender<Job>);

impl Place {
    /// A place with a network namespace where nothing is up.
    fn empty() -> Self {
        let (jobs, inbox) = mpsc::channel::<Job>();
        thread::spawn(move || inbox.into_iter().for_each(|job| job()));
        let place = Self(jobs);
        place.run(|| unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap());
        place
    }

    /// A place with a network namespace where `lo` is up and every address is local.
    pub(crate) fn new(own: &str) -> Self {
        let (place, v4) = (Self::empty(), own.parse().unwrap());
        place.run(move || {
            let v6 = "fd00:5ce9::2".parse().unwrap();
            netns::configure(&Network { v4, v6, gateway_port: 1 }).unwrap();
        });
        place
    }

    /// A host with the addresses [`OWN`], and the Internet at the other end of its cable.
    fn host_and_internet() -> (Self, Self) {
        let (host, internet) = (Self::empty(), Self::empty());
        let thread = internet.run(gettid);
        let own: String = OWN.iter().map(|own| format!("address add {own} dev here\n")).collect();
        host.ip(format!(
            "link set lo up\nlink add here type veth peer name there netns {thread}\n{own}link set here up\n"
        ));
        internet.ip(
            "link set lo up\naddress add 10.99.0.254/24 dev there\naddress add 2600:9000::254/64 dev there nodad\n\
             address add 93.184.216.34/32 dev lo\naddress add 2606:2800:220:1::1/128 dev lo nodad\n\
             link set there up\n"
                .to_owned(),
        );
        host.ip("route add default via 10.99.0.254\nroute add default via 2600:9000::254\n".to_owned());
        (host, internet)
    }

    /// Runs a batch of `ip`, with none of our descriptors: a socket it held a moment longer than we do would keep a port
    /// that another test binds again.
    fn ip(&self, batch: String) {
        self.run(move || {
            let script = format!("ip -batch - <<end\n{batch}end\n");
            let shell = Spawner::start().unwrap().helper(Path::new("/bin/sh"), &["-ec", &script], None);
            assert!(shell.unwrap().child.wait().unwrap().success(), "{batch}");
        });
    }

    /// Runs `job` there and returns its result.
    pub(crate) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, wait) = mpsc::channel();
        self.0.send(Box::new(move || drop(done.send(job())))).unwrap();
        wait.recv().unwrap()
    }

    /// Lays a file of these bytes over one of the host's, for this place alone.
    pub(crate) fn lay_over(&self, path: &'static str, bytes: String) {
        self.run(move || {
            let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).unwrap();
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(bytes.as_bytes()).unwrap();
            mount(Some(file.path()), path, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        });
    }

    pub(crate) fn listen(&self, address: &'static str) -> TcpListener {
        self.run(move || TcpListener::bind(address).unwrap())
    }

    pub(crate) fn connect(&self, address: SocketAddr) -> std::io::Result<TcpStream> {
        let stream = self.run(move || TcpStream::connect_timeout(&address, PATIENCE))?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Ok(stream)
    }
}

pub(crate) struct World {
    pub(crate) host: Place,
    pub(crate) internet: Place,
    pub(crate) agent: Place,
    pub(crate) gateway: Helper,
    /// Events that came while something else was waited for.
    heard: RefCell<VecDeque<GatewayEvent>>,
}

impl World {
    /// A host whose hosts file is `hosts` and whose resolver is whoever listens at its 127.0.0.1:53, an empty
    /// sandbox, and a gateway that is ready.
    pub(crate) fn new(hosts: &str) -> Self {
        let (host, internet) = Place::host_and_internet();
        host.lay_over("/etc/hosts", hosts.to_owned());
        host.lay_over("/etc/resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n".to_owned());
        let gateway = host.run(|| {
            let ids = [IDS.0.to_string(), IDS.1.to_string()];
            let program = Path::new(env!("CARGO_BIN_EXE_skep-egress"));
            // Its thread is started here, and so in the same namespaces.
            Spawner::start().unwrap().helper(program, &[&ids[0], &ids[1]], None).unwrap()
        });
        setsockopt(&gateway.channel, sockopt::ReceiveTimeout, &nix::sys::time::TimeVal::new(20, 0)).unwrap();
        let heard = RefCell::default();
        let world = Self { host, internet, agent: Place::new("10.113.0.2"), gateway, heard };
        assert_eq!(world.event(), GatewayEvent::Ready);
        world
    }

    /// Serves the sandbox `s` on a TCP port under every address of its namespace.
    pub(crate) fn serve(&self, port: u16, rules: Rules) {
        self.serve_with(port, rules, Vec::new());
    }

    pub(crate) fn serve_with(&self, port: u16, rules: Rules, upstreams: Vec<(String, SocketAddr)>) {
        self.ask_to_serve("s", &self.agent, port, rules, upstreams);
        assert_eq!(self.event(), GatewayEvent::Serving { sandbox: "s".to_owned() });
    }

    pub(crate) fn ask_to_serve(
        &self,
        sandbox: &str,
        place: &Place,
        port: u16,
        rules: Rules,
        upstreams: Vec<(String, SocketAddr)>,
    ) {
        let sockets = place.run(move || sandbox_sockets(port));
        let request = GatewayRequest::Serve {
            sandbox: sandbox.to_owned(),
            rules,
            own: ("10.113.0.2".parse().unwrap(), "fd00:5ce9::2".parse().unwrap()),
            upstreams,
        };
        let borrowed: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
        match self.gateway.channel.send(&request, &borrowed) {
            Err(ChannelError::Size(_)) => {
                let body = memfd::encode("request", &request).unwrap();
                let descriptors = [&[body.as_fd()], &borrowed[..]].concat();
                self.gateway.channel.send(&GatewayRequest::Large, &descriptors).unwrap();
            }
            sent => sent.unwrap(),
        }
    }

    pub(crate) fn dismiss(&self, sandbox: &str) {
        self.say(&GatewayRequest::Dismiss { sandbox: sandbox.to_owned() });
    }

    /// Has the gateway stand still, or go on.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.gateway.child.id().cast_signed()), signal).unwrap();
    }

    pub(crate) fn say(&self, request: &GatewayRequest) {
        self.gateway.channel.send(request, &[]).unwrap();
    }

    pub(crate) fn event(&self) -> GatewayEvent {
        self.heard.borrow_mut().pop_front().unwrap_or_else(|| self.receive())
    }

    fn receive(&self) -> GatewayEvent {
        self.gateway.channel.receive().unwrap().expect("the gateway lives").0
    }

    /// Writes down what is judged until `ready` has something to read.
    pub(crate) fn record_until(&self, ready: &impl AsFd) {
        loop {
            let mut polled =
                [ready.as_fd(), self.gateway.channel.as_fd()].map(|one| PollFd::new(one, PollFlags::POLLIN));
            assert!(poll(&mut polled, PollTimeout::from(20_000u16)).unwrap() > 0, "nothing in time");
            let [is_ready, has_event] = polled.map(|one| one.any().unwrap_or_default());
            if has_event {
                let event = self.receive();
                if let GatewayEvent::Judged { number, subject: Subject::Name { .. }, .. } = event {
                    self.say(&GatewayRequest::Recorded { number });
                }
                self.heard.borrow_mut().push_back(event);
            } else if is_ready {
                return;
            }
        }
    }

    /// The next event, which is a verdict on a connection or an address; verdicts on names are passed over.
    pub(crate) fn judged(&self) -> (u64, Decision, String) {
        loop {
            match self.event() {
                GatewayEvent::Judged { subject: Subject::Name { .. }, .. } => {}
                GatewayEvent::Judged { number, decision, reason, .. } => return (number, decision, reason),
                other => panic!("{other:?}"),
            }
        }
    }

    pub(crate) fn record(&self) -> (Decision, String) {
        let (number, decision, reason) = self.judged();
        self.say(&GatewayRequest::Recorded { number });
        (decision, reason)
    }

    /// The next event, which is the end of a connection: bytes sent and received, and why.
    pub(crate) fn closed(&self) -> (u64, u64, Option<String>) {
        match self.event() {
            GatewayEvent::Closed { sent, received, error, .. } => (sent, received, error),
            other => panic!("{other:?}"),
        }
    }

    /// Asks the gateway from inside the sandbox, at an address that is no resolver's.
    pub(crate) fn ask(&self, name: &str, kind: RecordType) -> Message {
        let (socket, id) = self.send_question(name, kind);
        self.record_until(&socket);
        let mut buffer = [0; 2048];
        let length = socket.recv(&mut buffer).unwrap();
        let answer = Message::from_vec(&buffer[..length]).unwrap();
        assert_eq!(answer.metadata.id, id);
        answer
    }

    /// Asks only; the answer will come to the socket, with this id.
    pub(crate) fn send_question(&self, name: &str, kind: RecordType) -> (UdpSocket, u16) {
        let question = question(name, kind);
        let bytes = question.to_vec().unwrap();
        let server: SocketAddr = match kind {
            RecordType::AAAA => "[2001:db8::53]:53".parse().unwrap(),
            _ => "192.0.2.53:53".parse().unwrap(),
        };
        let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = self.agent.run(move || UdpSocket::bind(any).unwrap());
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.connect(server).unwrap();
        socket.send(&bytes).unwrap();
        (socket, question.metadata.id)
    }

    /// The virtual address of a name that is known to be allowed.
    pub(crate) fn address(&self, name: &str, kind: RecordType) -> IpAddr {
        match &self.ask(name, kind).answers[0].data {
            RData::A(address) => IpAddr::V4(address.0),
            RData::AAAA(address) => IpAddr::V6(address.0),
            other => panic!("{other:?}"),
        }
    }

    /// How the gateway ends after `skepd` has hung up.
    pub(crate) fn hang_up(self) -> ExitStatus {
        let Helper { mut child, channel } = self.gateway;
        drop(channel);
        child.wait().unwrap()
    }

    /// How the gateway has ended by itself.
    pub(crate) fn end(mut self) -> ExitStatus {
        while let Ok(Some(_)) = self.gateway.channel.receive::<GatewayEvent>() {}
        self.gateway.child.wait().unwrap()
    }
}

pub(crate) fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.metadata.recursion_desired = true;
    message.set_edns(Edns::new());
    message
}

/// Rules from `name:port decision` texts.
pub(crate) fn rules(list: &[(&str, Option<u16>, Decision)]) -> Rules {
    let rule = |(name, port, decision): &(&str, Option<u16>, Decision)| Rule {
        labels: name.split('.').map(str::to_owned).collect(),
        port: *port,
        decision: *decision,
        display: format!("{name}:{port:?}"),
    };
    Rules { rules: list.iter().map(rule).collect() }
}

/// Whether the peer reset the connection, as a client meets it.
pub(crate) fn is_reset(stream: &mut TcpStream) -> bool {
    let result = stream.read(&mut [0]);
    result.is_err_and(|error| error.raw_os_error() == Some(nix::libc::ECONNRESET))
}

/// What the keeper opens, but for the TCP listeners: without sk_lookup they take one port of every address.
fn sandbox_sockets(port: u16) -> [OwnedFd; 4] {
    let listeners = netns::Listeners::open(1).unwrap();
    let v4 = TcpListener::bind(("0.0.0.0", port)).unwrap();
    let v6 = v6_only(port);
    [v4.into(), v6, listeners.udp4, listeners.udp6]
}

fn v6_only(port: u16) -> OwnedFd {
    use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrIn6, bind, listen, socket};
    use std::os::fd::AsRawFd;
    let socket = socket(AddressFamily::Inet6, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    setsockopt(&socket, sockopt::Ipv6V6Only, &true).unwrap();
    let any = std::net::SocketAddrV6::new(std::net::Ipv6Addr::UNSPECIFIED, port, 0, 0);
    bind(socket.as_raw_fd(), &SockaddrIn6::from(any)).unwrap();
    listen(&socket, Backlog::MAXCONN).unwrap();
    socket
}

/// The first connection at a listener, which must arrive.
pub(crate) fn accept(listener: &TcpListener) -> TcpStream {
    setsockopt(listener, sockopt::ReceiveTimeout, &nix::sys::time::TimeVal::new(20, 0)).unwrap();
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Whether nothing has reached a listener.
pub(crate) fn is_untouched(listener: &TcpListener) -> bool {
    listener.set_nonblocking(true).unwrap();
    let result = listener.accept();
    listener.set_nonblocking(false).unwrap();
    result.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}
