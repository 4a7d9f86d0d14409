//! System calls of one function and all that it calls, as valgrind sees them: whoever makes them.

use std::process::Command;

/// The call that stands around what is counted; nothing else makes it.
const MARK: &str = " sys_getppid ";

/// Says to who traces that what is counted begins, or ends.
pub fn mark() {
    std::hint::black_box(std::os::unix::process::parent_id());
}

/// Runs this program with these arguments and returns the system calls between every two [`mark`]s.
///
/// # Errors
/// Valgrind or the program fails.
pub fn count(args: &[&str]) -> Result<u32, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new("valgrind")
        .args(["--tool=none", "--quiet", "--trace-syscalls=yes"])
        .arg(&program)
        .args(args)
        .output()
        .map_err(|error| format!("valgrind: {error}"))?;
    let trace = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let last = trace.lines().last().unwrap_or_default();
        return Err(format!("valgrind of {args:?}: {last}"));
    }
    match between_marks(&trace) {
        0 => Err(format!("nothing was counted in {args:?}")),
        calls => Ok(calls),
    }
}

fn between_marks(trace: &str) -> u32 {
    let (mut inside, mut calls) = (false, 0);
    for line in trace.lines().filter(|line| line.starts_with("SYSCALL[")) {
        if line.split_once(") ").is_some_and(|(_, said)| said.starts_with("...")) {
            // How one ended that was counted when it began.
            continue;
        }
        if line.contains(MARK) {
            inside = !inside;
        } else if inside {
            calls += 1;
        }
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_between_marks_is_counted() {
        let trace = "\
SYSCALL[9,1](1) sys_write ( 1, 0x1, 3 ) --> [async] ...
SYSCALL[9,1](110) sys_getppid ()[sync] --> Success(0x1)
SYSCALL[9,1](232) sys_epoll_wait ( 5, 0x1, 64, 0 ) --> [async] ...
SYSCALL[9,1](232) ... [async] --> Success(0x1)
what the program says
SYSCALL[9,1](110) sys_getppid ()[sync] --> Success(0x1)
SYSCALL[9,1](0) sys_read ( 6, 0x1, 3 ) --> [async] ...
";
        assert_eq!(between_marks(trace), 1);
    }
}
