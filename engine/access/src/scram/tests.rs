use super::*;

const CONN: ConnId = ConnId { index: 7, generation: 1 };
/// Of RFC 7677.
const SALT: &str = "W22ZaJ0SNY7soEsUEjb6gQ==";

fn verifier(password: &str) -> Verifier {
    let salt = STANDARD.decode(SALT).unwrap();
    Verifier::of(password.as_bytes(), &salt, NonZeroU32::new(4096).unwrap())
}

fn scram(lines: &str) -> Scram {
    let users = Users::parse(lines).unwrap();
    Scram::new(vec![None, Some(Arc::new(users))], [1, 2])
}

/// What a client sends last, whatever it knows.
fn last(password: &str, first: &str, challenge: &str) -> String {
    let mut fields = challenge.split(',').map(|it| &it[2..]);
    let (nonce, salt, iterations) =
        (fields.next().unwrap(), fields.next().unwrap(), fields.next().unwrap());
    let (salt, iterations) = (STANDARD.decode(salt).unwrap(), iterations.parse().unwrap());
    let mut salted = [0; KEY_BYTES];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, &salt, password.as_bytes(), &mut salted);
    let key = hmac(&salted, b"Client Key");
    let header_bytes = first.match_indices(',').nth(1).unwrap().0 + 1;
    let without = format!("c={},r={nonce}", STANDARD.encode(&first[..header_bytes]));
    let signed = format!("{},{challenge},{without}", &first[header_bytes..]);
    let signature = hmac(&hash(&key), signed.as_bytes());
    let proof: Vec<u8> = key.iter().zip(signature).map(|(a, b)| a ^ b).collect();
    format!("{without},p={}", STANDARD.encode(proof))
}

fn challenge(scram: &mut Scram, conn: ConnId, first: &str) -> Option<String> {
    match scram.step((conn, 1), Some(first.as_bytes()), true) {
        Verdict::Continue { data } => Some(String::from_utf8(data.unwrap().to_vec()).unwrap()),
        _ => None,
    }
}

/// The user who is let in, or why nobody is.
fn exchange(scram: &mut Scram, first: &str, password: &str) -> Result<String, ReasonCode> {
    let challenge = challenge(scram, CONN, first).ok_or(ReasonCode::Success)?;
    let last = last(password, first, &challenge);
    match scram.step((CONN, 1), Some(last.as_bytes()), false) {
        Verdict::Accept { identity: Some(it), .. } => Ok(it.user.as_str().to_owned()),
        Verdict::Refuse { reason } => Err(reason),
        other => panic!("{other:?}"),
    }
}

/// Nothing that a stranger is told differs from what a user is told, at any shard and after a restart.
#[test]
fn a_stranger_looks_like_a_user() {
    let lines = format!("alice:{}", verifier("pencil"));
    let told = |scram: &mut Scram, user: &str| {
        let challenge = challenge(scram, CONN, &format!("n,,n={user},r=abc")).unwrap();
        challenge.split_once(",s=").unwrap().1.to_owned()
    };
    let mut shards = [scram(&lines), scram(&lines)];
    let each: Vec<_> = shards.iter_mut().map(|shard| told(shard, "nobody")).collect();
    assert_eq!(each[0], each[1]);
    assert!(each[0].ends_with(",i=4096"), "{each:?}");
    assert_ne!(told(&mut shards[0], "somebody"), each[0]);
    let users = shards[0].listeners.clone();
    assert_ne!(told(&mut Scram::new(users, [1, 3]), "nobody"), each[0], "it is secret");
}

/// Half an exchange goes with its connection, and with nobody else's.
#[test]
fn who_goes_in_the_middle_leaves_nothing() {
    let mut scram = scram(&format!("alice:{}", verifier("pencil")));
    for index in 0..1000 {
        let conn = ConnId { index, generation: 2 };
        challenge(&mut scram, conn, "n,,n=alice,r=abc").unwrap();
    }
    for index in 0..1000 {
        scram.forget(ConnId { index, generation: 1 });
    }
    assert_eq!(scram.begun.len(), 1000);
    for index in 0..1000 {
        scram.forget(ConnId { index, generation: 2 });
    }
    assert_eq!((scram.begun.len(), scram.begun.capacity()), (0, 0));
}

/// The example of RFC 7677, section 3. Its server's nonce is no base64, so its end is put in behind our own.
#[test]
fn the_example_of_the_standard() {
    let key = verifier("pencil");
    let signed = "n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                  s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,\
                  r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    let proof = STANDARD.decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=").unwrap();
    let signature = hmac(&key.stored_key, signed.as_bytes());
    let client_key: Vec<u8> = proof.iter().zip(signature).map(|(a, b)| a ^ b).collect();
    assert_eq!(hash(&client_key), key.stored_key);
    let own = STANDARD.encode(hmac(&key.server_key, signed.as_bytes()));
    assert_eq!(own, "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
}

#[test]
fn who_knows_the_password_is_let_in_and_nobody_else() {
    let line = format!("alice:{}:staff,night\nb,o=b:{}\n", verifier("pencil"), verifier("x"));
    let mut scram = scram(&line);
    assert_eq!(exchange(&mut scram, "n,,n=alice,r=abc", "pencil"), Ok("alice".into()));
    assert_eq!(exchange(&mut scram, "y,,n=alice,r=abc", "pencil"), Ok("alice".into()));
    assert_eq!(exchange(&mut scram, "n,a=alice,n=alice,r=abc", "pencil"), Ok("alice".into()));
    assert_eq!(exchange(&mut scram, "n,,n=b=2Co=3Db,r=abc,x=y", "x"), Ok("b,o=b".into()));
    const NO: Result<String, ReasonCode> = Err(ReasonCode::NotAuthorized);
    assert_eq!(exchange(&mut scram, "n,,n=alice,r=abc", "Pencil"), NO);
    assert_eq!(exchange(&mut scram, "n,,n=alice,r=abc", ""), NO);
    assert_eq!(exchange(&mut scram, "n,,n=nobody,r=abc", "pencil"), NO);
    assert!(scram.begun.is_empty());
}

#[test]
fn what_is_no_exchange_is_refused() {
    let mut scram = scram(&format!("alice:{}\n", verifier("pencil")));
    for first in [
        "",
        "n",
        "n,,",
        "n,,n=alice",
        "n,,n=,r=abc",
        "n,,n=alice,r=",
        "n,,n=al=ice,r=abc",
        "p=tls-unique,,n=alice,r=abc",
        "n,a=bob,n=alice,r=abc",
        "n,,m=1,n=alice,r=abc",
        "n,,n=alice,r=a c",
        "n,,n=ali\0ce,r=abc",
        "x,,n=alice,r=abc",
    ] {
        assert_eq!(challenge(&mut scram, CONN, first), None, "{first:?}");
    }
    assert_eq!(challenge(&mut scram, CONN, &format!("n,,n=alice,r={}", "a".repeat(2000))), None);
    let none = scram.step((CONN, 1), None, true);
    assert!(matches!(none, Verdict::Refuse { reason: ReasonCode::NotAuthorized }), "{none:?}");
    // No users at this listener.
    let elsewhere = scram.step((CONN, 0), Some(b"n,,n=alice,r=abc"), true);
    assert!(matches!(elsewhere, Verdict::Refuse { reason: ReasonCode::BadAuthenticationMethod }));
}

#[test]
fn a_proof_is_good_for_one_exchange_of_one_connection() {
    let mut scram = scram(&format!("alice:{}\n", verifier("pencil")));
    let first = "n,,n=alice,r=abc";
    let said = challenge(&mut scram, CONN, first).unwrap();
    let proof = last("pencil", first, &said);
    let refused = |verdict: Verdict| matches!(verdict, Verdict::Refuse { .. });
    // Another connection, a later one at the same place, and one that has not begun.
    let next = ConnId { generation: 2, ..CONN };
    assert!(refused(scram.step((next, 1), Some(proof.as_bytes()), false)));
    assert!(refused(scram.step((CONN, 1), Some(proof.as_bytes()), false)), "the exchange is over");
    challenge(&mut scram, CONN, first).unwrap();
    assert!(refused(scram.step((CONN, 1), Some(proof.as_bytes()), false)), "another nonce");
    // What is not bound as it was begun, and proofs of another length.
    let said = challenge(&mut scram, CONN, first).unwrap();
    let good = last("pencil", first, &said);
    for bad in [
        good.replace("c=biws", "c=eSws"),
        good.replace(",p=", ",p=AAAA"),
        good.replace(",p=", ",q="),
    ] {
        assert!(refused(scram.step((CONN, 1), Some(bad.as_bytes()), false)), "{bad}");
        challenge(&mut scram, CONN, first).unwrap();
    }
}

#[test]
fn a_stranger_gets_the_same_salt_each_time_and_no_other_word() {
    let mut scram = scram(&format!("alice:{}\n", verifier("pencil")));
    let salt = |challenge: String| challenge.split(',').nth(1).unwrap().to_owned();
    let one = salt(challenge(&mut scram, CONN, "n,,n=nobody,r=abc").unwrap());
    let other = salt(challenge(&mut scram, CONN, "n,,n=nobody,r=xyz").unwrap());
    let third = salt(challenge(&mut scram, CONN, "n,,n=somebody,r=abc").unwrap());
    assert!(one == other && one != third && one.len() == third.len());
}

#[test]
fn files_say_where_they_are_wrong_without_what_stands_there() {
    let good = Verifier::make(b"secret").unwrap();
    assert_eq!(Verifier::parse(&good.to_string()), Ok(good.clone()));
    assert!(!format!("{good:?}").contains("scram"));
    let weak = good.to_string().replace("$15000$", "$100$");
    for bad in ["secret", "$scram-sha-256$", "$scram-sha-256$15000$AA==$AA==$AA==", &weak] {
        let text = format!("# users\n\nalice:{bad}\n");
        let [(3, why)] = &Users::parse(&text).unwrap_err()[..] else { panic!("{bad}") };
        assert!(!why.contains("secret"), "{why}");
    }
    let twice = format!("a:{good}\na:{good}\n:{good}\nb\n");
    let lines: Vec<_> = Users::parse(&twice).unwrap_err().into_iter().map(|(at, _)| at).collect();
    assert_eq!(lines, [2, 3, 4]);
}
