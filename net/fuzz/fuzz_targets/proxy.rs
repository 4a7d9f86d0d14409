#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/fuzz_bodies/mod.rs"]
mod fuzz_bodies;
#[path = "../../tests/compact_rig/mod.rs"]
mod rig;

fuzz_target!(|input: &[u8]| fuzz_bodies::proxy(input));
