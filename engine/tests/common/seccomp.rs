//! What container runtimes forbid.

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

/// The numbers of `io_uring_setup`, `io_uring_enter` and `io_uring_register`, the same everywhere.
pub const IO_URING_CALLS: [i64; 3] = [425, 426, 427];

/// Makes `io_uring_setup` fail for this thread and those it starts, as container runtimes do.
pub fn forbid_io_uring() {
    forbid(IO_URING_CALLS[0]);
}

/// Makes a system call fail for this thread and those it starts.
pub fn forbid(call: i64) {
    let rules = [(call, Vec::new())].into();
    let refuse = SeccompAction::Errno(1);
    let arch = TargetArch::try_from(std::env::consts::ARCH).expect("a known architecture");
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch).expect("a filter");
    let program: BpfProgram = filter.try_into().expect("a program");
    seccompiler::apply_filter(&program).expect("filters are allowed");
}
