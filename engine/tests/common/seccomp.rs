//! What container runtimes forbid.

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

/// Makes `io_uring_setup` fail for this thread and those it starts, as container runtimes do.
pub fn forbid_io_uring() {
    let rules = [(425, Vec::new())].into();
    let refuse = SeccompAction::Errno(1);
    let arch = TargetArch::try_from(std::env::consts::ARCH).expect("a known architecture");
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch).expect("a filter");
    let program: BpfProgram = filter.try_into().expect("a program");
    seccompiler::apply_filter(&program).expect("filters are allowed");
}
