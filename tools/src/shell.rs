//! `petrelctl completions` and `petrelctl man`: what a package brings along, made from the command line's
//! own definition.

use std::fs;
use std::path::PathBuf;

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::CommandLine;
use crate::failure::Failure;

/// Print what makes a shell complete this program's command lines.
#[derive(clap::Args)]
#[command(
    after_help = "bash reads it from ~/.local/share/bash-completion/completions/petrelctl, fish from \
                        ~/.config/fish/completions/petrelctl.fish, zsh from a file _petrelctl in a folder of \
                        its fpath."
)]
pub struct CompletionsArguments {
    /// For which shell.
    shell: Shell,
}

impl CompletionsArguments {
    /// Prints the script.
    pub fn run(&self) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut CommandLine::command(), "petrelctl", &mut script);
        crate::print(&String::from_utf8_lossy(&script))
    }
}

/// Write man pages, one for each command, into a folder.
#[derive(clap::Args)]
#[command(after_help = "The page of the broker itself is what `petrel --man` prints.")]
pub struct ManArguments {
    /// Where they go; it is made if it is not there.
    folder: PathBuf,
}

impl ManArguments {
    /// Writes the pages.
    pub fn run(&self) -> Result<(), Failure> {
        let written = fs::create_dir_all(&self.folder)
            .and_then(|()| clap_mangen::generate_to(CommandLine::command(), &self.folder));
        written.map_err(|error| {
            Failure::new(format!("cannot write man pages into {}: {error}", self.folder.display()))
        })
    }
}
