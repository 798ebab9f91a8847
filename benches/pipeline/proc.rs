//! What processes have used, by the kernel's own books.

use std::fs::read_to_string;
use std::time::Instant;

use crate::support::host::children;

/// The kernel counts in these, on every machine that Linux runs on today.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds of a process, and of its children that have ended and were waited for.
#[derive(Clone, Copy, Default)]
pub(crate) struct Cpu {
    pub(crate) own: f64,
    pub(crate) reaped: f64,
}

/// None when the process has ended.
pub(crate) fn cpu(pid: u32) -> Option<Cpu> {
    let stat = read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // After the name, which may hold anything, comes field 3.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
    Some(Cpu {
        own: (ticks(14)? + ticks(15)?) / TICKS_PER_SECOND,
        reaped: (ticks(16)? + ticks(17)?) / TICKS_PER_SECOND,
    })
}

/// CPU seconds of children of this process that have ended.
pub(crate) fn reaped() -> f64 {
    cpu(std::process::id()).unwrap_or_default().reaped
}

/// The largest resident size so far, in bytes.
pub(crate) fn peak(pid: u32) -> Option<f64> {
    status(pid, "VmHWM:")
}

/// The resident size now, in bytes.
pub(crate) fn resident(pid: u32) -> Option<f64> {
    status(pid, "VmRSS:")
}

fn status(pid: u32, name: &str) -> Option<f64> {
    let status = read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.split_whitespace().next()?.parse::<f64>().ok()? * 1024.0)
}

/// Everything that belongs to the benchmark, besides a reader that is running.
#[derive(Clone, Copy)]
pub(crate) struct Family {
    pub(crate) postgres: u32,
    pub(crate) broker: u32,
}

impl Family {
    fn cpu(&self, reader: Option<u32>) -> f64 {
        let whole = |pid: u32| cpu(pid).map_or(0.0, |it| it.own + it.reaped);
        let heads = [self.postgres, self.broker, std::process::id()].into_iter().chain(reader).map(whole);
        let sessions = children(self.postgres).into_iter().filter_map(cpu).map(|it| it.own);
        heads.chain(sessions).sum()
    }
}

/// CPU seconds of the whole machine, and those that a hypervisor gave to others. With interrupts, which most kernels
/// book on the process that they meet as well; one that keeps them apart makes others seem busier than they are.
fn machine() -> (f64, f64) {
    let stat = read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<f64> = line.split_whitespace().skip(1).filter_map(|it| it.parse().ok()).collect();
    let seconds = |at: usize| ticks.get(at).copied().unwrap_or_default() / TICKS_PER_SECOND;
    let [user, nice, system, irq, softirq, steal] = [0, 1, 2, 5, 6, 7].map(seconds);
    (user + nice + system + irq + softirq, steal)
}

/// What others use from here on.
pub(crate) struct Others {
    family: Family,
    began: Instant,
    busy: f64,
    steal: f64,
    ours: f64,
}

impl Others {
    pub(crate) fn watch(family: Family) -> Others {
        let (busy, steal) = machine();
        Others { family, began: Instant::now(), busy, steal, ours: family.cpu(None) }
    }

    /// In cores, since the watch began. `reader` still runs, and was started since.
    pub(crate) fn cores(&self, reader: Option<u32>) -> f64 {
        let (busy, steal) = machine();
        let ours = self.family.cpu(reader) - self.ours;
        // Ticks of the one and of the other are not cut at the same moment: a little below zero is none.
        let others = (busy - self.busy - ours).max(0.0) + steal - self.steal;
        others / self.began.elapsed().as_secs_f64()
    }
}

/// Beyond so many cores of others' work a run is marked.
pub(crate) const DISTURBED: f64 = 0.25;
