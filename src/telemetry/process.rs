//! The process as the system sees it, under the names that every Prometheus client gives it.
//!
//! Read from `/proc` (proc(5)), so nothing is told elsewhere.

use std::fs;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};

use super::exposition::count;

/// Time that the process has had on processors, in seconds.
pub(super) fn cpu_seconds() -> Option<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    let span = |time: nix::sys::time::TimeVal| {
        let micros = u64::try_from(time.tv_usec()).ok()?;
        Some(Duration::from_secs(u64::try_from(time.tv_sec()).ok()?) + Duration::from_micros(micros))
    };
    Some((span(usage.user_time())? + span(usage.system_time())?).as_secs_f64())
}

/// Memory that it has, in bytes.
pub(super) fn resident_bytes() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(count(kibibytes * 1024))
}

/// Files and sockets that are open.
pub(super) fn open_fds() -> Option<f64> {
    // One of them is the folder that is being read.
    let open = fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1);
    Some(count(open as u64))
}

/// How many there may be.
pub(super) fn max_fds() -> Option<f64> {
    getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| count(soft))
}

/// When it began, in seconds since 1970.
pub(super) fn started() -> Option<f64> {
    static STARTED: OnceLock<Option<f64>> = OnceLock::new();
    // Once, since it is counted back from now, and would wander with the clock.
    *STARTED.get_or_init(|| {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        // Behind the name, which may hold anything; 22nd of all, in ticks since the system began.
        let ticks: u64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
        let ticks_a_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten()?;
        let since_boot = count(ticks) / count(u64::try_from(ticks_a_second).ok()?);
        let uptime: f64 = fs::read_to_string("/proc/uptime").ok()?.split_whitespace().next()?.parse().ok()?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
        Some(now.as_secs_f64() - (uptime - since_boot))
    })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_system_knows_this_process() {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
        let age = now - started().unwrap();
        assert!((-1.0..3600.0).contains(&age), "{age}");
        assert_eq!(started(), started());
        assert!(cpu_seconds().unwrap() > 0.0 && cpu_seconds().unwrap() < 3600.0);
        assert!(resident_bytes().unwrap() > f64::from(1 << 20));
        assert!(open_fds().unwrap() >= 3.0 && max_fds().unwrap() >= open_fds().unwrap());
    }
}
