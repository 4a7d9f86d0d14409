//! The compact record layer against rustls, against forged records and against other people's tools.

#[path = "../compact_rig/mod.rs"]
mod rig;

mod differential;
mod handover;
mod interop;
mod refusals;
mod renewal;
mod streams;
