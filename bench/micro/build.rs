//! Tells the program which compiler built it, for which target: instruction counts depend on both.

use std::process::Command;

fn main() {
    let compiler = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let said = Command::new(compiler).arg("--version").output();
    let version = said.map(|said| String::from_utf8_lossy(&said.stdout).trim().to_owned());
    let target = std::env::var("TARGET").unwrap_or_default();
    println!("cargo::rustc-env=MICRO_RUSTC={}", version.unwrap_or_default());
    println!("cargo::rustc-env=MICRO_TARGET={target}");
    println!("cargo::rerun-if-changed=build.rs");
}
