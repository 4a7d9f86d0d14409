//! docs/operate/TRACES.md: its commands and its requests. What a recording shows is held by engine/tests/traces.rs.

use std::io::Read as _;
use std::process::Stdio;

use serde_json::Value;

use super::admin::Shown;
use super::{blocks, read};
use crate::broker::done;

#[test]
fn the_commands_are_run() {
    let page = read("docs/operate/TRACES.md");
    let [commands] = blocks(&page, "sh")[..] else { panic!("one block of commands") };
    let lines: Vec<_> = commands.lines().collect();
    let [client, topic, ls, follow, json, stop, rm] = lines[..] else { panic!("{lines:?}") };
    let shown = Shown::start(1);
    assert_eq!(shown.says(client), "recording 1 runs\n");
    let mut children =
        vec![(2, shown.command(topic).stdout(Stdio::piped()).spawn().expect("it starts"))];
    shown.until(ls, |out| out.matches(" running ").count() == 2);
    children.push((1, shown.command(follow).stdout(Stdio::piped()).spawn().expect("it starts")));
    done(shown.port(), "pub -i sensor-7 -t plant/1 -m hot -q 1");
    let out = shown.until(json, |out| out.contains("\"ended\""));
    for line in out.lines() {
        let entry: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(entry["client_id"], "sensor-7", "{line}");
    }
    assert_eq!(shown.says(stop), "recording 1 has ended\n");
    shown.says("petrelctl trace stop 2");
    for (id, mut child) in children {
        let mut text = String::new();
        child.stdout.take().expect("a pipe").read_to_string(&mut text).expect("UTF-8");
        assert!(child.wait().expect("it ends").success(), "recording {id}");
        assert!(
            text.contains("'sensor-7'") && text.contains("-> PUBLISH 'plant/1'"),
            "{id}: {text}"
        );
    }
    shown.says(rm);
    let left = shown.says(ls);
    assert!(!left.contains("sensor-7") && left.contains("plant/#"), "{left}");
    shown.broker.stop().expect("it stops");
}

/// A request as it is shown: a method, a path, and perhaps a body.
fn ask(shown: &Shown, request: &str) -> (u16, String) {
    let mut parts = request.splitn(3, ' ');
    let mut part = || parts.next().unwrap_or_default();
    let (method, path, body) = (part(), part(), part());
    let file = shown.root.path().join("run/petrel/admin.json");
    let own: Value =
        serde_json::from_slice(&std::fs::read(file).expect("it is there")).expect("JSON");
    let token = own["token"].as_str().expect("a token");
    let request = ureq::http::Request::builder()
        .method(method)
        .uri(format!("{}{path}", shown.broker.admin_url().expect("it listens")))
        .header("authorization", format!("Bearer {token}"))
        .header("content-type", "application/json")
        .body(body.to_owned())
        .expect("a request");
    let agent = ureq::Agent::new_with_config(
        ureq::Agent::config_builder()
            .http_status_as_error(false)
            .allow_non_standard_methods(true)
            .build(),
    );
    let mut answer = agent.run(request).expect("an answer");
    (answer.status().as_u16(), answer.body_mut().read_to_string().expect("UTF-8"))
}

#[test]
fn the_requests_are_answered() {
    let page = read("docs/operate/TRACES.md");
    let [requests] = blocks(&page, "http")[..] else { panic!("one block of requests") };
    let lines: Vec<_> = requests.lines().collect();
    let [begin, all, one, json, text, stop, delete] = lines[..] else { panic!("{lines:?}") };
    let shown = Shown::start(1);
    let says = |request: &str| -> Value {
        let (status, text) = ask(&shown, request);
        assert!((200..300).contains(&status), "{request}: {status} {text}");
        serde_json::from_str(&text).unwrap_or_else(|_| text.into())
    };
    assert_eq!(says(begin)["id"], 1);
    done(shown.port(), "pub -i sensor-7 -t plant/1 -m hot -q 1");
    shown.until("petrelctl trace show 1 --json", |out| out.contains("\"ended\""));
    assert_eq!(says(all)["traces"][0]["who"], "sensor-7");
    assert_eq!(says(one)["state"], "running");
    let entries = says(json);
    assert_eq!(
        entries["entries"].as_array().map(Vec::len),
        entries["next"].as_u64().map(|it| it as usize)
    );
    assert!(says(text).as_str().expect("text").contains("'sensor-7'"));
    says(stop);
    assert_eq!(says(one)["state"], "stopped");
    assert!(says(json)["next"].as_u64() > Some(0), "it can still be read");
    says(delete);
    assert_eq!(ask(&shown, one).0, 404);
    shown.broker.stop().expect("it stops");
}
