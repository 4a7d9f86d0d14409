//! `petrelctl` as a child process, against brokers that follow a script and against Petrel.

mod access;
mod back_ends;
mod broker;
mod command_line;
mod operate;
mod publish;
mod secure;
mod storage;
mod subscribe;
mod support;
