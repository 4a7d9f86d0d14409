//! `petrelctl` as a child process, against brokers that follow a script and against Petrel.

mod access;
mod back_ends;
mod broker;
mod command_line;
mod documents;
mod elsewhere;
mod operate;
mod pages;
mod probe;
mod publish;
mod secure;
mod storage;
mod stress;
mod subscribe;
mod support;
mod troubleshoot;
