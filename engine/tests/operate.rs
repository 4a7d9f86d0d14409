//! What operators see and do over HTTP.

#![cfg(feature = "admin")]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use common::{Client, PATIENCE, RUNTIMES, config, connect_packet, publish_packet, start};
use petrel_access::bearer::{Bearer, Role};
use petrel_engine::boot::Running;
use petrel_engine::config::{AdminConfig, Config, RuntimeChoice};
use petrel_proto::{Packet, Qos, ReasonCode, Version};
use serde_json::{Value, json};

/// A broker with a control folder, and who asks it.
struct Lab {
    broker: Option<Running>,
    admin: SocketAddr,
    token: String,
    folder: tempfile::TempDir,
}

impl Lab {
    fn new(shards: u16, runtime: RuntimeChoice, change: impl FnOnce(&mut Config, &Path)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut config = config(shards, runtime);
        config.engine.control = Some(folder.path().join("control"));
        config.admin = Some(AdminConfig::at("127.0.0.1:0".parse().expect("an address")));
        change(&mut config, folder.path());
        let broker = start(config);
        let admin = broker.admin_address().expect("it listens");
        let file = folder.path().join("control/admin.json");
        let cookie: Value = serde_json::from_slice(&fs::read(&file).expect("it is there")).unwrap();
        let token = cookie["token"].as_str().expect("a token").to_owned();
        assert!(cookie["url"].as_str().expect("a URL").ends_with(&admin.to_string()));
        Self { broker: Some(broker), admin, token, folder }
    }

    fn mqtt(&self) -> SocketAddr {
        self.broker.as_ref().expect("it runs").addresses()[0]
    }

    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        request(self.admin, Some(&self.token), method, path, body)
    }

    fn get(&self, path: &str) -> Value {
        let (status, value) = self.ask("GET", path, None);
        assert_eq!(status, 200, "{path}: {value}");
        value
    }

    /// Asks until it is so.
    fn until(&self, path: &str, is: impl Fn(&Value) -> bool) -> Value {
        let begin = Instant::now();
        loop {
            let value = self.get(path);
            if is(&value) {
                return value;
            }
            assert!(begin.elapsed() < PATIENCE, "{path}: {value}");
        }
    }

    fn stop(mut self) {
        let cookie = self.folder.path().join("control/admin.json");
        assert!(cookie.exists());
        self.broker.take().expect("it runs").stop().expect("it stops");
        assert!(!cookie.exists(), "a token of a process that has ended is left behind");
    }
}

/// The status of an answer, and its body: JSON, or a text.
fn exchange(stream: &mut (impl Read + Write), request: &str) -> (u16, Value) {
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = Vec::new();
    // TLS may end without a word.
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8(answer).expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let value = serde_json::from_str(body).unwrap_or_else(|_| Value::from(body));
    (status.expect("a status"), value)
}

fn text_of(token: Option<&str>, method: &str, path: &str, body: Option<&Value>) -> String {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: petrel\r\nConnection: close\r\n");
    if let Some(token) = token {
        text.push_str(&format!("Authorization: Bearer {token}\r\n"));
    }
    let body = body.map(Value::to_string).unwrap_or_default();
    if !body.is_empty() {
        text.push_str("Content-Type: application/json\r\n");
    }
    text.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
    text
}

fn request(
    address: SocketAddr,
    token: Option<&str>,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> (u16, Value) {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    exchange(&mut stream, &text_of(token, method, path, body))
}

/// A client whose session outlives its connection.
fn staying(address: SocketAddr, client_id: &str) -> Client {
    let mut client = Client::open(address);
    let Packet::Connect(mut connect) = connect_packet(client_id, Version::V5) else {
        panic!("a CONNECT")
    };
    connect.properties.session_expiry_interval_s = Some(1000);
    connect.clean_start = false;
    client.send(&Packet::Connect(connect));
    assert!(matches!(client.receive(), Some(Packet::ConnAck(_))));
    client
}

#[test]
fn clients_are_listed_shown_disconnected_and_ended() {
    for runtime in RUNTIMES {
        let lab = Lab::new(2, runtime, |_, _| {});
        let mut clients: Vec<_> =
            (0..25).map(|n| staying(lab.mqtt(), &format!("client/{n}"))).collect();
        clients[7].subscribe("a/+", Qos::AtLeastOnce);
        let mut found = Vec::new();
        let mut path = "/api/v1/clients?limit=4".to_owned();
        loop {
            let page = lab.get(&path);
            let page_clients = page["clients"].as_array().expect("a list");
            assert!(page_clients.len() <= 4);
            found
                .extend(page_clients.iter().map(|it| it["client_id"].as_str().unwrap().to_owned()));
            let Some(next) = page["next"].as_str() else { break };
            path = format!("/api/v1/clients?limit=4&cursor={next}");
        }
        found.sort_unstable();
        found.dedup();
        assert_eq!(found.len(), 25);
        let one = lab.get("/api/v1/clients/client%2F7");
        assert_eq!(
            (&one["connected"], &one["version"], &one["subscriptions"], &one["transport"]),
            (&json!(true), &json!("5"), &json!(1), &json!("plain"))
        );
        assert!(one["address"].as_str().expect("an address").starts_with("127.0.0.1:"));
        assert_eq!(one["events"][0]["what"], "connected");
        let subscriptions = lab.get("/api/v1/clients/client%2F7/subscriptions");
        assert_eq!(subscriptions["subscriptions"][0]["filter"], "a/+");

        let (status, _) = lab.ask("POST", "/api/v1/clients/client%2F7/disconnect", None);
        assert_eq!(status, 200);
        let Some(Packet::Disconnect(told)) = clients[7].receive() else { panic!("no word") };
        assert_eq!(told.reason, ReasonCode::AdministrativeAction);
        let away = lab.until("/api/v1/clients/client%2F7", |it| it["connected"] == false);
        assert_eq!(away["subscriptions"], 1);
        assert!(away["ends_in_s"].as_u64().is_some_and(|ends| ends <= 1001));
        let list = lab.get("/api/v1/clients?connected=false");
        assert_eq!(list["clients"].as_array().map(Vec::len), Some(1));
        let again = lab.ask("POST", "/api/v1/clients/client%2F7/disconnect", None);
        assert_eq!(again.0, 409, "{}", again.1);

        clients[0].send(&publish_packet("a/b", "waits", Qos::AtLeastOnce, 1));
        assert!(matches!(clients[0].receive(), Some(Packet::PubAck(_))));
        let queue = lab.until("/api/v1/clients/client%2F7/queue", |it| {
            it["messages"].as_array().is_some_and(|messages| !messages.is_empty())
        });
        assert_eq!(queue["messages"][0]["payload"], "waits");

        assert_eq!(lab.ask("DELETE", "/api/v1/clients/client%2F7", None).0, 200);
        let gone = lab.ask("GET", "/api/v1/clients/client%2F7", None);
        assert_eq!(gone.0, 404, "{}", gone.1);
        assert_eq!(lab.ask("DELETE", "/api/v1/clients/client%2F7", None).0, 404);
        let audit = lab.get("/api/v1/audit");
        let done: Vec<_> = audit["entries"].as_array().expect("a list").iter().collect();
        assert_eq!(done[0]["status"], 404);
        assert_eq!(done[1]["what"], "DELETE /api/v1/clients/client%2F7");
        assert_eq!((&done[1]["who"], &done[1]["address"]), (&json!("local"), &json!("127.0.0.1")));
        lab.stop();
    }
}

#[test]
fn retained_messages_are_listed_shown_deleted_and_messages_published() {
    for runtime in RUNTIMES {
        let lab = Lab::new(2, runtime, |_, _| {});
        let mut reader = Client::connect(lab.mqtt(), "reader", Version::V5);
        reader.subscribe("r/#", Qos::ExactlyOnce);
        for n in 0..100 {
            let body = json!({"topic": format!("r/{n}"), "payload": format!("{n}"), "qos": 1, "retain": true});
            let (status, said) = lab.ask("POST", "/api/v1/publish", Some(&body));
            assert_eq!(status, 200, "{said}");
        }
        for _ in 0..100 {
            let publish = reader.receive_publish();
            assert!(publish.topic.as_bytes().starts_with(b"r/"));
        }
        let mut topics = Vec::new();
        let mut path = "/api/v1/retained?limit=7&filter=r/%2B".to_owned();
        loop {
            let page = lab.get(&path);
            let messages = page["messages"].as_array().expect("a list");
            topics.extend(messages.iter().map(|it| it["topic"].as_str().unwrap().to_owned()));
            let Some(next) = page["next"].as_str() else { break };
            path = format!("/api/v1/retained?limit=7&filter=r/%2B&cursor={next}");
        }
        topics.sort_unstable();
        topics.dedup();
        assert_eq!(topics.len(), 100);
        let one = lab.get("/api/v1/retained/message?topic=r/17");
        assert_eq!((&one["payload"], &one["payload_base64"]), (&json!("17"), &json!("MTc=")));
        assert_eq!(lab.ask("DELETE", "/api/v1/retained/message?topic=r/17", None).0, 200);
        assert_eq!(reader.receive_publish().payload.len(), 0);
        let gone = lab.ask("DELETE", "/api/v1/retained/message?topic=r/17", None);
        assert_eq!(gone.0, 404, "{}", gone.1);
        let reached = lab.get("/api/v1/topics/receivers?topic=r/1");
        assert_eq!((&reached["receivers"], &reached["clients"]), (&json!(1), &json!(["reader"])));
        for wrong in [
            json!({"topic": "a/#"}),
            json!({"topic": "a", "qos": 3}),
            json!({"topic": "a", "payload": "x", "payload_base64": "eA=="}),
            json!({"topic": "a", "payload_base64": "?"}),
        ] {
            let (status, said) = lab.ask("POST", "/api/v1/publish", Some(&wrong));
            assert_eq!((status, said["error"].is_string()), (400, true), "{wrong}: {said}");
        }
        assert_eq!(lab.ask("POST", "/api/v1/publish", Some(&json!({"x": 1}))).0, 422);
        lab.stop();
    }
}

#[test]
fn bans_are_made_listed_and_taken_back() {
    let lab = Lab::new(2, RUNTIMES[1], |_, _| {});
    let mut client = Client::connect(lab.mqtt(), "bad", Version::V5);
    let ban = json!({"kind": "client-id", "who": "bad", "for_s": 100, "why": "it floods"});
    assert_eq!(lab.ask("POST", "/api/v1/bans", Some(&ban)).0, 200);
    let Some(Packet::Disconnect(told)) = client.receive() else { panic!("no word") };
    assert_eq!(told.reason, ReasonCode::AdministrativeAction);
    let bans = lab.get("/api/v1/bans");
    assert_eq!(
        (&bans["bans"][0]["who"], &bans["bans"][0]["why"]),
        (&json!("bad"), &json!("it floods"))
    );
    let why = lab.get("/api/v1/clients/bad/why?topic=t");
    assert!(why.to_string().contains("it is shut out"), "{why}");
    let path = "/api/v1/bans?kind=client-id&who=bad";
    assert_eq!(lab.ask("DELETE", path, None).0, 200);
    assert_eq!(lab.ask("DELETE", path, None).0, 404);
    let wrong = json!({"kind": "colour", "who": "red"});
    assert_eq!(lab.ask("POST", "/api/v1/bans", Some(&wrong)).0, 400);
    lab.stop();
}

/// A path says little: what the body asks for is kept as well.
#[test]
fn what_is_asked_for_in_a_body_is_kept_with_who_asked() {
    let lab = Lab::new(1, RUNTIMES[1], |_, _| {});
    let (level, publish) =
        (json!({"area": "load", "level": "info"}), json!({"topic": "a/b", "payload": "hello"}));
    let ban = json!({"kind": "user", "who": "eve", "for_s": 60, "why": "tries\npasswords"});
    let trace = json!({"kind": "topic", "who": "a/#"});
    let system = json!({"topic": "$SYS/broker/uptime", "payload": "0"});
    for (method, path, body, status, said) in [
        ("PUT", "log", &level, 200, "load is written up to info"),
        ("POST", "bans", &ban, 200, r#"user "eve" is banned for 60 s: tries"#),
        ("POST", "publish", &publish, 200, r#"5 bytes are published to "a/b""#),
        ("POST", "publish", &system, 400, r#""$SYS/broker/uptime": topics that begin with `$`"#),
        ("POST", "traces", &trace, 200, r#"recording 1 of topic "a/#" has begun"#),
        ("POST", "drain", &json!({"server_reference": "x:1"}), 200, r#"0 seconds, to "x:1""#),
    ] {
        let path = format!("/api/v1/{path}");
        let answer = lab.ask(method, &path, Some(body));
        assert_eq!(answer.0, status, "{path}: {}", answer.1);
        let last = lab.get("/api/v1/audit?limit=1")["entries"][0].clone();
        assert_eq!(
            (&last["what"], &last["status"]),
            (&json!(format!("{method} {path}")), &json!(status))
        );
        assert!(last["said"].as_str().is_some_and(|text| text.contains(said)), "{last}");
    }
    lab.stop();
}

/// The connection ends before the answer is there: whatever was done all the same is kept.
#[test]
fn whoever_asks_and_goes_away_is_kept_too() {
    let lab = Lab::new(1, RUNTIMES[1], |_, _| {});
    for n in 0..20 {
        let mut stream = TcpStream::connect(lab.admin).expect("it listens");
        let ban = json!({"kind": "user", "who": format!("user{n}")});
        let text = text_of(Some(&lab.token), "POST", "/api/v1/bans", Some(&ban));
        stream.write_all(text.as_bytes()).expect("sent");
        stream.shutdown(std::net::Shutdown::Write).expect("no more comes");
    }
    let none = json!([]);
    let bans = lab.until("/api/v1/bans", |it| it["bans"] != none)["bans"].clone();
    for ban in bans.as_array().expect("a list") {
        let said = format!("user {} is banned", ban["who"]);
        lab.until("/api/v1/audit", |it| {
            let entries = it["entries"].as_array().expect("a list");
            entries.iter().any(|it| it["said"] == said && it["status"] == 200)
        });
    }
    lab.stop();
}

/// Something has taken the port meanwhile: clients are let in by the other listeners, and it can be tried again.
#[test]
fn a_listener_that_cannot_be_opened_again_keeps_no_drain_going() {
    for runtime in RUNTIMES {
        let lab = Lab::new(2, runtime, |config, _| {
            let listener = |name: &str| petrel_engine::config::Listener {
                name: name.to_owned(),
                ..common::listener(petrel_engine::config::Protocol::Mqtt)
            };
            config.listeners = vec![listener("first"), listener("second")];
        });
        let second = lab.broker.as_ref().expect("it runs").addresses()[1];
        assert_eq!(lab.ask("POST", "/api/v1/drain", Some(&json!({}))).0, 200);
        let taken = std::net::TcpListener::bind(second).expect("nobody listens");
        let (status, said) = lab.ask("DELETE", "/api/v1/drain", None);
        let text = said["error"].as_str().unwrap_or_default();
        let is_named = text.starts_with("clients are let in again, but \"second\": ");
        assert!(status == 409 && is_named, "{status} {said}");
        assert_eq!(request(lab.admin, None, "GET", "/health/ready", None).0, 200);
        assert_eq!(lab.get("/api/v1/drain")["draining"], false);
        let listening = || {
            let listeners = lab.get("/api/v1/listeners")["listeners"].clone();
            [listeners[0]["listening"] == true, listeners[1]["listening"] == true]
        };
        assert_eq!(listening(), [true, false]);
        Client::connect(lab.mqtt(), "in again", Version::V5);
        assert_eq!(lab.ask("POST", "/api/v1/listeners/second/start", None).0, 409);
        drop(taken);
        assert_eq!(lab.ask("POST", "/api/v1/listeners/second/start", None).0, 200);
        assert_eq!(listening(), [true, true]);
        Client::connect(second, "by the second", Version::V5);
        lab.stop();
    }
}

/// It holds as long as the process, and that is said.
#[test]
fn a_ban_that_cannot_be_written_down_is_not_the_fault_of_who_asks() {
    let lab = Lab::new(1, RUNTIMES[1], |_, _| {});
    // No file takes the place of a folder.
    fs::create_dir_all(lab.folder.path().join("control/bans.json/in the way")).expect("made");
    let ban = json!({"kind": "user", "who": "eve"});
    let (status, said) = lab.ask("POST", "/api/v1/bans", Some(&ban));
    let text = said["error"].as_str().unwrap_or_default();
    assert!(status == 500 && text.contains("is not kept"), "{status} {said}");
    assert_eq!(lab.get("/api/v1/bans")["bans"][0]["who"], "eve");
    let (status, said) = lab.ask("DELETE", "/api/v1/bans?kind=user&who=eve", None);
    assert_eq!(status, 500, "{said}");
    assert_eq!(lab.get("/api/v1/bans")["bans"], json!([]));
    lab.stop();
}

#[test]
fn a_token_is_good_for_what_its_role_says_and_no_token_for_nothing() {
    let (metrics, metrics_token) = Bearer::make("prometheus", Role::Metrics).expect("made");
    let (read, read_token) = Bearer::make("support", Role::Read).expect("made");
    let (operate, operate_token) = Bearer::make("ops", Role::Operate).expect("made");
    let lab = Lab::new(1, RUNTIMES[1], |config, folder| {
        let file = folder.join("tokens");
        fs::write(&file, format!("{metrics}\n{read}\n{operate}\n")).expect("written");
        let admin = config.admin.as_mut().expect("it is there");
        // Everybody may reach it, so that everybody has to say who they are.
        admin.address = "0.0.0.0:0".parse().expect("an address");
        admin.tokens = Some(file);
    });
    let at = SocketAddr::from(([127, 0, 0, 1], lab.admin.port()));
    let status = |token, method, path| request(at, token, method, path, None).0;
    let all =
        [None, Some("petrel_x"), Some(&*metrics_token), Some(&*read_token), Some(&*operate_token)];
    for (method, path, wanted) in [
        ("GET", "/health/live", [200; 5]),
        ("GET", "/metrics", [401, 401, 200, 200, 200]),
        ("GET", "/api/openapi.json", [200; 5]),
        ("GET", "/api/v1/clients", [401, 401, 403, 200, 200]),
        ("GET", "/nothing", [401, 401, 403, 404, 404]),
        ("POST", "/api/v1/reload", [401, 401, 403, 403, 409]),
        ("DELETE", "/api/v1/clients/x", [401, 401, 403, 403, 404]),
        ("PUT", "/api/v1/clients/x", [401, 401, 403, 403, 405]),
        ("HEAD", "/api/v1/clients", [401, 401, 403, 200, 200]),
    ] {
        assert_eq!(all.map(|token| status(token, method, path)), wanted, "{method} {path}");
    }
    // What is in the file now counts at the next reload, and what is wrong with it changes nothing.
    let file = lab.folder.path().join("tokens");
    fs::write(&file, "rubbish\n").expect("written");
    let broker = lab.broker.as_ref().expect("it runs");
    let error = broker.reload().expect_err("a bad file").to_string();
    assert!(error.contains("tokens:1: a line is name:role:hash"), "{error}");
    assert_eq!(status(Some(&operate_token), "GET", "/api/v1/clients"), 200);
    fs::write(&file, format!("{read}\n")).expect("written");
    broker.reload().expect("a good file");
    assert_eq!(status(Some(&operate_token), "GET", "/api/v1/clients"), 401);
    assert_eq!(status(Some(&read_token), "GET", "/api/v1/clients"), 200);
    lab.stop();
}

#[test]
fn it_speaks_https_where_it_has_a_certificate() {
    let mut root = None;
    let lab = Lab::new(1, RUNTIMES[1], |config, folder| {
        let (files, der) = common::layers::certificate(folder);
        let admin = config.admin.as_mut().expect("it is there");
        admin.tls = Some((files.cert, files.key));
        root = Some(der);
    });
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root.expect("made")).expect("a good certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "localhost".try_into().expect("a name");
    let mut connection = rustls::ClientConnection::new(Arc::new(tls), name).expect("made");
    let mut stream = TcpStream::connect(lab.admin).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    let mut stream = rustls::Stream::new(&mut connection, &mut stream);
    let asked = text_of(Some(&lab.token), "GET", "/api/v1/version", None);
    let (status, version) = exchange(&mut stream, &asked);
    assert_eq!((status, &version["shards"]), (200, &json!(1)));
    assert!(
        lab.broker.as_ref().expect("it runs").admin_url().expect("one").starts_with("https://")
    );
    lab.stop();
}

#[test]
fn it_is_said_why_a_client_does_not_get_messages() {
    for runtime in RUNTIMES {
        let lab = Lab::new(2, runtime, |config, _| config.limits.session_queue_messages = 2);
        let why = |client: &str, topic: &str| {
            lab.get(&format!("/api/v1/clients/{client}/why?topic={topic}"))
        };
        let none = why("nobody", "t");
        assert_eq!(none["reaches"], "no");
        let mut reader = staying(lab.mqtt(), "reader");
        reader.subscribe("House/+", Qos::AtLeastOnce);
        let near = why("reader", "house/door");
        assert_eq!(near["reaches"], "no");
        assert!(near.to_string().contains("but for upper and lower case"), "{near}");
        assert_eq!(why("reader", "House/door")["reaches"], "at_once");
        drop(reader);
        lab.until("/api/v1/clients/reader", |it| it["connected"] == false);
        assert_eq!(why("reader", "House/door")["reaches"], "later");
        let mut writer = Client::connect(lab.mqtt(), "writer", Version::V5);
        for id in 1..=5 {
            writer.send(&publish_packet("House/door", "m", Qos::AtLeastOnce, id));
            assert!(matches!(writer.receive(), Some(Packet::PubAck(_))));
        }
        let path = "/api/v1/clients/reader/why?topic=House/door&publisher=writer";
        let full = lab.until(path, |it| it.to_string().contains("3 queue full"));
        let text = full.to_string();
        assert!(full["reaches"] == "no" && text.contains("its queue is full"), "{full}");
        assert!(text.contains("'writer' may publish to 'House/door' at up to QoS 2"), "{full}");
        let shown = lab.get("/api/v1/clients/reader");
        assert_eq!(shown["lost"]["messages"], 3);
        assert_eq!(shown["lost"]["last_topic"], "House/door");
        // A session that is over is told from one that never was.
        assert_eq!(lab.ask("DELETE", "/api/v1/clients/reader", None).0, 200);
        let ended = lab.until("/api/v1/clients/reader/why?topic=t", |it| it["reaches"] == "no");
        let said = "session ended, an operator has ended it";
        assert!(ended.to_string().contains(said) && !none.to_string().contains(said), "{ended}");
        lab.stop();
    }
}

#[test]
fn a_publisher_that_is_not_read_for_its_rate_is_told() {
    for runtime in RUNTIMES {
        let lab = Lab::new(2, runtime, |config, _| {
            (config.rate.publish_messages_per_s, config.rate.publish_messages_burst) = (1, 1);
        });
        let mut reader = Client::connect(lab.mqtt(), "reader", Version::V5);
        reader.subscribe("t", Qos::AtMostOnce);
        let mut writer = Client::connect(lab.mqtt(), "writer", Version::V5);
        let mut told = String::new();
        let begin = Instant::now();
        while !told.contains("'writer' is not read for now") {
            assert!(begin.elapsed() < PATIENCE, "{told}");
            writer.send(&publish_packet("t", "m", Qos::AtMostOnce, 0));
            told = lab.get("/api/v1/clients/reader/why?topic=t&publisher=writer").to_string();
        }
        assert!(told.contains("it has published more than its share"), "{told}");
        lab.stop();
    }
}

#[test]
fn the_description_names_every_answer_and_each_needs_a_token() {
    let lab = Lab::new(1, RUNTIMES[1], |_, _| {});
    let description = lab.get("/api/openapi.json");
    let paths = description["paths"].as_object().expect("paths");
    assert!(paths.len() > 12, "{}", paths.len());
    for (path, methods) in paths {
        for (method, operation) in methods.as_object().expect("methods") {
            assert!(operation["security"][0]["token"].is_array(), "{method} {path}");
            assert!(operation["summary"].as_str().is_some_and(|it| it.ends_with('.')), "{path}");
            let path = path.replace("{client_id}", "x");
            let status = request(lab.admin, None, &method.to_uppercase(), &path, None).0;
            assert_eq!(status, 401, "{method} {path}");
        }
    }
    lab.stop();
}

#[test]
fn a_listener_is_stopped_and_opened_again() {
    for runtime in RUNTIMES {
        let lab = Lab::new(2, runtime, |_, _| {});
        let mut staying = Client::connect(lab.mqtt(), "staying", Version::V5);
        let name = lab.get("/api/v1/listeners")["listeners"][0]["name"].clone();
        let name = name.as_str().expect("a name").replace('/', "%2F");
        for _ in 0..3 {
            assert_eq!(lab.ask("POST", &format!("/api/v1/listeners/{name}/stop"), None).0, 200);
            assert!(TcpStream::connect(lab.mqtt()).is_err(), "nobody listens");
            assert_eq!(lab.get("/api/v1/listeners")["listeners"][0]["listening"], false);
            assert_eq!(lab.ask("POST", &format!("/api/v1/listeners/{name}/stop"), None).0, 200);
            assert_eq!(lab.ask("POST", &format!("/api/v1/listeners/{name}/start"), None).0, 200);
            // Each shard listens: so many meet both.
            for n in 0..8 {
                Client::connect(lab.mqtt(), &format!("new{n}"), Version::V5);
            }
        }
        staying.subscribe("still/here", Qos::AtMostOnce);
        assert_eq!(lab.ask("POST", "/api/v1/listeners/nothing/stop", None).0, 404);
        lab.stop();
    }
}

#[test]
fn a_broker_that_drains_sends_everybody_away_and_can_be_called_back() {
    for runtime in RUNTIMES {
        let lab = Lab::new(2, runtime, |_, _| {});
        let mut clients: Vec<_> =
            (0..20).map(|n| staying(lab.mqtt(), &format!("client{n}"))).collect();
        let mut old = Client::connect(lab.mqtt(), "old", Version::V3_1_1);
        assert_eq!(lab.ask("DELETE", "/api/v1/drain", None).0, 409);
        let wrong = json!({"within_s": 1, "server_reference": ""});
        assert_eq!(lab.ask("POST", "/api/v1/drain", Some(&wrong)).0, 400);
        let body = json!({"within_s": 1, "server_reference": "other.example:1883"});
        assert_eq!(lab.ask("POST", "/api/v1/drain", Some(&body)).0, 200);
        assert!(TcpStream::connect(lab.mqtt()).is_err(), "nobody listens");
        assert_eq!(request(lab.admin, None, "GET", "/health/ready", None).0, 503);
        for client in &mut clients {
            let Some(Packet::Disconnect(told)) = client.receive() else { panic!("no word") };
            assert_eq!(told.reason, ReasonCode::UseAnotherServer);
            let reference = told.server_reference.expect("where to go");
            assert_eq!(reference.as_str(), "other.example:1883");
            client.expect_end();
        }
        old.expect_end();
        lab.until("/api/v1/drain", |it| it["connections"] == 0 && it["draining"] == true);
        assert_eq!(lab.get("/api/v1/clients/client3")["connected"], false, "sessions stay");
        assert_eq!(lab.ask("DELETE", "/api/v1/drain", None).0, 200);
        assert_eq!(request(lab.admin, None, "GET", "/health/ready", None).0, 200);
        staying(lab.mqtt(), "client3").subscribe("t", Qos::AtMostOnce);
        // Without a place to go to, and at once.
        let mut last = Client::connect(lab.mqtt(), "last", Version::V5);
        assert_eq!(lab.ask("POST", "/api/v1/drain", Some(&json!({}))).0, 200);
        let Some(Packet::Disconnect(told)) = last.receive() else { panic!("no word") };
        assert_eq!(told.reason, ReasonCode::ServerShuttingDown);
        lab.stop();
    }
}

/// A recording is begun, read as JSON and as text, stopped and deleted; what is wrong is told.
#[test]
fn a_recording_is_made_and_read() {
    for runtime in RUNTIMES {
        let lab = Lab::new(2, runtime, |_, _| {});
        let wanted = json!({"kind": "topic", "who": "t/#", "payload_bytes": 3, "seconds": 60});
        let (status, trace) = lab.ask("POST", "/api/v1/traces", Some(&wanted));
        assert_eq!((status, &trace["state"]), (200, &json!("running")), "{trace}");
        assert_eq!((&trace["kind"], &trace["who"]), (&json!("topic"), &json!("t/#")));
        let path = format!("/api/v1/traces/{}", trace["id"]);
        let mut client = Client::connect(lab.mqtt(), "a", Version::V5);
        client.send(&publish_packet("t/1", "hello", Qos::AtLeastOnce, 1));
        assert!(matches!(client.receive(), Some(Packet::PubAck(_))));
        let has_all = |page: &Value| page["next"].as_u64() >= Some(4);
        let page = lab.until(&format!("{path}/entries"), has_all);
        let events: Vec<_> =
            page["entries"].as_array().unwrap().iter().map(|it| it["event"].clone()).collect();
        assert_eq!(events, ["packet_in", "right", "unmatched", "packet_out"]);
        assert_eq!(page["entries"][0]["payload"], "hel");
        let page = lab.get(&format!("{path}/entries?from=3&limit=5"));
        assert_eq!((&page["entries"][0]["packet"], &page["next"]), (&json!("PUBACK"), &json!(4)));
        let text = lab.get(&format!("{path}/entries?format=text&limit=1"));
        let text = text.as_str().expect("text");
        assert!(text.ends_with("payload='hel'\n") && text.lines().count() == 1, "{text}");
        let (status, trace) = lab.ask("POST", &format!("{path}/stop"), None);
        assert_eq!((status, &trace["state"]), (200, &json!("stopped")));
        assert_eq!(lab.get("/api/v1/traces")["traces"].as_array().map(Vec::len), Some(1));
        for wrong in [
            json!({"kind": "planet", "who": "a"}),
            json!({"kind": "topic", "who": "a/#/b"}),
            json!({"kind": "address", "who": "10.0.0.0/40"}),
            json!({"kind": "user", "who": ""}),
            json!({"kind": "user", "who": "a", "seconds": 0}),
            json!({"kind": "user", "who": "a", "when_full": "explode"}),
        ] {
            let (status, answer) = lab.ask("POST", "/api/v1/traces", Some(&wrong));
            assert!(status == 400 && answer["error"].is_string(), "{wrong}: {answer}");
        }
        assert_eq!(lab.ask("GET", &format!("{path}/entries?format=pdf"), None).0, 400);
        assert_eq!(lab.ask("DELETE", &path, None).0, 200);
        for (method, path) in [
            ("DELETE", path.clone()),
            ("GET", path.clone()),
            ("POST", format!("{path}/stop")),
            ("GET", format!("{path}/entries")),
        ] {
            assert_eq!(lab.ask(method, &path, None).0, 404, "{method} {path}");
        }
        let nobody = request(lab.admin, None, "POST", "/api/v1/traces", Some(&wanted));
        assert_eq!(nobody.0, 401);
        lab.stop();
    }
}

/// What an answer looks like is said of every answer.
#[test]
fn no_reference_of_the_description_leads_nowhere() {
    let lab = Lab::new(1, RUNTIMES[1], |_, _| {});
    let description = lab.get("/api/openapi.json");
    let text = description.to_string();
    let names: Vec<_> = text
        .split("#/components/schemas/")
        .skip(1)
        .map(|rest| rest.split('"').next().expect("a name"))
        .collect();
    assert!(names.len() > 50, "{}", names.len());
    for name in names {
        assert!(description["components"]["schemas"][name].is_object(), "{name}");
    }
    lab.stop();
}

/// One address cannot take all places: more than its share are closed at once, and the others go on.
#[test]
fn an_address_has_so_many_connections_and_no_more() {
    let lab = Lab::new(1, RUNTIMES[1], |_, _| {});
    let mut held: Vec<_> = (0..32)
        .map(|_| {
            let mut stream = TcpStream::connect(lab.admin).expect("it listens");
            stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
            stream.write_all(b"GET /health/live HTTP/1.1\r\nHost: petrel\r\n\r\n").expect("sent");
            let mut first = [0; 8];
            stream.read_exact(&mut first).expect("an answer");
            assert_eq!(&first, b"HTTP/1.1");
            stream
        })
        .collect();
    let mut more = TcpStream::connect(lab.admin).expect("it listens");
    more.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    assert_eq!(more.read(&mut [0; 1]).ok(), Some(0), "it is closed");
    held.clear();
    let begin = Instant::now();
    loop {
        let mut stream = TcpStream::connect(lab.admin).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        let asked = text_of(None, "GET", "/health/live", None);
        let mut first = [0; 8];
        if stream.write_all(asked.as_bytes()).is_ok() && stream.read_exact(&mut first).is_ok() {
            break;
        }
        assert!(begin.elapsed() < PATIENCE, "nobody is answered any more");
    }
    lab.stop();
}
