//! `petrelctl` as a child process, against brokers that follow a script.

mod command_line;
mod publish;
mod secure;
mod subscribe;
mod support;
