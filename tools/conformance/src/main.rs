//! Writes `docs/CONFORMANCE.md`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use petrel_conformance::{Tree, document, root, statements};

fn main() -> ExitCode {
    let tree = match Tree::scan(&root()) {
        Ok(tree) => tree,
        Err(error) => {
            eprintln!("petrel-conformance: {error}");
            return ExitCode::FAILURE;
        }
    };
    let path = root().join("docs/CONFORMANCE.md");
    if let Err(error) = std::fs::write(&path, document(&statements(), &tree)) {
        eprintln!("petrel-conformance: {}: {error}", path.display());
        return ExitCode::FAILURE;
    }
    println!("docs/CONFORMANCE.md is written");
    ExitCode::SUCCESS
}
