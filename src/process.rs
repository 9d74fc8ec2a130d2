//! The process as the system sees it. Owns its limits and its privacy; refuses to know what it runs.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the number of files and sockets that the process may have open as far as the system lets it. How many that is;
/// `None` for as many as there may be.
pub fn raise_open_files_max() -> io::Result<Option<u64>> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return Ok(maximum);
    }
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, raised)?;
    Ok(maximum)
}

/// Keeps the memory, which holds secrets and bodies, from core dumps and from other processes of the same user.
#[cfg(target_os = "linux")]
pub fn hide_memory() -> io::Result<()> {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Keeps the memory, which holds secrets and bodies, from core dumps.
#[cfg(not(target_os = "linux"))]
pub fn hide_memory() -> io::Result<()> {
    let maximum = getrlimit(Resource::Core).maximum;
    let none = Rlimit {
        current: Some(0),
        maximum,
    };
    Ok(setrlimit(Resource::Core, none)?)
}
