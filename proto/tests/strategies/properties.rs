//! Strategies for the property blocks.

use petrel_proto::*;
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

use super::{binary, text};

pub fn user_properties() -> impl Strategy<Value = UserProperties> {
    let pairs = prop_oneof![2 => Just(0..1), 1 => Just(0..4)];
    pairs.prop_flat_map(|pairs| vec((text(5), text(5)), pairs)).prop_map(|pairs| {
        UserProperties::from_pairs(pairs.iter().map(|(name, value)| (name, value)))
    })
}

pub fn reason_properties() -> impl Strategy<Value = ReasonProperties> {
    (of(text(10)), user_properties()).prop_map(|(reason_string, user_properties)| {
        ReasonProperties { reason_string, user_properties }
    })
}

pub fn publish_properties() -> impl Strategy<Value = PublishProperties> {
    let format = of(prop_oneof![Just(PayloadFormat::Bytes), Just(PayloadFormat::Utf8)]);
    let response_topic = of(text(8).prop_map(|topic| {
        let name = format!("r{}", topic.as_str().replace(['+', '#'], "_"));
        Text::try_from(name.as_str()).unwrap()
    }));
    let identifiers = vec(1..=varint::MAX, 0..3);
    let numbers = (format, of(any::<u32>()), of(any::<u16>()), identifiers);
    (numbers, response_topic, of(binary(10)), user_properties(), of(text(8))).prop_map(
        |(numbers, response_topic, correlation_data, user_properties, content_type)| {
            let (payload_format, message_expiry_interval_s, topic_alias, identifiers) = numbers;
            let fields = MessageFields {
                payload_format,
                content_type,
                response_topic,
                correlation_data,
                user_properties,
            };
            let message = MessageProperties::of(&fields).unwrap();
            assert_eq!(message.fields(), fields);
            PublishProperties {
                message_expiry_interval_s,
                topic_alias,
                subscription_identifiers: identifiers.into(),
                message,
            }
        },
    )
}

pub fn connect_properties() -> impl Strategy<Value = ConnectProperties> {
    let limits = (of(any::<u32>()), of(1..=u16::MAX), of(1..=u32::MAX), of(any::<u16>()));
    let requests = (of(any::<bool>()), of(any::<bool>()));
    (limits, requests, user_properties(), of(text(10)), of(binary(10))).prop_map(
        |(limits, requests, user_properties, authentication_method, data)| ConnectProperties {
            session_expiry_interval_s: limits.0,
            receive_maximum: limits.1,
            maximum_packet_size: limits.2,
            topic_alias_maximum: limits.3,
            request_response_information: requests.0,
            request_problem_information: requests.1,
            user_properties,
            authentication_data: data.filter(|_| authentication_method.is_some()),
            authentication_method,
        },
    )
}

pub fn connack_properties() -> impl Strategy<Value = ConnAckProperties> {
    let limits = (of(any::<u32>()), of(1..=u16::MAX), of(1..=u32::MAX), of(any::<u16>()));
    let more_limits =
        (of(prop_oneof![Just(Qos::AtMostOnce), Just(Qos::AtLeastOnce)]), of(any::<u16>()));
    let available = (of(any::<bool>()), of(any::<bool>()), of(any::<bool>()), of(any::<bool>()));
    let texts = (of(text(9)), of(text(9)), of(text(9)), of(text(9)));
    let authentication = (of(text(9)), of(binary(9)));
    (limits, more_limits, available, texts, user_properties(), authentication).prop_map(
        |(limits, more_limits, available, texts, user_properties, (method, data))| {
            ConnAckProperties {
                session_expiry_interval_s: limits.0,
                receive_maximum: limits.1,
                maximum_qos: more_limits.0,
                retain_available: available.0,
                maximum_packet_size: limits.2,
                assigned_client_id: texts.0,
                topic_alias_maximum: limits.3,
                reason_string: texts.1,
                user_properties,
                wildcard_subscription_available: available.1,
                subscription_identifiers_available: available.2,
                shared_subscription_available: available.3,
                server_keep_alive_s: more_limits.1,
                response_information: texts.2,
                server_reference: texts.3,
                authentication_data: data.filter(|_| method.is_some()),
                authentication_method: method,
            }
        },
    )
}
