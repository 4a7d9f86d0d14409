//! Messages in, lines out.

use bytes::Bytes;
use petrel_proto::{
    MessageFields, MessageProperties, PacketId, PayloadFormat, Qos, Text, TopicName, UserProperties,
};

use super::*;

fn text(text: &str) -> Text {
    Text::try_from(text).expect("good text")
}

fn message(topic: &str, payload: &'static [u8]) -> Publish {
    Publish {
        dup: false,
        qos: Qos::AtLeastOnce,
        retain: true,
        topic: TopicName::new(text(topic)).expect("a good topic"),
        packet_id: PacketId::new(7),
        properties: PublishProperties::default(),
        payload: Bytes::from_static(payload),
    }
}

fn with_properties() -> Publish {
    let mut message = message("t/a", b"21");
    message.properties = PublishProperties {
        message_expiry_interval_s: Some(60),
        topic_alias: None,
        subscription_identifiers: [7, 9].into_iter().collect(),
        message: MessageProperties::of(&MessageFields {
            payload_format: Some(PayloadFormat::Utf8),
            content_type: Some(text("text/x")),
            response_topic: Some(text("r/x")),
            correlation_data: Some(Bytes::from_static(b"c\xff")),
            user_properties: UserProperties::from_pairs([
                (&text("a"), &text("b")),
                (&text("c"), &text("d")),
            ]),
        })
        .expect("short fields"),
    };
    message
}

fn noon() -> Zoned {
    "2026-11-21T12:00:01.123456789+01:00[+01:00]".parse().expect("a time")
}

#[track_caller]
fn prints(format: &str, message: &Publish, expected: &str) {
    let mut out = Vec::new();
    let format = Format::parse(format.as_bytes(), false, false).expect("a good format");
    format.render(message, &noon(), &mut out).expect("rendered");
    assert_eq!(String::from_utf8_lossy(&out), expected);
}

#[test]
fn every_field_has_its_letter() {
    let it = with_properties();
    prints("%t %p %q %r %l %m", &it, "t/a 21 1 1 2 7");
    prints("%A|%C|%E|%F|%P|%R|%S", &it, "|text/x|60|1|a:b c:d|r/x|7 9");
    prints("%I %U", &it, "2026-11-21T12:00:01+0100 1795258801.123456789");
    prints("%x %X", &message("t", b"\xab1"), "ab31 AB31");
    prints("@Y-@m-@d @@ %%", &it, "2026-11-21 @ %");
    prints("\\t\\\\n\\0", &it, "\t\\n\0");
}

#[test]
fn fields_are_padded_and_cut() {
    let it = message("t/é", b"12345");
    prints("%6t|%-6t|%05q|%.2p|%7.3p|", &it, "   t/é|t/é   |00001|12|    123|");
}

#[test]
fn json_has_everything() {
    prints(
        "%j",
        &with_properties(),
        "{\"tst\":\"2026-11-21T12:00:01.123456+0100\",\"topic\":\"t/a\",\"qos\":1,\"retain\":1,\
         \"payloadlen\":2,\"mid\":7,\"properties\":{\"subscription-identifier\":[7,9],\
         \"user-properties\":{\"a\":\"b\",\"c\":\"d\"},\"content-type\":\"text/x\",\
         \"correlation-data\":\"c\u{fffd}\",\"payload-format-indicator\":1,\
         \"response-topic\":\"r/x\",\"message-expiry-interval\":60},\"payload\":\"21\"}",
    );
}

#[test]
fn a_payload_that_is_json_can_stay_json() {
    let head = "{\"tst\":\"2026-11-21T12:00:01.123456+0100\",\"topic\":\"t\",\"qos\":1,\
                \"retain\":1,\"payloadlen\":";
    prints(
        "%J",
        &message("t", b"{ \"a\": 1.50 }"),
        &format!("{head}13,\"mid\":7,\"payload\":{{\"a\":1.50}}}}"),
    );
    prints("%J", &message("t", b""), &format!("{head}0,\"mid\":7,\"payload\":null}}"));
    let mut out = b"before".to_vec();
    let format = Format::parse(b"%t %J", true, false).expect("a good format");
    assert_eq!(format.render(&message("t", b"abc"), &noon(), &mut out), Err(NotJson));
    assert_eq!(out, b"before");
}

#[test]
fn without_a_format_the_payload_is_printed() {
    let render = |verbose, payload| {
        let mut out = Vec::new();
        let plain = Format::plain(verbose, true);
        plain.render(&message("t", payload), &noon(), &mut out).expect("rendered");
        out
    };
    assert_eq!(render(false, b"\xff\0"), b"\xff\0\n");
    assert_eq!(render(true, b"x"), b"t x\n");
    assert_eq!(render(true, b""), b"t (null)\n");
}

#[test]
fn wrong_formats_are_refused_in_words() {
    let wrong = |format: &[u8]| Format::parse(format, true, false).expect_err("wrong");
    assert_eq!(wrong(b"%z"), "there is no %z; --help lists what there is");
    assert_eq!(wrong(b"%"), "a letter follows the percent sign");
    assert_eq!(wrong(b"%99999t"), "a width is at most 10000");
    assert_eq!(wrong(b"%.t"), "a number follows the point");
    assert_eq!(wrong(b"@!"), "there is no @!");
    assert_eq!(wrong(b"\\q"), "there is no \\q");
}
