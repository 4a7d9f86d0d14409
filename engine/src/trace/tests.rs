//! The bounds of recordings, with time that the tests make.

use std::sync::mpsc;

use petrel_proto::{ReasonCode, Text, TopicFilter};
use petrel_shard::{ConnId, Watchers};

use super::entry::{Field, Value};
use super::recording::{LATE_US, READ_BYTES_MAX, SETTLES_US};
use super::*;

fn text(text: &str) -> Text {
    Text::try_from(text).unwrap()
}

fn client(id: &str) -> Subject {
    Subject::ClientId(text(id))
}

fn spec(bytes: u64, when_full: WhenFull) -> Spec {
    Spec { bytes, when_full, seconds: 10, ..Spec::new("test".into(), client("a")) }
}

fn entry(at_us: u64, shard: u16, event: &'static str, fields: Vec<Field>) -> Arc<Entry> {
    let (to, conn) = (Watchers(1), Some(ConnId { index: 3, generation: 1 }));
    let client_id = Some("a".to_owned());
    let (whence, topic) = (None, Some("t".to_owned()));
    Arc::new(Entry { at_us, shard, to, conn, whence, client_id, topic, event, fields })
}

fn plain(at_us: u64) -> Arc<Entry> {
    entry(at_us, 0, "delivered", Vec::new())
}

#[test]
fn a_recording_ends_when_its_time_is_over_and_takes_what_comes_late() {
    let mut recording = Recording::new(1, spec(BYTES_MIN, WhenFull::Stop), 0, 5, 1_000);
    let end = 1_000 + 10_000_000;
    recording.take(5, &plain(999));
    recording.take(4, &plain(2_000));
    assert_eq!(recording.about(0).bytes, 0, "neither before it nor of a watch before it");
    recording.take(5, &plain(2_000));
    recording.settle(end - 1);
    assert!(recording.is_running());
    recording.settle(end);
    assert_eq!(recording.state, State::TimeOver);
    recording.take(6, &plain(end - 1));
    recording.take(6, &plain(end));
    recording.settle(end + SETTLES_US);
    assert_eq!((recording.read(0, 10).0.len(), recording.read(0, 10).1), (2, 2));
    assert!(!recording.is_settled(end + SETTLES_US));
    assert!(recording.is_settled(end + LATE_US));
}

#[test]
fn a_recording_holds_no_more_bytes_than_it_may() {
    let each = plain(0).cost_bytes();
    let fits = BYTES_MIN / each;
    let mut stops = Recording::new(1, spec(BYTES_MIN, WhenFull::Stop), 0, 1, 0);
    let mut drops = Recording::new(2, spec(BYTES_MIN, WhenFull::DropOldest), 0, 1, 0);
    for at_us in 0..fits + 5 {
        stops.take(1, &plain(at_us));
        drops.take(1, &plain(at_us));
    }
    [&mut stops, &mut drops].into_iter().for_each(|it| it.settle(SETTLES_US + 1_000));
    assert_eq!(stops.state, State::Full);
    let about = stops.about(0);
    assert_eq!((about.first, about.next, about.bytes), (0, fits, fits * each));
    assert!(drops.is_running());
    let about = drops.about(0);
    assert_eq!((about.first, about.next, about.bytes), (5, fits + 5, fits * each));
    assert_eq!(about.dropped, 5);
    let (entries, next) = drops.read(0, 2);
    assert_eq!((entries[0].at_us, entries.len(), next), (5, 2, 7));
    assert_eq!(drops.read(next, usize::MAX).1, fits + 5);
    assert_eq!(drops.read(1_000, 5).0.len(), 0);
    let large = vec![("payload", Value::Payload(vec![0; BYTES_MIN as usize]))];
    drops.take(1, &entry(2_000, 0, "packet_in", large));
    let about = drops.about(0);
    assert!(drops.is_running() && about.left_out == 1, "it would fit nowhere");
    assert_eq!((about.first, about.next), (5, fits + 5), "and nothing makes room for it");
}

#[test]
fn what_is_read_at_once_ends_at_so_many_bytes() {
    let mut recording = Recording::new(1, spec(BYTES_MAX, WhenFull::Stop), 0, 1, 0);
    let payload = PAYLOAD_BYTES_MAX as usize;
    for at_us in 0..100 {
        let large = vec![("payload", Value::Payload(vec![0; payload]))];
        recording.take(1, &entry(at_us, 0, "packet_in", large));
    }
    recording.settle(SETTLES_US + 1_000);
    let (mut from, mut pages) = (0, 0);
    loop {
        let (entries, next) = recording.read(from, READ_MAX);
        assert!(entries.iter().map(|it| it.cost_bytes()).sum::<u64>() < READ_BYTES_MAX * 2);
        assert_eq!(next, from + entries.len() as u64);
        if entries.is_empty() {
            break;
        }
        (from, pages) = (next, pages + 1);
    }
    assert_eq!((from, pages), (100, 7));
}

#[test]
fn entries_of_several_shards_stand_in_the_order_of_time() {
    let mut recording = Recording::new(1, spec(BYTES_MAX, WhenFull::Stop), 0, 1, 0);
    for (at_us, shard) in [(30, 1), (50, 1), (10, 0), (30, 0), (60, 0)] {
        recording.take(1, &entry(at_us, shard, "delivered", Vec::new()));
    }
    recording.settle(SETTLES_US + 50);
    let (entries, next) = recording.read(0, 10);
    let order: Vec<_> = entries.iter().map(|it| (it.at_us, it.shard)).collect();
    assert_eq!(order, [(10, 0), (30, 0), (30, 1), (50, 1)]);
    recording.settle(SETTLES_US + 60);
    assert_eq!(recording.read(next, 10).0[0].at_us, 60);
}

struct Shards(Mutex<mpsc::Sender<Option<Watch>>>);

impl TellWatch for Shards {
    fn watch(&self, watch: Option<Watch>) {
        let told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.send(watch).expect("the test listens");
    }
}

fn traces() -> (Traces, mpsc::Receiver<Option<Watch>>, tracer::Ends) {
    let (ends, inbox) = channel();
    let (told, shards) = mpsc::channel();
    let shards_of = Box::new(Shards(Mutex::new(told)));
    let traces = Traces::start(inbox, shards_of, Clock::start(), vec!["mqtt".into()]);
    (traces.expect("a thread"), shards, ends)
}

#[test]
fn shards_are_told_what_is_watched_and_when_nothing_is() {
    let (traces, shards, _ends) = traces();
    let first = traces.begin(spec(BYTES_MIN, WhenFull::Stop)).expect("room");
    let watch = shards.recv().expect("told").expect("something");
    assert_eq!(watch.watched.subjects[0], Some(client("a")));
    let topic = Subject::Topic(TopicFilter::new(text("t/#")).unwrap());
    let second = Spec { payload_bytes: 500, ..Spec::new("topic".into(), topic.clone()) };
    let second = traces.begin(second).expect("room");
    let watch = shards.recv().expect("told").expect("something");
    assert_eq!(watch.watched.subjects[..2], [Some(client("a")), Some(topic.clone())]);
    assert_eq!(watch.payload_bytes, 500);
    assert_eq!(traces.stop(first).expect("it is there").state, State::Stopped);
    let watch = shards.recv().expect("told").expect("something");
    assert_eq!(watch.watched.subjects[..2], [None, Some(topic)]);
    assert!(traces.delete(second) && !traces.delete(second));
    assert!(shards.recv().expect("told").is_none(), "nothing is watched");
    assert_eq!(traces.list().len(), 1);
    assert!(traces.about(second).is_none() && traces.text(second, 0, 1).is_none());
}

#[test]
fn there_are_so_many_recordings_and_so_many_bytes() {
    let (traces, _shards, _ends) = traces();
    let wrong = [
        (Spec { seconds: 0, ..spec(BYTES_MIN, WhenFull::Stop) }, "1 to 86400 seconds"),
        (Spec { seconds: SECONDS_MAX + 1, ..spec(BYTES_MIN, WhenFull::Stop) }, "1 to 86400"),
        (spec(BYTES_MIN - 1, WhenFull::Stop), "holds 4096 to 67108864 bytes"),
        (spec(BYTES_MAX + 1, WhenFull::Stop), "holds 4096 to"),
        (Spec { name: String::new(), ..spec(BYTES_MIN, WhenFull::Stop) }, "name"),
        (Spec { payload_bytes: u32::MAX, ..spec(BYTES_MIN, WhenFull::Stop) }, "payload"),
        (
            Spec::new("x".into(), Subject::Topic(TopicFilter::new(text("$share/g/t")).unwrap())),
            "without $share",
        ),
    ];
    for (spec, why) in wrong {
        let error = traces.begin(spec).expect_err(why);
        assert!(error.contains(why), "{error}");
    }
    let large = spec(BYTES_MAX, WhenFull::Stop);
    let ids: Vec<_> = (0..4).map(|_| traces.begin(large.clone()).expect("room")).collect();
    let error = traces.begin(spec(BYTES_MIN, WhenFull::Stop)).expect_err("too many bytes");
    assert!(error.contains("hold more than"), "{error}");
    let _ = ids.iter().map(|&id| assert!(traces.delete(id))).count();
    for _ in 0..WATCHES_MAX {
        traces.begin(spec(BYTES_MIN, WhenFull::Stop)).expect("room");
    }
    let error = traces.begin(spec(BYTES_MIN, WhenFull::Stop)).expect_err("too many at once");
    assert!(error.contains("8 recordings run at once"), "{error}");
}

#[test]
fn what_the_channel_has_no_room_for_is_counted() {
    let (ends, inbox) = channel();
    let mut tracer = ends.of(petrel_shard::ShardIndex(0));
    let watched = Watched { number: 1, subjects: std::array::from_fn(|_| Some(client("a"))) };
    tracer.set(Some(Watch { watched: Arc::new(watched), payload_bytes: 0 }));
    let about = Comer { client_id: "a", user: None, whence: None };
    let conn = ConnId { index: 0, generation: 0 };
    let mut deny = || {
        tracer.denied(1, conn, &about, (ReasonCode::Banned, "banned"));
        tracer.flush();
    };
    (0..300).for_each(|_| deny());
    let batches = |inbox: &Inbox| -> (usize, u64) {
        let batches = inbox.receiver.try_iter().filter_map(|told| match told {
            Told::Batch(Batch { entries, left_out, .. }) => {
                Some((entries.len(), left_out.iter().map(|(_, count)| count).sum::<u64>()))
            }
            _ => None,
        });
        batches.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    };
    let (taken, left_out) = batches(&inbox);
    assert!(taken < 300 && left_out == 0, "{taken} {left_out}");
    deny();
    assert_eq!(batches(&inbox), (1, 300 - taken as u64));
}

/// A tracer, of a broker with one shard, of which somebody with this identifier is watched.
fn watching(ends: &tracer::Ends, number: u64, id: &str) -> (Tracer, Watch) {
    let watched = Watched { number, subjects: std::array::from_fn(|_| Some(client(id))) };
    let watch = Watch { watched: Arc::new(watched), payload_bytes: 0 };
    let mut tracer = ends.of(petrel_shard::ShardIndex(0));
    tracer.set(Some(watch.clone()));
    (tracer, watch)
}

fn deny(tracer: &mut Tracer, id: &str) {
    let about = Comer { client_id: id, user: None, whence: None };
    let conn = ConnId { index: 0, generation: 0 };
    tracer.denied(1, conn, &about, (ReasonCode::Banned, "banned"));
}

#[test]
fn what_waits_has_a_bound_in_bytes() {
    let (ends, inbox) = channel();
    let id = "a".repeat(60_000);
    let (mut tracer, _) = watching(&ends, 1, &id);
    let all = (64 << 20) / id.len();
    (0..all).for_each(|_| deny(&mut tracer, &id));
    tracer.flush();
    let mut taken = 0;
    for told in inbox.receiver.try_iter() {
        let Told::Batch(batch) = told else { continue };
        assert!(batch.entries.len() <= 5, "256 KiB and one");
        taken += batch.entries.len();
    }
    assert!(taken * id.len() <= 32 << 20 && taken * id.len() > 30 << 20, "{taken}");
    // What was taken has made room.
    deny(&mut tracer, &id);
    tracer.flush();
    let Ok(Told::Batch(batch)) = inbox.receiver.try_recv() else { panic!("a batch") };
    assert_eq!((batch.entries.len(), batch.left_out), (1, vec![(1, (all - taken) as u64)]));
}

#[test]
fn what_a_recording_has_missed_is_not_counted_for_the_next() {
    let (ends, inbox) = channel();
    let (mut tracer, watch) = watching(&ends, 1, "a");
    for _ in 0..300 {
        deny(&mut tracer, "a");
        tracer.flush();
    }
    // There is no room for that either.
    tracer.set(None);
    let taken = inbox.receiver.try_iter().count() as u64;
    let watched = Watched { number: 2, ..(*watch.watched).clone() };
    tracer.set(Some(Watch { watched: Arc::new(watched), ..watch }));
    deny(&mut tracer, "a");
    tracer.flush();
    let Ok(Told::Batch(batch)) = inbox.receiver.try_recv() else { panic!("a batch") };
    assert_eq!((batch.number, batch.left_out), (2, vec![(1, 300 - taken)]));
    let mut before = Recording::new(1, spec(BYTES_MIN, WhenFull::Stop), 0, 1, 0);
    let mut next = Recording::new(2, spec(BYTES_MIN, WhenFull::Stop), 0, 2, 0);
    for recording in [&mut before, &mut next] {
        recording.note_left_out(1, 300 - taken);
    }
    assert_eq!((before.about(0).left_out, next.about(0).left_out), (300 - taken, 0));
}

#[test]
fn a_payload_is_shown_as_far_as_its_recording_wants() {
    let view = View { begin: Duration::from_secs(1), listeners: &[], payload_bytes: 4 };
    let payload = Value::Payload("ab\u{e9}\u{e9}\n".as_bytes().to_vec());
    let fields = vec![("packet", Value::Word("PUBLISH")), ("payload", payload)];
    let entry = entry(1_234_567, 2, "packet_in", fields);
    let line = entry.text(&view);
    assert_eq!(line, "1970-01-01T00:00:02.234567Z shard 2 'a' -> PUBLISH 't' payload='ab\u{e9}'");
    let all = View { payload_bytes: 100, ..view };
    assert!(entry.text(&all).ends_with("payload='ab\u{e9}\u{e9}\\n'"), "{}", entry.text(&all));
    let cut = View { payload_bytes: 3, ..view };
    assert!(entry.text(&cut).ends_with("payload='ab'"), "{}", entry.text(&cut));
    let json = entry.json(&view);
    assert_eq!((&json["time_us"], &json["connection"]), (&2_234_567.into(), &"3.1".into()));
}
