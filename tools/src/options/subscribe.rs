//! The command line of `petrelctl sub`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use petrel_proto::{Qos, RetainHandling, SubscriptionOptions, TopicFilter};

use super::common::{Common, CommonArguments};
use super::properties::PacketKind;
use super::{qos, seconds, topic_filter};
use crate::failure::Failure;
use crate::format::Format;

/// Subscribe and print what arrives.
#[derive(Debug, Clone, clap::Args)]
#[command(
    disable_help_flag = true,
    override_usage = "petrelctl sub [-h HOST] [-p PORT] -t FILTER... [OPTIONS]",
    next_help_heading = "What is subscribed to",
    after_help = format!("When the connection is lost it ends with exit code 1; it does not connect again.\n\n{}",
                         super::common::EXIT_CODES)
)]
pub struct SubscribeArguments {
    /// May be repeated; $share/NAME/FILTER shares the messages of a group.
    #[arg(short, long = "topic", value_name = "FILTER", value_parser = topic_filter,
          allow_hyphen_values = true)]
    topics: Vec<TopicFilter>,
    /// 0 (default), 1 or 2.
    #[arg(short, long, value_parser = qos, default_value = "0", hide_default_value = true)]
    qos: Qos,
    /// End a subscription of a kept session; may be repeated.
    #[arg(short = 'U', long, value_name = "FILTER", value_parser = topic_filter,
          allow_hyphen_values = true)]
    unsubscribe: Vec<TopicFilter>,
    /// No messages that were retained before.
    #[arg(short = 'R', conflicts_with = "retained_only")]
    hide_retained: bool,
    /// Retained messages always (0), for a new subscription (1), never (2).
    #[arg(long, value_name = "0|1|2", value_parser = clap::value_parser!(u8).range(0..=2))]
    retain_handling: Option<u8>,
    /// Keep the retain flag as the publisher set it.
    #[arg(long)]
    retain_as_published: bool,
    /// Not what this client published itself.
    #[arg(long)]
    no_local: bool,
    #[command(flatten)]
    print: PrintArguments,
    #[command(flatten)]
    common: CommonArguments,
}

#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "What is printed")]
struct PrintArguments {
    /// The topic before each message.
    #[arg(short, long)]
    verbose: bool,
    /// %t topic, %p payload, %x payload in hexadecimal, %q QoS, %r retained, %l length, %m packet identifier, %I time,
    /// %U seconds since 1970, %j JSON, %J JSON with the payload as JSON, @X as in date +%X; of MQTT 5: %A topic alias,
    /// %C content type, %D correlation data, %E expiry, %F payload format, %P user properties, %R response topic, %S
    /// subscription identifiers; %10t and %-10t pad, \n \t \0 are escapes.
    #[arg(short = 'F', long, allow_hyphen_values = true)]
    format: Option<OsString>,
    /// No end of line after a message.
    #[arg(short = 'N')]
    no_newline: bool,
    /// JSON on several lines.
    #[arg(long)]
    pretty: bool,
    /// Nothing from these topics; may be repeated.
    #[arg(short = 'T', long, value_name = "FILTER", value_parser = topic_filter,
          allow_hyphen_values = true)]
    filter_out: Vec<TopicFilter>,
    /// Only retained messages, and end with the first other one.
    #[arg(long)]
    retained_only: bool,
    /// Clear each retained message that arrives.
    #[arg(long)]
    remove_retained: bool,
    /// End after so many messages.
    #[arg(short = 'C', long, value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after this time, with exit code 27.
    #[arg(short = 'W', value_name = "SECONDS", value_parser = seconds)]
    time_limit: Option<Duration>,
    /// End once the broker has acknowledged the subscriptions.
    #[arg(short = 'E')]
    only_subscribe: bool,
}

/// What `petrelctl sub` is asked to do.
#[derive(Debug, Clone)]
pub struct SubscribeOptions {
    /// Where the broker is and who we are.
    pub common: Common,
    /// What to subscribe to.
    pub filters: Vec<TopicFilter>,
    /// What to unsubscribe from.
    pub unsubscribe: Vec<TopicFilter>,
    /// How to subscribe.
    pub subscription: SubscriptionOptions,
    /// How a message is printed.
    pub format: Format,
    /// What is not printed.
    pub filter_out: Vec<TopicFilter>,
    /// Which messages are printed, as far as retained ones go.
    pub retained: Retained,
    /// Clear what is retained.
    pub remove_retained: bool,
    /// End after so many messages.
    pub count: Option<u64>,
    /// End once the subscriptions are acknowledged.
    pub only_subscribe: bool,
}

/// Which messages are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retained {
    /// All.
    Shown,
    /// Those without the retain flag.
    Hidden,
    /// Those with it, up to the first without.
    Only,
}

impl SubscribeArguments {
    /// Checks the whole.
    ///
    /// # Errors
    /// What is wrong, in one sentence.
    pub fn options(self) -> Result<SubscribeOptions, Failure> {
        let subscription = self.subscription();
        let v5_option = [
            (self.retain_handling.is_some(), "--retain-handling"),
            (self.retain_as_published, "--retain-as-published"),
            (self.no_local, "--no-local"),
        ];
        let retained = match (self.hide_retained, self.print.retained_only) {
            (true, _) => Retained::Hidden,
            (false, true) => Retained::Only,
            (false, false) => Retained::Shown,
        };
        let mut filters = self.topics;
        if let (true, Some(from_url)) = (filters.is_empty(), self.common.broker.url_topic()) {
            let filter = topic_filter(from_url);
            filters
                .push(filter.map_err(|what| Failure::usage(format!("the topic of -L: {what}")))?);
        }
        if filters.is_empty() && self.unsubscribe.is_empty() {
            return Err(Failure::usage("sub needs a topic filter (-t)"));
        }
        let packets = [PacketKind::Subscribe, PacketKind::Unsubscribe];
        let mut common = self.common.finish(&packets)?;
        common.time_limit = self.print.time_limit;
        if let (Some((_, option)), false) =
            (v5_option.into_iter().find(|&(is_given, _)| is_given), common.version.is_v5())
        {
            let what = format!("{option} needs MQTT 5; leave -V out or write -V 5");
            return Err(Failure::usage(what));
        }
        if subscription.no_local && filters.iter().any(TopicFilter::is_shared) {
            return Err(Failure::usage(
                "--no-local does not go with a shared subscription [MQTT5-3.8.3-4]",
            ));
        }
        Ok(SubscribeOptions {
            common,
            filters,
            unsubscribe: self.unsubscribe,
            subscription,
            format: self.print.format()?,
            filter_out: self.print.filter_out,
            retained,
            remove_retained: self.print.remove_retained,
            count: self.print.count,
            only_subscribe: self.print.only_subscribe,
        })
    }

    fn subscription(&self) -> SubscriptionOptions {
        SubscriptionOptions {
            qos: self.qos,
            no_local: self.no_local,
            retain_as_published: self.retain_as_published,
            retain_handling: match self.retain_handling {
                None | Some(0) => RetainHandling::Send,
                Some(1) => RetainHandling::SendIfNew,
                Some(_) => RetainHandling::DoNotSend,
            },
        }
    }
}

impl PrintArguments {
    fn format(&self) -> Result<Format, Failure> {
        match &self.format {
            Some(format) => Format::parse(format.as_bytes(), !self.no_newline, self.pretty)
                .map_err(|what| Failure::usage(format!("-F: {what}"))),
            None => Ok(Format::plain(self.verbose, !self.no_newline)),
        }
    }
}
