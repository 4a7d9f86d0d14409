//! `petrelctl sub` against a broker that follows a script.

use std::io::Read as _;

use crate::support::{Broker, Client, ack, code, message, outcome, spawn};
use petrel_proto::{
    Disconnect, Packet, PublishProperties, Qos, ReasonCode, RetainHandling, TopicName,
};
use rustix::process::{Pid, Signal, kill_process};

/// Lets a client in and grants its subscriptions.
fn grant(client: &mut Client, reasons: &[ReasonCode]) -> petrel_proto::Subscribe {
    client.accept();
    client.suback(reasons)
}

#[test]
fn messages_are_printed_and_acknowledged_at_every_qos() {
    let broker = Broker::start(|mut client| {
        grant(&mut client, &[ReasonCode::GrantedQos2]);
        client.publish(0, Qos::AtMostOnce, "a/0", "zero");
        client.publish(5, Qos::AtLeastOnce, "a/1", "one");
        client.publish(6, Qos::ExactlyOnce, "a/2", "two");
        client.publish(6, Qos::ExactlyOnce, "a/2", "two");
        let received = [client.expect(), client.expect(), client.expect()];
        client.send(&Packet::PubRel(ack(
            petrel_proto::PacketId::new(6).expect("not zero"),
            ReasonCode::Success,
        )));
        let completed = client.expect();
        client.publish(6, Qos::ExactlyOnce, "a/2", "two again");
        let again = client.expect();
        client.send(&Packet::PubRel(ack(
            petrel_proto::PacketId::new(6).expect("not zero"),
            ReasonCode::Success,
        )));
        (received, completed, again, client.rest())
    });
    let (code, stdout, _) = outcome(&mut broker.petrelctl("sub -t a/# -q 2 -v -C 4"));
    assert_eq!((code, stdout.as_str()), (0, "a/0 zero\na/1 one\na/2 two\na/2 two again\n"));
    let ([one, two, repeated], completed, again, rest) = broker.finish();
    assert!(matches!(&one, Packet::PubAck(it) if it.packet_id.get() == 5), "{one:?}");
    for receipt in [&two, &repeated, &again] {
        assert!(matches!(receipt, Packet::PubRec(it) if it.packet_id.get() == 6), "{receipt:?}");
    }
    assert!(matches!(&completed, Packet::PubComp(it) if it.reason == ReasonCode::Success));
    assert!(matches!(rest[..], [Packet::PubComp(_), Packet::Disconnect(_)]), "{rest:?}");
}

#[test]
fn what_comes_after_the_last_message_is_left_to_the_broker() {
    let broker = Broker::start(|mut client| {
        grant(&mut client, &[ReasonCode::GrantedQos1]);
        for id in 1..=5 {
            client.publish(id, Qos::AtLeastOnce, "a", &id.to_string());
        }
        client.rest()
    });
    assert_eq!(outcome(&mut broker.petrelctl("sub -t a -q 1 -C 2")).1, "1\n2\n");
    let packets = broker.finish();
    let acknowledged = packets.iter().filter(|it| matches!(it, Packet::PubAck(_))).count();
    assert_eq!((acknowledged, packets.len()), (2, 3), "{packets:?}");
}

#[test]
fn subscribe_says_what_the_options_say() {
    let broker = Broker::start(|mut client| {
        client.accept();
        client.suback(&[ReasonCode::Success, ReasonCode::Success])
    });
    let line = "sub -t a -t b/# -q 1 -E --no-local --retain-as-published --retain-handling 1 \
                -D subscribe subscription-identifier 8";
    assert_eq!(outcome(&mut broker.petrelctl(line)).0, 0);
    let subscribe = broker.finish();
    assert_eq!(subscribe.subscription_identifier, Some(8));
    let filters: Vec<_> = subscribe.filters.iter().map(|it| it.filter.text().as_str()).collect();
    assert_eq!(filters, ["a", "b/#"]);
    for filter in &subscribe.filters {
        let options = filter.options;
        assert_eq!(options.qos, Qos::AtLeastOnce);
        assert!(options.no_local && options.retain_as_published);
        assert_eq!(options.retain_handling, RetainHandling::SendIfNew);
    }
}

#[test]
fn refused_subscriptions_are_told_and_fail_when_all_are() {
    let broker = Broker::start(|mut client| {
        grant(&mut client, &[ReasonCode::NotAuthorized, ReasonCode::Success]);
        client.rest()
    });
    let (code, _, stderr) = outcome(&mut broker.petrelctl("sub -t a -t b -E"));
    let refusal =
        "petrelctl: the broker refuses the subscription to \"a\": not authorized (0x87)\n";
    assert_eq!((code, stderr.as_str()), (0, refusal));
    broker.finish();

    let broker = Broker::start(|mut client| {
        grant(&mut client, &[ReasonCode::NotAuthorized]);
        client.rest()
    });
    let (code, _, stderr) = outcome(&mut broker.petrelctl("sub -t a"));
    assert_eq!(code, 1);
    assert_eq!(stderr, format!("{refusal}petrelctl: all subscriptions were refused\n"));
    assert!(matches!(broker.finish()[..], [Packet::Disconnect(_)]));
}

#[test]
fn unsubscribing_alone_ends_with_its_answer() {
    let broker = Broker::start(|mut client| {
        client.accept();
        let Packet::Unsubscribe(it) = client.expect() else { panic!("not UNSUBSCRIBE") };
        client.send(&Packet::UnsubAck(Box::new(petrel_proto::SubAck {
            packet_id: it.packet_id,
            reasons: [ReasonCode::Success].into_iter().collect(),
            properties: Default::default(),
        })));
        client.rest()
    });
    assert_eq!(outcome(&mut broker.petrelctl("sub -U a/b -i me -c")).0, 0);
    assert!(matches!(broker.finish()[..], [Packet::Disconnect(_)]));
}

#[test]
fn time_is_up_with_its_own_exit_code_and_a_clean_end() {
    let broker = Broker::start(|mut client| {
        grant(&mut client, &[ReasonCode::Success]);
        client.publish(0, Qos::AtMostOnce, "a", "x");
        client.rest()
    });
    let (code, stdout, stderr) = outcome(&mut broker.petrelctl("sub -t a -W 0.3"));
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (27, "x\n", "petrelctl: timed out\n"));
    assert!(matches!(broker.finish()[..], [Packet::Disconnect(_)]));
}

#[test]
fn an_interrupt_ends_the_session_cleanly() {
    let broker = Broker::start(|mut client| {
        grant(&mut client, &[ReasonCode::Success]);
        client.publish(0, Qos::AtMostOnce, "a", "x");
        client.rest()
    });
    let mut child = spawn(&mut broker.petrelctl("sub -t a"));
    let mut line = [0; 2];
    child.stdout.as_mut().expect("a pipe").read_exact(&mut line).expect("a message");
    let pid = Pid::from_raw(child.id().try_into().expect("a process id")).expect("not zero");
    kill_process(pid, Signal::INT).expect("it runs");
    assert_eq!(code(child.wait().expect("it ends")), 0);
    let packets = broker.finish();
    let [Packet::Disconnect(disconnect)] = &packets[..] else { panic!("{packets:?}") };
    assert_eq!(**disconnect, Disconnect::new(ReasonCode::Success));
}

#[test]
fn a_reader_that_goes_away_ends_the_session_cleanly() {
    let broker = Broker::start(|mut client| {
        grant(&mut client, &[ReasonCode::Success]);
        client.publish(0, Qos::AtMostOnce, "a", "x");
        client.rest()
    });
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = broker.petrelctl("sub -t a");
    let status = command.stdout(writer).status().expect("petrelctl starts");
    assert_eq!(code(status), 0);
    assert!(matches!(broker.finish()[..], [Packet::Disconnect(_)]));
}

/// [MQTT5-3.1.2-20]
#[test]
fn a_silent_client_pings() {
    let broker = Broker::start(|mut client| {
        grant(&mut client, &[ReasonCode::Success]);
        assert_eq!(client.expect(), Packet::PingReq);
        client.send(&Packet::PingResp);
        client.publish(0, Qos::AtMostOnce, "a", "x");
        client.rest()
    });
    let (code, stdout, _) = outcome(&mut broker.petrelctl("sub -t a -k 1 -C 1"));
    assert_eq!((code, stdout.as_str()), (0, "x\n"));
    assert!(matches!(broker.finish()[..], [Packet::Disconnect(_)]));
}

#[test]
fn a_broker_that_answers_no_ping_is_given_up() {
    let broker = Broker::start(|mut client| {
        grant(&mut client, &[ReasonCode::Success]);
        client.rest()
    });
    let place = broker.address;
    let (code, _, stderr) = outcome(&mut broker.petrelctl("sub -t a -k 1"));
    assert_eq!((code, stderr), (1, format!("petrelctl: {place} did not answer within 1 s\n")));
    assert_eq!(broker.finish(), [Packet::PingReq]);
}

#[test]
fn a_disconnect_of_the_broker_is_told_in_words() {
    let broker = Broker::start(|mut client| {
        grant(&mut client, &[ReasonCode::Success]);
        client.publish(0, Qos::AtMostOnce, "a", "x");
        let why = Disconnect::new(ReasonCode::ServerShuttingDown);
        client.send(&Packet::Disconnect(Box::new(why)));
        client.rest()
    });
    let place = broker.address;
    let (code, stdout, stderr) = outcome(&mut broker.petrelctl("sub -t a"));
    assert_eq!((code, stdout.as_str()), (1, "x\n"));
    let sentence = "disconnects: the broker is shutting down (0x8b)";
    assert_eq!(stderr, format!("petrelctl: {place} {sentence}\n"));
    assert_eq!(broker.finish(), [], "nothing is sent after it");
}

/// [MQTT5-3.3.2-12]
#[test]
fn topic_aliases_of_the_broker_are_resolved() {
    let broker = Broker::start(|mut client| {
        grant(&mut client, &[ReasonCode::Success]);
        let mut aliased = message(0, Qos::AtMostOnce, "long/topic", "1");
        aliased.properties = PublishProperties { topic_alias: Some(2), ..Default::default() };
        client.send(&Packet::Publish(aliased.clone()));
        aliased.topic = TopicName::EMPTY;
        client.send(&Packet::Publish(aliased));
        client.rest()
    });
    let line = "sub -t # -D connect topic-alias-maximum 5 -C 2 -F %t=%A";
    assert_eq!(outcome(&mut broker.petrelctl(line)).1, "long/topic=2\nlong/topic=2\n");
    broker.finish();
}

#[test]
fn retained_messages_are_shown_hidden_or_cleared_as_asked() {
    fn send(mut client: Client) -> (RetainHandling, Vec<Packet>) {
        let subscribe = grant(&mut client, &[ReasonCode::Success]);
        for (topic, retain) in [("keep/1", true), ("skip/2", true), ("keep/3", false)] {
            let mut message = message(0, Qos::AtMostOnce, topic, topic);
            message.retain = retain;
            client.send(&Packet::Publish(message));
        }
        (subscribe.filters[0].options.retain_handling, client.rest())
    }
    let broker = Broker::start(send);
    assert_eq!(outcome(&mut broker.petrelctl("sub -t # -R -C 1")).1, "keep/3\n");
    assert_eq!(broker.finish().0, RetainHandling::DoNotSend);

    let broker = Broker::start(send);
    let line = "sub -t # --retained-only --remove-retained -T skip/#";
    assert_eq!(outcome(&mut broker.petrelctl(line)).1, "keep/1\n");
    let (handling, packets) = broker.finish();
    assert_eq!(handling, RetainHandling::Send);
    let mut cleared = message(0, Qos::AtMostOnce, "keep/1", "");
    cleared.retain = true;
    assert!(matches!(&packets[..], [Packet::Publish(it), Packet::Disconnect(_)] if *it == cleared));
}
