//! Files of rules.
//!
//! ```toml
//! [[rule]]
//! allow = "publish"                 # or "subscribe", "both"
//! topics = ["plant/%u/#"]           # %u the user name, %c the client identifier, %% a percent sign
//! groups = ["sensors"]              # whom it is about; whoever comes if nothing is said
//! max_qos = 1
//! retain = false
//!
//! [[rule]]
//! deny = "both"
//! topics = ["plant/+/secret/#"]
//! ```

use petrel_proto::{Qos, Text};
use petrel_shard::access::{AddressRange, Effect, Rule, Rules, Subjects};
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

/// One problem of a file, at its place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Offset in the text.
    pub offset: usize,
    /// A sentence without its full stop.
    pub text: String,
}

const KEYS: [&str; 11] = [
    "allow",
    "deny",
    "topics",
    "users",
    "groups",
    "client_ids",
    "listeners",
    "addresses",
    "authenticated",
    "max_qos",
    "retain",
];

/// Reads a file's text. Listeners are named as in `listeners`, in the order of the configuration.
///
/// # Errors
/// Every problem that can be found at once.
pub fn parse(text: &str, listeners: &[String]) -> Result<Rules, Vec<Problem>> {
    let mut reader = Reader { listeners, problems: Vec::new() };
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let offset = error.span().map_or(0, |span| span.start);
        reader.wrong(offset, format!("this is no TOML: {}", error.message()));
    }
    if !reader.problems.is_empty() {
        return Err(reader.problems);
    }
    let mut rules = Rules::default();
    for (name, value) in document.get_ref() {
        let at = name.span().start;
        match (name.get_ref().as_ref(), value.get_ref()) {
            ("rule", DeValue::Array(array)) => reader.rules(array, &mut rules),
            ("rule", _) => reader.wrong(at, "a rule is written with two brackets, [[rule]]"),
            (other, _) => {
                reader
                    .wrong(at, format!("there is no `{other}` in a file of rules, only [[rule]]"));
            }
        }
    }
    if rules.is_empty() && reader.problems.is_empty() {
        // Half of a file, more likely than the wish that nobody may do anything.
        reader.wrong(0, "there is no [[rule]] in it, so nobody could do anything");
    }
    reader.problems.sort();
    if reader.problems.is_empty() { Ok(rules) } else { Err(reader.problems) }
}

struct Reader<'a> {
    listeners: &'a [String],
    problems: Vec<Problem>,
}

/// A rule as far as it has been read.
#[derive(Default)]
struct Raw {
    /// `allow` or `deny`, and what.
    says: Option<(bool, &'static str)>,
    subjects: Subjects,
    filters: Vec<Text>,
    has_topics: bool,
    max_qos: Option<(usize, Qos)>,
    retain: Option<(usize, bool)>,
}

impl Reader<'_> {
    fn wrong(&mut self, offset: usize, text: impl Into<String>) {
        self.problems.push(Problem { offset, text: text.into() });
    }

    fn rules(&mut self, array: &DeArray<'_>, rules: &mut Rules) {
        for element in array.iter() {
            let at = element.span().start;
            let DeValue::Table(table) = element.get_ref() else {
                self.wrong(at, "a rule is a section, written [[rule]]");
                continue;
            };
            let found = self.problems.len();
            let rule = self.rule(table, at);
            if self.problems.len() > found {
                continue;
            }
            if let Some(rule) = rule
                && let Err(why) = rules.add(rule)
            {
                self.wrong(at, why);
            }
        }
    }

    fn rule(&mut self, table: &DeTable<'_>, at: usize) -> Option<Rule> {
        let mut raw = Raw::default();
        for (name, value) in table {
            let (name_at, name) = (name.span().start, name.get_ref().as_ref());
            self.key(&mut raw, name, name_at, value);
        }
        let Raw { says, subjects, filters, has_topics, max_qos, retain } = raw;
        if !has_topics {
            self.wrong(at, "this [[rule]] has no `topics`");
        }
        let Some((allows, what)) = says else {
            self.wrong(at, "this [[rule]] says neither `allow` nor `deny`");
            return None;
        };
        if !allows {
            for (at, name) in
                [(max_qos.map(|it| it.0), "max_qos"), (retain.map(|it| it.0), "retain")]
            {
                if let Some(at) = at {
                    let text = format!("`{name}` has no use in a rule that denies: it denies all");
                    self.wrong(at, text);
                }
            }
        }
        let effect = match allows {
            true => Effect::Allow {
                max_qos: max_qos.map_or(Qos::ExactlyOnce, |(_, qos)| qos),
                retain: retain.is_none_or(|(_, retain)| retain),
            },
            false => Effect::Deny,
        };
        let (publish, subscribe) = (what != "subscribe", what != "publish");
        Some(Rule { subjects, effect, publish, subscribe, filters })
    }

    fn key(&mut self, raw: &mut Raw, name: &str, name_at: usize, value: &Spanned<DeValue<'_>>) {
        let at = value.span().start;
        match name {
            "allow" | "deny" => {
                let words = ["publish", "subscribe", "both"];
                let what = words.into_iter().find(|word| value.get_ref().as_str() == Some(word));
                if raw.says.is_some() {
                    self.wrong(name_at, "a rule says either `allow` or `deny`, and that once");
                }
                match what {
                    Some(what) => raw.says = Some((name == "allow", what)),
                    None => self.wrong(
                        at,
                        format!("`{name}` must be \"publish\", \"subscribe\" or \"both\""),
                    ),
                }
            }
            "topics" => {
                raw.filters = self.texts(name, value);
                raw.has_topics = true;
            }
            "users" => raw.subjects.users = self.texts(name, value),
            "groups" => raw.subjects.groups = self.texts(name, value),
            "client_ids" => raw.subjects.client_ids = self.texts(name, value),
            "listeners" => {
                for text in self.texts(name, value) {
                    let position = self.listeners.iter().position(|name| name == text.as_str());
                    match position.and_then(|position| u16::try_from(position).ok()) {
                        Some(position) => raw.subjects.listeners.push(position),
                        None => self.wrong(
                            at,
                            format!(
                                "there is no listener {:?}; there are {}",
                                text.as_str(),
                                self.listeners.join(", ")
                            ),
                        ),
                    }
                }
            }
            "addresses" => {
                for text in self.texts(name, value) {
                    match text.as_str().parse::<AddressRange>() {
                        Ok(range) => raw.subjects.addresses.push(range),
                        Err(why) => self.wrong(at, format!("{:?} {why}", text.as_str())),
                    }
                }
            }
            "authenticated" => match value.get_ref().as_bool() {
                Some(proved) => raw.subjects.authenticated = Some(proved),
                None => self.wrong(at, "`authenticated` must be true or false"),
            },
            "max_qos" => {
                let number = value.get_ref().as_integer().and_then(|it| it.as_str().parse().ok());
                match number.and_then(Qos::from_u8) {
                    Some(qos) => raw.max_qos = Some((at, qos)),
                    None => self.wrong(at, "`max_qos` must be 0, 1 or 2"),
                }
            }
            "retain" => match value.get_ref().as_bool() {
                Some(retain) => raw.retain = Some((at, retain)),
                None => self.wrong(at, "`retain` must be true or false"),
            },
            other => {
                let known = KEYS.map(|key| format!("`{key}`")).join(", ");
                self.wrong(name_at, format!("a rule has no `{other}`; it has {known}"));
            }
        }
    }

    /// A list of texts that is not empty: one that is would name nobody, and be taken for everybody.
    fn texts(&mut self, name: &str, value: &Spanned<DeValue<'_>>) -> Vec<Text> {
        let at = value.span().start;
        let wanted = format!("`{name}` must be a list of texts, as in {name} = [\"a\", \"b\"]");
        let DeValue::Array(array) = value.get_ref() else {
            self.wrong(at, wanted);
            return Vec::new();
        };
        if array.is_empty() {
            self.wrong(at, format!("`{name}` is empty; leave it out if it is not to count"));
        }
        let mut texts = Vec::new();
        for element in array.iter() {
            match element.get_ref().as_str().map(Text::try_from) {
                Some(Ok(text)) if !text.is_empty() => texts.push(text),
                Some(_) => self.wrong(
                    element.span().start,
                    format!("a text of `{name}` is empty, too long or holds a zero"),
                ),
                None => self.wrong(element.span().start, wanted.clone()),
            }
        }
        texts
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use petrel_shard::access::{Publishable, Who};

    use super::*;

    fn listeners() -> Vec<String> {
        vec!["inside".to_owned(), "outside".to_owned()]
    }

    fn wrong(text: &str) -> String {
        let problems = parse(text, &listeners()).expect_err("it is wrong");
        problems.into_iter().map(|it| format!("{}: {}\n", it.offset, it.text)).collect()
    }

    #[test]
    fn a_file_says_who_may_do_what() {
        let text = r##"
            [[rule]]
            allow = "publish"
            topics = ["plant/%u/#"]
            groups = ["sensors"]
            client_ids = ["s-*"]
            listeners = ["outside"]
            addresses = ["10.0.0.0/8", "::1"]
            authenticated = true
            max_qos = 1
            retain = false

            [[rule]]
            allow = "subscribe"
            topics = ["#"]

            [[rule]]
            deny = "both"
            users = ["mallory"]
            topics = ["#"]
        "##;
        let rules = parse(text, &listeners()).unwrap();
        assert_eq!(rules.len(), 3);
        let groups = [Text::try_from("sensors").unwrap()];
        let alice = Who {
            user: Some("alice"),
            groups: &groups,
            client_id: "s-1",
            listener: 1,
            address: Ipv4Addr::new(10, 1, 1, 1).into(),
        };
        let may = rules.publishable(&alice, None, "plant/alice/t");
        assert!(may.allows(Qos::AtLeastOnce, false) && !may.allows(Qos::AtLeastOnce, true));
        assert!(!may.allows(Qos::ExactlyOnce, false));
        for other in [
            Who { listener: 0, ..alice },
            Who { groups: &[], ..alice },
            Who { client_id: "x", ..alice },
            Who { address: Ipv4Addr::LOCALHOST.into(), ..alice },
        ] {
            let may = rules.publishable(&other, None, "plant/alice/t");
            assert_eq!(may, Publishable::NOTHING);
        }
        assert!(rules.subscribable(&alice, None, "x").is_some());
        let mallory = Who { user: Some("mallory"), ..alice };
        assert!(rules.subscribable(&mallory, None, "x").is_none());
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (text, why) in [
            ("[[rule]]\ntopics = [\"a\"]", "0: this [[rule]] says neither"),
            ("[[rule]]\nallow = \"both\"", "0: this [[rule]] has no `topics`"),
            ("[[rule]]\nallow = \"all\"\ntopics = [\"a\"]", "17: `allow` must be \"publish\""),
            ("[[rule]]\nallow = \"both\"\ndeny = \"both\"\ntopics = [\"a\"]", "either `allow` or"),
            ("[[rule]]\nallow = \"both\"\ntopics = []", "`topics` is empty"),
            ("[[rule]]\nallow = \"both\"\ntopics = [\"a\"]\nusers = []", "`users` is empty"),
            ("[[rule]]\nallow = \"both\"\ntopics = \"a\"", "must be a list of texts"),
            ("[[rule]]\nallow = \"both\"\ntopics = [\"a\", 1]", "must be a list of texts"),
            ("[[rule]]\nallow = \"both\"\ntopics = [\"a/#/b\"]", "not its last level"),
            ("[[rule]]\nallow = \"both\"\ntopics = [\"a\"]\nuser = [\"x\"]", "has no `user`"),
            ("[[rule]]\nallow = \"both\"\ntopics = [\"a\"]\nmax_qos = 3", "0, 1 or 2"),
            (
                "[[rule]]\ndeny = \"both\"\ntopics = [\"a\"]\nmax_qos = 1",
                "no use in a rule that denies",
            ),
            (
                "[[rule]]\nallow = \"both\"\ntopics = [\"a\"]\nlisteners = [\"x\"]",
                "there are inside, outside",
            ),
            ("[[rule]]\nallow = \"both\"\ntopics = [\"a\"]\naddresses = [\"x\"]", "is no address"),
            ("[rule]\nallow = \"both\"", "two brackets"),
            ("rules = 1", "only [[rule]]"),
            ("[[rule", "no TOML"),
            ("", "there is no [[rule]]"),
        ] {
            let said = wrong(text);
            assert!(said.contains(why), "{text}\n{said}");
        }
    }
}
