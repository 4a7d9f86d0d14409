//! How a broker begins and how it ends.

mod common;

use std::io::{ErrorKind, Read};
use std::net::TcpListener;
use std::thread;

use bytes::Bytes;
use common::seccomp::forbid_io_uring;
use common::{Client, RUNTIMES, broker, config, connect_packet, listener, start, text};
use petrel_engine::auth::AuthMethods;
use petrel_engine::boot::{self, BootError};
use petrel_engine::config::{Protocol, RuntimeChoice};
use petrel_engine::preflight::Runtime;
use petrel_proto::{Packet, PublishProperties, Qos, ReasonCode, TopicName, Version, Will};

fn refusal(config: petrel_engine::config::Config) -> BootError {
    match boot::start(config, &AuthMethods::default()) {
        Ok(_) => panic!("it started"),
        Err(error) => error,
    }
}

/// [MQTT5-3.1.2-8] The wills that the end sets free reach everybody who is there, on every shard.
#[test]
fn a_broker_that_stops_publishes_the_wills_first() {
    const WILLS: usize = 20;
    for runtime in RUNTIMES {
        let broker = broker(8, runtime);
        let address = broker.addresses()[0];
        let watchers = |prefix: &str| -> Vec<Client> {
            let watcher = |n: usize| {
                let mut it = Client::connect(address, &format!("{prefix}-{n}"), Version::V5);
                it.subscribe("will/#", Qos::AtMostOnce);
                it
            };
            (0..4).map(watcher).collect()
        };
        let mut all = watchers("first");
        let dying: Vec<Client> = (0..WILLS)
            .map(|n| {
                let id = format!("dying-{n}");
                let Packet::Connect(mut connect) = connect_packet(&id, Version::V5) else {
                    unreachable!()
                };
                connect.will = Some(Box::new(Will {
                    topic: TopicName::new(text(&format!("will/{n}"))).expect("valid topic"),
                    payload: Bytes::from_static(b"gone"),
                    qos: Qos::AtMostOnce,
                    retain: false,
                    delay_interval_s: None,
                    properties: PublishProperties::default(),
                }));
                let mut client = Client::open(address);
                client.send(&Packet::Connect(connect));
                assert!(matches!(client.receive(), Some(Packet::ConnAck(_))));
                client
            })
            .collect();
        all.extend(watchers("last"));
        broker.stop().expect("it stops");
        for watcher in &mut all {
            for _ in 0..WILLS {
                assert_eq!(watcher.receive_publish().payload, "gone");
            }
            match watcher.receive() {
                Some(Packet::Disconnect(it)) => {
                    assert_eq!(it.reason, ReasonCode::ServerShuttingDown);
                }
                other => panic!("{other:?}"),
            }
        }
        drop(dying);
    }
}

#[test]
fn a_busy_port_is_refused_in_one_sentence() {
    for runtime in RUNTIMES {
        let first = broker(2, runtime);
        let mut second = config(2, runtime);
        second.listeners[0].address = first.addresses()[0];
        let sentence = refusal(second).to_string();
        let address = first.addresses()[0];
        assert_eq!(sentence, format!("{address} is in use; another program listens there"));
        first.stop().expect("it stops");
    }
    let foreign = TcpListener::bind("127.0.0.1:0").expect("there are ports");
    let mut config = config(1, RuntimeChoice::Epoll);
    config.listeners[0].address = foreign.local_addr().expect("it is bound");
    assert!(matches!(refusal(config), BootError::Listen(..)));
}

#[test]
fn an_address_of_another_machine_is_refused_in_one_sentence() {
    let mut config = config(1, RuntimeChoice::Epoll);
    config.listeners[0].address = "192.0.2.1:1883".parse().expect("an address");
    assert_eq!(refusal(config).to_string(), "192.0.2.1 is not an address of this machine");
}

#[test]
fn a_broker_comes_back_at_once_on_the_port_that_it_left() {
    for runtime in RUNTIMES {
        let first = broker(2, runtime);
        let address = first.addresses()[0];
        // The broker's side closes first, so its port has connections that fade away.
        let mut client = Client::connect(address, "a", Version::V5);
        let waiting = thread::spawn(move || client.expect_end());
        first.stop().expect("it stops");
        waiting.join().expect("the client was told");
        let mut again = config(2, runtime);
        again.listeners[0].address = address;
        let second = start(again);
        drop(Client::connect(address, "a", Version::V5));
        second.stop().expect("it stops");
    }
}

#[test]
fn both_address_families_are_served() {
    for runtime in RUNTIMES {
        let mut config = config(2, runtime);
        let mut six = config.listeners[0].clone();
        six.address = "[::1]:0".parse().expect("an address");
        config.listeners.push(six);
        let broker = start(config);
        for &address in broker.addresses() {
            drop(Client::connect(address, "a", Version::V3_1_1));
        }
        broker.stop().expect("it stops");
    }
}

/// [MQTT5-3.14.4-1]
#[test]
fn clients_are_told_when_the_broker_stops() {
    for runtime in RUNTIMES {
        for shards in [1, 2, 8] {
            let broker = broker(shards, runtime);
            let address = broker.addresses()[0];
            let clients: Vec<Client> = (0..16)
                .map(|n| {
                    let version = [Version::V5, Version::V3_1_1][n % 2];
                    Client::connect(address, &format!("client-{n}"), version)
                })
                .collect();
            let silent = Client::open(address);
            let told = thread::spawn(move || {
                for mut client in clients {
                    if client.version.is_v5() {
                        match client.receive() {
                            Some(Packet::Disconnect(packet)) => {
                                assert_eq!(packet.reason, ReasonCode::ServerShuttingDown);
                            }
                            other => panic!("no DISCONNECT but {other:?}"),
                        }
                    }
                    assert_eq!(client.receive(), None);
                }
                let mut silent = silent;
                assert_eq!(silent.receive(), None);
            });
            broker.stop().expect("it stops");
            told.join().expect("all were told");
        }
    }
}

#[test]
fn a_client_that_does_not_listen_cannot_hold_up_the_end() {
    for runtime in RUNTIMES {
        let broker = broker(2, runtime);
        let _deaf = Client::connect(broker.addresses()[0], "deaf", Version::V5);
        broker.stop().expect("it stops");
    }
}

#[test]
fn who_does_not_say_hello_in_time_is_cut_off_on_every_transport() {
    let folder = tempfile::tempdir().expect("a folder");
    let (files, _) = common::layers::certificate(folder.path());
    for runtime in RUNTIMES {
        let mut config = config(2, runtime);
        config.network.connect_timeout_s = 1;
        for protocol in [Protocol::Mqtts, Protocol::Ws, Protocol::Wss] {
            let mut listener = listener(protocol);
            listener.tls = protocol.is_tls().then(|| files.clone());
            config.listeners.push(listener);
        }
        let broker = start(config);
        let starts: [&[u8]; 4] =
            [&[0x10, 30], &[22, 3, 1, 1, 0, 1], b"GET /mqtt HTTP/1.1\r\nHost: a\r\n", &[22, 3, 1]];
        let mut clients: Vec<Client> =
            broker.addresses().iter().map(|&address| Client::open(address)).collect();
        for (client, start) in clients.iter_mut().zip(starts) {
            client.send_bytes(start);
        }
        for mut client in clients {
            let mut answer = Vec::new();
            // A reset is an end as well: what was sent had not been read to its end.
            let ended = client.stream.read_to_end(&mut answer);
            assert!(!matches!(&ended, Err(it) if it.kind() == ErrorKind::WouldBlock), "{ended:?}");
            assert!(answer.is_empty(), "{answer:?}");
        }
        broker.stop().expect("it stops");
    }
}

#[test]
fn where_io_uring_is_forbidden_the_broker_runs_on_epoll_or_says_why_not() {
    let restricted = thread::spawn(|| {
        forbid_io_uring();
        let sentence = refusal(config(2, RuntimeChoice::Glommio)).to_string();
        assert!(sentence.contains("io_uring"), "{sentence}");
        let broker = broker(2, RuntimeChoice::Auto);
        assert_eq!(broker.runtime(), Runtime::Epoll);
        let mut client = Client::open(broker.addresses()[0]);
        client.send(&connect_packet("a", Version::V5));
        assert!(matches!(client.receive(), Some(Packet::ConnAck(_))));
        drop(client);
        broker.stop().expect("it stops");
    });
    restricted.join().expect("no panic");
}
