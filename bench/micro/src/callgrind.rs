//! Instructions of one function and all that it calls, as callgrind counts them.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

/// The function that is measured, by the pattern that callgrind takes.
const MEASURED: &str = "petrel_micro::callgrind::measured*";

/// Runs the work. Callgrind counts what happens inside, and nothing else.
#[inline(never)]
pub fn measured(work: &mut dyn FnMut()) {
    work();
    // Or it would be a jump, and the function left before its work began.
    std::hint::black_box(work);
}

/// What valgrind calls itself; `None` if it is not installed.
pub fn version() -> Option<String> {
    let said = Command::new("valgrind").arg("--version").output().ok()?;
    said.status.success().then(|| String::from_utf8_lossy(&said.stdout).trim().to_owned())
}

/// Instructions inside [`measured`].
pub struct Instructions {
    /// Those of the program alone.
    pub own: u64,
    /// Those of the C library too, which differ from system to system.
    pub all: u64,
}

/// Runs this program with these arguments and returns the instructions inside [`measured`], those of
/// the program alone.
///
/// # Errors
/// Valgrind or the program fails.
pub fn count(args: &[&str]) -> Result<u64, String> {
    count_all(args).map(|counted| counted.own)
}

/// The same, with those of the C library.
///
/// # Errors
/// Valgrind or the program fails.
pub fn count_all(args: &[&str]) -> Result<Instructions, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    match instructions(&profile(&program, args)?, &program) {
        Instructions { own: 0, .. } => Err(format!("nothing was counted in {args:?}")),
        instructions => Ok(instructions),
    }
}

/// Instructions by function, those of what it calls left out, the most first; the C library's are there too.
///
/// # Errors
/// Valgrind or the program fails.
pub fn by_function(args: &[&str]) -> Result<Vec<(String, u64)>, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut functions: Vec<_> = functions(&profile(&program, args)?).into_iter().collect();
    functions.sort_by_key(|(name, cost)| (std::cmp::Reverse(*cost), name.clone()));
    Ok(functions)
}

/// What callgrind says of a run of this program.
fn profile(program: &Path, args: &[&str]) -> Result<String, String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let file = folder.path().join("callgrind.out");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--quiet", "--collect-atstart=no"])
        .arg(format!("--toggle-collect={MEASURED}"))
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(program)
        .args(args)
        .output()
        .map_err(|error| format!("valgrind: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("valgrind of {args:?}: {said}"));
    }
    std::fs::read_to_string(&file).map_err(|error| error.to_string())
}

/// The instructions of a profile by function.
fn functions(profile: &str) -> HashMap<String, u64> {
    let mut costs: HashMap<String, u64> = HashMap::new();
    each_cost(profile, |_, function, cost| *costs.entry(function.to_owned()).or_default() += cost);
    costs
}

/// The instructions of a profile, and those that are in the code of one object.
fn instructions(profile: &str, object: &Path) -> Instructions {
    let mut total = Instructions { own: 0, all: 0 };
    each_cost(profile, |place, _, cost| {
        total.all += cost;
        total.own += if Path::new(place) == object { cost } else { 0 };
    });
    total
}

/// Calls `take` with each cost, and the object and the function that it is in.
///
/// Costs stand in lines that begin with a position. The line after `calls=` repeats the cost of what
/// is called, which has lines of its own. Names are given a number where they stand first.
fn each_cost<'a>(profile: &'a str, mut take: impl FnMut(&'a str, &'a str, u64)) {
    let (mut objects, mut functions) = (HashMap::new(), HashMap::new());
    let (mut object, mut function, mut called) = ("", "", false);
    for line in profile.lines() {
        let Some((key, named)) = line.split_once('=').filter(|(key, _)| !key.contains(' ')) else {
            let is_cost = line.starts_with(|c: char| c.is_ascii_digit() || "+-*".contains(c));
            let cost = line.split_whitespace().nth(1).and_then(|cost| cost.parse::<u64>().ok());
            if is_cost && !std::mem::take(&mut called) {
                take(object, function, cost.unwrap_or(0));
            }
            continue;
        };
        let names: &mut HashMap<&str, &str> = match key {
            "ob" | "cob" => &mut objects,
            "fn" | "cfn" => &mut functions,
            _ => {
                called |= key == "calls";
                continue;
            }
        };
        let (number, name) = named.split_once(' ').unwrap_or((named, ""));
        if !name.is_empty() {
            names.insert(number, name);
        }
        let name = names.get(number).copied().unwrap_or_default();
        match key {
            "ob" => object = name,
            "fn" => function = name,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILE: &str = "\
version: 1
positions: line
events: Ir

ob=(1) /lib/libc.so.6
fl=(1) ???
fn=(1) memcpy
0 1000

ob=(2) /bin/petrel-micro
fl=(1)
fn=(2) measured
0 7
cob=(1)
cfn=(1)
calls=3 0
0 1000
+2 20
cob=(2)
cfn=(3) inner
calls=1 0
* 400

fn=(3)
-1 400

ob=(1)
fn=(4) memset
0 5
totals: 1432
";

    #[test]
    fn the_cost_of_callees_and_of_other_objects_is_left_out() {
        let counted = instructions(PROFILE, Path::new("/bin/petrel-micro"));
        assert_eq!((counted.own, counted.all), (427, 1432));
        assert_eq!(instructions(PROFILE, Path::new("/lib/libc.so.6")).own, 1005);
    }

    #[test]
    fn each_function_has_its_own_cost() {
        let functions = functions(PROFILE);
        assert_eq!((functions["memcpy"], functions["measured"]), (1000, 27));
        assert_eq!((functions["inner"], functions["memset"]), (400, 5));
    }
}
