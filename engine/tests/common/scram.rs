//! The client's side of SCRAM-SHA-256.

use std::num::NonZeroU32;

use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

fn sign(key: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref().to_vec()
}

/// What a client with this password says last.
pub fn last(password: &str, first: &str, challenge: &str) -> String {
    let fields: Vec<&str> = challenge.split(',').map(|field| &field[2..]).collect();
    let [nonce, salt, iterations] = fields[..] else { panic!("{challenge}") };
    let salt = STANDARD.decode(salt).expect("base64");
    let iterations: NonZeroU32 = iterations.parse().expect("a number");
    let mut salted = [0; 32];
    let algorithm = pbkdf2::PBKDF2_HMAC_SHA256;
    pbkdf2::derive(algorithm, iterations, &salt, password.as_bytes(), &mut salted);
    let key = sign(&salted, b"Client Key");
    let header = first.match_indices(',').nth(1).expect("a header").0 + 1;
    let without = format!("c={},r={nonce}", STANDARD.encode(&first[..header]));
    let signed = format!("{},{challenge},{without}", &first[header..]);
    let stored = digest::digest(&digest::SHA256, &key);
    let signature = sign(stored.as_ref(), signed.as_bytes());
    let proof: Vec<u8> = key.iter().zip(signature).map(|(a, b)| a ^ b).collect();
    format!("{without},p={}", STANDARD.encode(proof))
}
