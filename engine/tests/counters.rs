//! Each limit of the table in docs/CONFIGURATION.md ("What each limit does") and its counter, which whole brokers
//! count when a client meets the limit, and not before.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Instant;

use common::layers::{certificate, tls_client};
use common::{
    Client, PATIENCE, RUNTIMES, bytes_of, connect_packet, publish_packet, start, subscribe_packet,
};
use petrel_engine::boot::Running;
use petrel_engine::config::{Config, RuntimeChoice};
use petrel_proto::{Connect, Packet, Publish, Qos, ReasonCode, Version};
use petrel_storage::control::{BanRequest, Subject};
use rustls::ClientConnection;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// A broker that a client meets a limit of.
struct Place {
    broker: Running,
    config: Config,
    folder: tempfile::TempDir,
    /// Those who must not go before it is counted.
    clients: Vec<Client>,
    /// What makes up other ends, such as a server that never answers.
    _server: TcpListener,
}

impl Place {
    fn start(runtime: RuntimeChoice, limit: &Limit) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let server = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}/", server.local_addr().expect("bound"));
        (limit.files)(folder.path());
        let text = format!(
            "[engine]\nshards = 1\nfd_tables = \"shared\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n{}",
            limit.config.replace("URL", &url)
        );
        let mut config = Config::parse(&text, folder.path())
            .unwrap_or_else(|error| panic!("{}: {error:?}", limit.counter));
        config.engine.runtime = runtime;
        let broker = start(config.clone());
        Self { broker, config, folder, clients: Vec::new(), _server: server }
    }

    fn address(&self) -> SocketAddr {
        self.broker.addresses()[0]
    }

    /// A connection that the broker may refuse at once, before its client knows of it.
    fn knock(&self) -> Option<TcpStream> {
        TcpStream::connect(self.address()).ok()
    }

    /// A client that is let in.
    fn client(&self, client_id: &str) -> Client {
        Client::connect(self.address(), client_id, Version::V5)
    }

    /// What a client is told that connects so, and the client.
    fn told(&self, version: Version, change: impl Fn(&mut Connect)) -> (ReasonCode, Client) {
        let mut client = Client::open(self.address());
        client.version = version;
        let Packet::Connect(mut connect) = connect_packet("told", version) else { unreachable!() };
        change(&mut connect);
        client.send(&Packet::Connect(connect));
        match client.receive() {
            Some(Packet::ConnAck(ack)) => (ack.reason, client),
            other => panic!("no CONNACK but {other:?}"),
        }
    }

    /// Sends what the broker ends a connection for.
    fn breaks(&self, packet: &Packet, reason: ReasonCode) {
        let mut client = self.client("breaks");
        client.send(packet);
        match client.receive() {
            Some(Packet::Disconnect(it)) => assert_eq!(it.reason, reason),
            other => panic!("no DISCONNECT but {other:?}"),
        }
        client.expect_end();
    }

    /// A subscriber to `t` that acknowledges nothing.
    fn subscribe(&mut self, client_id: &str) {
        let mut client = self.client(client_id);
        client.subscribe("t", Qos::AtLeastOnce);
        self.clients.push(client);
    }

    /// Publishes to `t` with QoS 1 and says what the broker says to it.
    fn publish(&self, change: impl Fn(&mut Publish)) -> ReasonCode {
        let mut client = self.client("publisher");
        client.send(&message(Qos::AtLeastOnce, change));
        match client.receive() {
            Some(Packet::PubAck(ack)) => ack.reason,
            other => panic!("no PUBACK but {other:?}"),
        }
    }

    fn ban(&self, subject: Subject) {
        let asked = BanRequest { subject, for_s: None, why: "a test".into() };
        self.broker.reins().ban(&asked).expect("there is room");
    }

    /// All numbers that an operator sees, by the line and the name that they have there.
    fn figures(&self) -> BTreeMap<String, u64> {
        let figures = self.broker.watch().figures();
        let levels: Vec<_> = self.broker.levels().map(|level| level.to_string()).collect();
        let lines = [
            figures.stages().to_string(),
            figures.denied().to_string(),
            figures.limits().to_string(),
            figures.ledger().to_string(),
            figures.drops().to_string(),
            figures.ends().to_string(),
            format!("{} levels={}", self.broker.guard().figures(), levels.join(",")),
        ];
        let mut numbers = BTreeMap::new();
        for line in lines {
            let (kind, rest) = line.split_once(':').expect("a name");
            for word in rest.split_whitespace() {
                let (name, number) = word.split_once('=').expect("a number");
                numbers.insert(format!("{kind}:{name}"), number.parse().expect("a number"));
            }
        }
        numbers
    }

    /// Waits until the shard has counted so much, which it makes known four times a second.
    fn until_counted(&self, counter: &str, wanted: Times) {
        let begin = Instant::now();
        loop {
            let figures = self.figures();
            let counted = figures.get(counter).copied().unwrap_or(0);
            match wanted {
                Exactly(times) if counted == times => return,
                AtLeast(times) if counted >= times => return,
                _ => {}
            }
            let is_late = begin.elapsed() >= PATIENCE;
            assert!(!is_late, "{counter} is {counted}, not {wanted:?}, of {figures:?}");
            std::thread::yield_now();
        }
    }
}

/// A message to `t`.
fn message(qos: Qos, change: impl Fn(&mut Publish)) -> Packet {
    let Packet::Publish(mut publish) = publish_packet("t", "m", qos, 1) else { unreachable!() };
    change(&mut publish);
    Packet::Publish(publish)
}

/// How often a limit was met.
#[derive(Debug, Clone, Copy)]
enum Times {
    Exactly(u64),
    AtLeast(u64),
}
use Times::{AtLeast, Exactly};

/// How one limit is met.
struct Limit {
    /// The line of the figures and the name in it.
    counter: &'static str,
    /// What follows the address of a listener in the file. `URL` is that of a server that never answers.
    config: &'static str,
    /// Puts into the folder what the file names.
    files: fn(&Path),
    /// Meets the limit, and says what the counter is then.
    meet: fn(&mut Place) -> Times,
}

const fn limit(
    counter: &'static str,
    config: &'static str,
    meet: fn(&mut Place) -> Times,
) -> Limit {
    Limit { counter, config, files: |_| {}, meet }
}

/// Whoever says `user` has proved it with a password.
fn as_user(connect: &mut Connect) {
    connect.username = Some(common::text("user"));
    connect.password = Some("word".into());
}

const LIMITS: &[Limit] = &[
    limit("refused:listener_full", "protocol = \"mqtt\"\nconnections_maximum = 1\n", |place| {
        let inside = place.client("inside");
        assert_eq!(place.told(Version::V5, |_| {}).0, ReasonCode::QuotaExceeded);
        assert_eq!(place.told(Version::V3_1_1, |_| {}).0, ReasonCode::ServerUnavailable);
        place.clients.push(inside);
        Exactly(2)
    }),
    limit(
        "refused:source_full",
        "protocol = \"mqtt\"\n[limits]\nsource_clients_maximum = 1\n",
        |place| {
            let inside = place.client("inside");
            assert_eq!(place.told(Version::V5, |_| {}).0, ReasonCode::QuotaExceeded);
            place.clients.push(inside);
            Exactly(1)
        },
    ),
    Limit {
        counter: "refused:user_full",
        config: "protocol = \"mqtt\"\nauthentication = [\"users\"]\n[[authenticator]]\nname = \"users\"\n\
                 kind = \"passwords\"\nfile = \"users\"\n[limits]\nuser_clients_maximum = 1\n",
        files: |folder| {
            let cheap = petrel_access::passwords::Cost { memory_kib: 64, passes: 1 };
            let hash = petrel_access::passwords::hash(b"word", cheap).expect("random numbers");
            std::fs::write(folder.join("users"), format!("user:{hash}\n")).expect("written");
        },
        meet: |place| {
            let (reason, inside) = place.told(Version::V5, as_user);
            assert_eq!(reason, ReasonCode::Success);
            let other = |connect: &mut Connect| {
                connect.client_id = common::text("other");
                as_user(connect);
            };
            assert_eq!(place.told(Version::V5, other).0, ReasonCode::QuotaExceeded);
            place.clients.push(inside);
            Exactly(1)
        },
    },
    limit(
        "stages:refused_by_rate",
        "protocol = \"mqtt\"\n[limits]\nsource_connections_per_s = 1\nsource_connections_burst = 1\n",
        |place| {
            // What the source may do comes back; so many at once are more than that on any machine.
            let _comers: Vec<_> = (0..200).map(|_| place.knock()).collect();
            let begin = Instant::now();
            loop {
                let refused = place.figures()["stages:refused_by_rate"];
                if place.figures()["stages:accepted"] + refused == 200 {
                    assert!(refused > 100, "{refused}");
                    return Exactly(refused);
                }
                assert!(begin.elapsed() < PATIENCE, "{:?}", place.figures());
                std::thread::yield_now();
            }
        },
    ),
    Limit {
        counter: "stages:handshakes_in_flight_most",
        config: "protocol = \"mqtts\"\ncert = \"server.pem\"\nkey = \"server.key\"\n[limits]\n\
                 handshakes_in_flight_maximum = 2\n",
        files: |folder| drop(certificate(folder)),
        meet: |place| {
            place.clients = (0..3).map(|_| hello(place)).collect();
            Exactly(2)
        },
    },
    Limit {
        counter: "stages:handshake_timed_out",
        config: "protocol = \"mqtts\"\ncert = \"server.pem\"\nkey = \"server.key\"\n[limits]\n\
                 handshake_timeout_s = 1\n",
        files: |folder| drop(certificate(folder)),
        meet: |place| {
            hello(place).stream.read_to_end(&mut Vec::new()).expect("the end");
            Exactly(1)
        },
    },
    Limit {
        counter: "stages:silent",
        config: "protocol = \"mqtts\"\ncert = \"server.pem\"\nkey = \"server.key\"\n[limits]\n\
                 handshake_timeout_s = 1\n",
        files: |folder| drop(certificate(folder)),
        meet: |place| {
            Client::open(place.address()).expect_end();
            Exactly(1)
        },
    },
    limit(
        "stages:connect_timed_out",
        "protocol = \"mqtt\"\n[limits]\nconnect_timeout_s = 1\n",
        |place| {
            let mut client = Client::open(place.address());
            client.send_bytes(&[0x10]);
            client.expect_end();
            Exactly(1)
        },
    ),
    limit(
        "ended:implementation_specific_error",
        "protocol = \"mqtt\"\n[limits]\npacket_timeout_s = 1\n",
        |place| {
            let mut client = place.client("slow");
            client.send_bytes(&[0x30, 9]);
            client.expect_end();
            Exactly(1)
        },
    ),
    limit(
        "stages:write_timed_out",
        "protocol = \"mqtt\"\n[limits]\nwrite_timeout_s = 1\n",
        |place| {
            place.subscribe("deaf");
            let mut client = place.client("publisher");
            let long = |publish: &mut Publish| publish.payload = vec![0; 100_000].into();
            let long = message(Qos::AtMostOnce, long);
            let begin = Instant::now();
            while place.figures()["stages:write_timed_out"] == 0 {
                assert!(begin.elapsed() < PATIENCE, "the socket takes everything");
                client.send(&long);
            }
            Exactly(1)
        },
    ),
    limit("stages:refused_by_ban", "protocol = \"mqtt\"\n", |place| {
        place.ban(Subject::Address("127.0.0.1".into()));
        drop(place.knock());
        Exactly(1)
    }),
    limit("refused:banned", "protocol = \"mqtt\"\n", |place| {
        place.ban(Subject::ClientId("told".into()));
        assert_eq!(place.told(Version::V5, |_| {}).0, ReasonCode::Banned);
        assert_eq!(place.told(Version::V3_1_1, |_| {}).0, ReasonCode::NotAuthorized);
        Exactly(2)
    }),
    limit("refused:bans", "protocol = \"mqtt\"\n[limits]\nban_after_malformed = 1\n", |place| {
        for _ in 0..2 {
            let mut client = Client::open(place.address());
            client.send_bytes(&[0x10, 0x02, 0xff, 0xff]);
            client.expect_end();
        }
        Exactly(1)
    }),
    limit(
        "limits:held_by_rate",
        "protocol = \"mqtt\"\n[limits]\npublish_messages_per_s = 1\npublish_messages_burst = 1\n",
        |place| {
            let mut client = place.client("fast");
            client.send(&message(Qos::AtMostOnce, |_| {}));
            client.send(&message(Qos::AtMostOnce, |_| {}));
            place.clients.push(client);
            Exactly(1)
        },
    ),
    limit(
        "ended:message_rate_too_high",
        "protocol = \"mqtt\"\n[limits]\npublish_bytes_per_s = 1\npublish_bytes_burst = 1\n\
         publish_wait_max_s = 1\n",
        |place| {
            let mut client = place.client("fast");
            for _ in 0..5 {
                client.send(&message(Qos::AtMostOnce, |_| {}));
            }
            match client.receive() {
                Some(Packet::Disconnect(it)) => {
                    assert_eq!(it.reason, ReasonCode::MessageRateTooHigh);
                }
                other => panic!("no DISCONNECT but {other:?}"),
            }
            Exactly(1)
        },
    ),
    limit(
        "ended:packet_too_large",
        "protocol = \"mqtt\"\n[limits]\nmaximum_packet_size_bytes = 64\n",
        |place| {
            let large = message(Qos::AtMostOnce, |it| it.payload = vec![0; 64].into());
            place.breaks(&large, ReasonCode::PacketTooLarge);
            Exactly(1)
        },
    ),
    limit(
        "ended:topic_name_invalid",
        "protocol = \"mqtt\"\n[limits]\ntopic_bytes_maximum = 5\ntopic_levels_maximum = 2\n",
        |place| {
            for topic in ["abcdef", "a/b/c"] {
                let packet = publish_packet(topic, "", Qos::AtMostOnce, 0);
                place.breaks(&packet, ReasonCode::TopicNameInvalid);
            }
            Exactly(2)
        },
    ),
    limit(
        "limits:filters_refused",
        "protocol = \"mqtt\"\n[limits]\ntopic_bytes_maximum = 5\ntopic_levels_maximum = 2\n\
         filters_per_subscribe_maximum = 1\nsession_subscriptions_maximum = 1\n",
        |place| {
            let mut client = place.client("client");
            client.subscribe("first", Qos::AtMostOnce);
            let filters = |filters: &[&str]| {
                let all = filters.iter().map(|filter| subscribe_packet(filter, Qos::AtMostOnce));
                all.reduce(|mut all, more| {
                    let (Packet::Subscribe(all_of), Packet::Subscribe(more)) = (&mut all, more)
                    else {
                        unreachable!()
                    };
                    all_of.filters.extend(more.filters);
                    all
                })
            };
            for (asked, reasons) in [
                (&["abcdef"][..], &[ReasonCode::TopicFilterInvalid][..]),
                (&["a/b/c"], &[ReasonCode::TopicFilterInvalid]),
                (&["more"], &[ReasonCode::QuotaExceeded]),
                (&["first", "first"], &[ReasonCode::QuotaExceeded; 2]),
            ] {
                client.send(&filters(asked).expect("one or more"));
                let Some(Packet::SubAck(suback)) = client.receive() else { panic!("no SUBACK") };
                assert_eq!(suback.reasons[..], *reasons, "{asked:?}");
            }
            Exactly(5)
        },
    ),
    limit(
        "limits:client_ids_refused",
        "protocol = \"mqtt\"\n[limits]\nclient_id_bytes_maximum = 23\n",
        |place| {
            let long = |connect: &mut Connect| connect.client_id = common::text(&"i".repeat(24));
            let (reason, _) = place.told(Version::V5, long);
            assert_eq!(reason, ReasonCode::ClientIdentifierNotValid);
            let (reason, _) = place.told(Version::V3_1_1, long);
            assert_eq!(reason, ReasonCode::ClientIdentifierNotValid);
            Exactly(2)
        },
    ),
    limit(
        "limits:keep_alives_refused",
        "protocol = \"mqtt\"\n[limits]\nkeep_alive_max_s = 10\n",
        |place| {
            for keep_alive_s in [0, 11] {
                let (reason, _) =
                    place.told(Version::V3_1_1, |connect| connect.keep_alive_s = keep_alive_s);
                assert_eq!(reason, ReasonCode::ServerUnavailable);
            }
            assert_eq!(place.told(Version::V3_1_1, |it| it.keep_alive_s = 9).0 as u8, 0);
            Exactly(2)
        },
    ),
    limit(
        "limits:keep_alives_changed",
        "protocol = \"mqtt\"\n[limits]\nkeep_alive_min_s = 5\nkeep_alive_max_s = 10\n",
        |place| {
            for keep_alive_s in [0, 4, 5, 10, 11] {
                let (reason, _) =
                    place.told(Version::V5, |connect| connect.keep_alive_s = keep_alive_s);
                assert_eq!(reason, ReasonCode::Success);
            }
            Exactly(3)
        },
    ),
    limit(
        "limits:session_expiries_capped",
        "protocol = \"mqtt\"\n[limits]\nsession_expiry_max_s = 60\n",
        |place| {
            // For ever; longer; as long as it may be; and longer than that once it goes.
            place.told(Version::V3_1_1, |connect| connect.clean_start = false);
            for asked in [61, 60] {
                let (_, mut client) = place.told(Version::V5, |connect| {
                    connect.properties.session_expiry_interval_s = Some(asked);
                });
                if asked == 60 {
                    let mut goodbye = petrel_proto::Disconnect::new(ReasonCode::Success);
                    goodbye.session_expiry_interval_s = Some(61);
                    client.send(&Packet::Disconnect(Box::new(goodbye)));
                    client.expect_end();
                }
            }
            Exactly(3)
        },
    ),
    limit(
        "ended:receive_maximum_exceeded",
        "protocol = \"mqtt\"\n[limits]\nreceive_maximum = 1\n",
        |place| {
            let mut client = place.client("client");
            for id in 1..=2 {
                client.send(&publish_packet("t", "m", Qos::ExactlyOnce, id));
            }
            assert!(matches!(client.receive(), Some(Packet::PubRec(_))));
            match client.receive() {
                Some(Packet::Disconnect(it)) => {
                    assert_eq!(it.reason, ReasonCode::ReceiveMaximumExceeded);
                }
                other => panic!("no DISCONNECT but {other:?}"),
            }
            Exactly(1)
        },
    ),
    limit(
        "ended:topic_alias_invalid",
        "protocol = \"mqtt\"\n[limits]\ntopic_alias_maximum = 3\n",
        |place| {
            let alias =
                message(Qos::AtMostOnce, |publish| publish.properties.topic_alias = Some(4));
            place.breaks(&alias, ReasonCode::TopicAliasInvalid);
            Exactly(1)
        },
    ),
    limit("ended:qos_not_supported", "protocol = \"mqtt\"\n[limits]\nmaximum_qos = 0\n", |place| {
        place.breaks(&message(Qos::AtLeastOnce, |_| {}), ReasonCode::QosNotSupported);
        Exactly(1)
    }),
    limit(
        "ended:retain_not_supported",
        "protocol = \"mqtt\"\n[limits]\nretain_available = false\n",
        |place| {
            let retained = message(Qos::AtMostOnce, |publish| publish.retain = true);
            place.breaks(&retained, ReasonCode::RetainNotSupported);
            Exactly(1)
        },
    ),
    limit(
        "limits:inflight_full",
        "protocol = \"mqtt\"\n[limits]\noutgoing_inflight_maximum = 2\n",
        |place| {
            place.subscribe("slow");
            for _ in 0..4 {
                assert_eq!(place.publish(|_| {}), ReasonCode::Success);
            }
            Exactly(2)
        },
    ),
    limit(
        "limits:inflight_full",
        "protocol = \"mqtt\"\n[limits]\noutgoing_inflight_bytes_maximum = 100\n",
        |place| {
            place.subscribe("slow");
            for _ in 0..2 {
                let long = |publish: &mut Publish| publish.payload = vec![0; 60].into();
                assert_eq!(place.publish(long), ReasonCode::Success);
            }
            Exactly(1)
        },
    ),
    limit(
        "dropped:queue_full",
        "protocol = \"mqtt\"\n[limits]\noutgoing_inflight_maximum = 1\nsession_queue_messages = 1\n",
        |place| {
            place.subscribe("slow");
            for _ in 0..4 {
                assert_eq!(place.publish(|_| {}), ReasonCode::Success);
            }
            Exactly(2)
        },
    ),
    limit(
        "dropped:queue_full",
        "protocol = \"mqtt\"\n[limits]\noutgoing_inflight_maximum = 1\nsession_queue_bytes = 100\n",
        |place| {
            place.subscribe("slow");
            for _ in 0..3 {
                let long = |publish: &mut Publish| publish.payload = vec![0; 60].into();
                assert_eq!(place.publish(long), ReasonCode::Success);
            }
            Exactly(1)
        },
    ),
    limit(
        "dropped:slow_reader",
        "protocol = \"mqtt\"\n[limits]\noutgoing_bytes_maximum = 1024\n",
        |place| {
            place.subscribe("slow");
            let mut client = place.client("publisher");
            let long =
                message(Qos::AtMostOnce, |publish| publish.payload = vec![0; 100_000].into());
            let begin = Instant::now();
            while place.figures()["dropped:slow_reader"] == 0 {
                assert!(begin.elapsed() < PATIENCE, "the socket takes everything");
                client.send(&long);
            }
            AtLeast(1)
        },
    ),
    limit(
        "dropped:retained_full",
        "protocol = \"mqtt\"\n[limits]\nretained_messages_maximum = 1\n",
        |place| {
            for topic in ["one", "two"] {
                let mut client = place.client("publisher");
                let Packet::Publish(mut publish) = publish_packet(topic, "m", Qos::AtLeastOnce, 1)
                else {
                    unreachable!()
                };
                publish.retain = true;
                client.send(&Packet::Publish(publish));
                assert!(matches!(client.receive(), Some(Packet::PubAck(_))));
            }
            Exactly(1)
        },
    ),
    limit(
        "dropped:retained_full",
        "protocol = \"mqtt\"\n[limits]\nretained_bytes_maximum = 10\n",
        |place| {
            let long = |publish: &mut Publish| {
                publish.payload = vec![0; 100].into();
                publish.retain = true;
            };
            assert_eq!(place.publish(long), ReasonCode::NoMatchingSubscribers);
            Exactly(1)
        },
    ),
    limit("dropped:memory_full", "protocol = \"mqtt\"\n", |place| {
        let mut client = place.client("publisher");
        let begin = Instant::now();
        has_memory_by_its_bound(place, 1000);
        let mut refused = 0;
        while refused < 2 {
            client.send(&message(Qos::AtLeastOnce, |_| {}));
            match client.receive() {
                Some(Packet::PubAck(ack)) if ack.reason == ReasonCode::QuotaExceeded => {
                    refused += 1;
                }
                Some(Packet::PubAck(_)) => assert!(begin.elapsed() < PATIENCE),
                other => panic!("no PUBACK but {other:?}"),
            }
        }
        Exactly(2)
    }),
    limit("limits:held_by_load", "protocol = \"mqtt\"\n", |place| {
        let mut client = place.client("publisher");
        let one = bytes_of(&message(Qos::AtMostOnce, |_| {}), Version::V5);
        let begin = Instant::now();
        // Other tests are of this process, so its memory may have changed by the time that it is looked at.
        while place.figures()["limits:held_by_load"] == 0 {
            assert!(begin.elapsed() < PATIENCE, "{:?}", place.figures());
            has_memory_by_its_bound(place, 87);
            // More than its share of a tick, whatever that is.
            client.send_bytes(&one.repeat(10_000));
            client.send(&Packet::PingReq);
            assert_eq!(client.receive(), Some(Packet::PingResp));
        }
        AtLeast(1)
    }),
    limit("refused:levels", "protocol = \"mqtt\"\n", |place| {
        has_memory_by_its_bound(place, 1000);
        Exactly(3)
    }),
    limit("refused:busy", "protocol = \"mqtt\"\n", |place| {
        has_memory_by_its_bound(place, 1000);
        place.until_counted("refused:levels", Exactly(3));
        assert_eq!(place.told(Version::V5, |_| {}).0, ReasonCode::ServerBusy);
        assert_eq!(place.told(Version::V3_1_1, |_| {}).0, ReasonCode::ServerUnavailable);
        Exactly(2)
    }),
    limit(
        "denied:server_busy",
        "protocol = \"mqtt\"\nauthentication = [\"web\"]\n[[authenticator]]\nname = \"web\"\n\
         kind = \"http\"\nurl = \"URL\"\nin_flight_maximum = 1\ntimeout_ms = 60000\n[access]\nwaiting_maximum = 1\n",
        |place| {
            // Somebody is asked about the first, and does not answer; one waits behind those who are asked about.
            for n in 0..40 {
                let mut client = Client::open(place.address());
                let Packet::Connect(mut connect) = connect_packet(&format!("c{n}"), Version::V5)
                else {
                    unreachable!()
                };
                as_user(&mut connect);
                client.send(&Packet::Connect(connect));
                place.clients.push(client);
            }
            // Who they are depends on which of them are looked at first.
            place.until_counted("denied:server_busy", AtLeast(1));
            let told = |client: &Client| {
                client.stream.set_nonblocking(true).expect("it can be");
                let told = client.stream.peek(&mut [0]).is_ok_and(|bytes| bytes > 0);
                client.stream.set_nonblocking(false).expect("it can be");
                told
            };
            let begin = Instant::now();
            let busy = loop {
                if let Some(busy) = place.clients.iter().position(told) {
                    break busy;
                }
                assert!(begin.elapsed() < PATIENCE, "nobody is told");
            };
            let Some(Packet::ConnAck(ack)) = place.clients[busy].receive() else {
                panic!("no CONNACK")
            };
            assert_eq!(ack.reason, ReasonCode::ServerBusy);
            AtLeast(1)
        },
    ),
    Limit {
        counter: "dropped:storage_full",
        config: "protocol = \"mqtt\"\n[storage]\npath = \"data\"\nwhen_full = \"refuse\"\n\
                 disk_limit_bytes = 100000000\n",
        files: |folder| {
            std::fs::create_dir(folder.join("data")).expect("a folder");
            let filler = std::fs::File::create(folder.join("data/filler")).expect("a file");
            let flags = rustix::fs::FallocateFlags::empty();
            rustix::fs::fallocate(&filler, flags, 0, 100_000_000).expect("there is room");
        },
        meet: |place| {
            let (_, mut away) = place.told(Version::V5, |connect| {
                connect.client_id = common::text("away");
                connect.properties.session_expiry_interval_s = Some(60);
            });
            away.subscribe("t", Qos::AtLeastOnce);
            let begin = Instant::now();
            while place.publish(|_| {}) != ReasonCode::QuotaExceeded {
                assert!(begin.elapsed() < PATIENCE);
            }
            Exactly(1)
        },
    },
];

/// A client that has sent a ClientHello and nothing else.
fn hello(place: &Place) -> Client {
    let trusted = CertificateDer::from_pem_file(place.folder.path().join("server.pem"));
    let name = "localhost".try_into().expect("a name");
    let config = tls_client(&trusted.expect("a certificate"));
    let mut tls = ClientConnection::new(config, name).expect("a client");
    let mut hello = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut hello).expect("to memory");
    }
    let mut client = Client::open(place.address());
    client.send_bytes(&hello);
    client
}

/// From now on the memory of this process is so many hundredths of what it may have.
fn has_memory_by_its_bound(place: &mut Place, percent: u64) {
    let resident = petrel_engine::memory::Memory::of_this_process().expect("it is known").rss_bytes;
    place.config.memory_bytes = resident * 100 / percent;
    let left = place.broker.reload_with(&place.config).expect("nothing is wrong");
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn every_limit_is_counted_when_it_is_met_and_not_before() {
    for runtime in RUNTIMES {
        for limit in LIMITS {
            let mut place = Place::start(runtime, limit);
            let before = place.figures().get(limit.counter).copied().unwrap_or(0);
            assert_eq!(before, 0, "{}", limit.counter);
            let counted = (limit.meet)(&mut place);
            place.until_counted(limit.counter, counted);
            place.clients.clear();
            place.broker.stop().expect("it stops");
        }
    }
}

/// Whoever adds a limit to the table adds it here.
#[test]
fn the_table_of_the_documentation_names_these_counters() {
    let text = include_str!("../../docs/CONFIGURATION.md");
    let (_, table) = text.split_once("### What each limit does").expect("it is there");
    let rows = table.lines().skip_while(|line| !line.starts_with("|---"));
    let mut named = BTreeSet::new();
    for row in rows.skip(1).take_while(|line| line.starts_with('|')) {
        let counters = row.trim_end_matches('|').rsplit('|').next().expect("a column");
        let names: Vec<_> = counters.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "no counter in {row}");
        named.extend(names);
    }
    let tested: BTreeSet<_> =
        LIMITS.iter().filter_map(|limit| Some(limit.counter.split_once(':')?.1)).collect();
    assert_eq!(named, tested);
}
