//! What was told lately, so that a fault that lasts is told now and then and not all the time. It outlives both ends: a
//! fault that ends life after life is still the same one.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// After this long a fault is told again; then each time after as long as it has lasted.
const FIRST_AGAIN: Duration = Duration::from_secs(60);
/// At most so long lies between.
const LONGEST_AGAIN: Duration = Duration::from_secs(3600);
/// What was not met for so long is a new fault.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);
/// A fault that comes and goes is told so often each time; from then on now and then.
const MOST_TIMES: u32 = 10;
/// How many are kept.
const MOST: usize = 64;

/// The list, by a name for each fault.
#[derive(Debug, Default)]
pub struct Told(Mutex<HashMap<String, Fault>>);

#[derive(Debug)]
struct Fault {
    /// Since when it lasts; `None` while it does not.
    since: Option<Instant>,
    /// When it was met last.
    met: Instant,
    /// When it is told again, however often it comes and goes.
    due: Instant,
    /// How long lies between that and the time after.
    gap: Duration,
    /// How often its beginning was told.
    times: u32,
    /// Whether it was, this time.
    is_told: bool,
    /// How often it was met without being told.
    untold: u64,
}

/// A fault that is to be told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// How long it has lasted.
    pub lasted: Duration,
    /// How often it was met since it was told last, if it was.
    pub untold: Option<u64>,
}

impl Told {
    /// Whether a fault that is met now is to be told: at first, after one minute, after two, four and so on, and at least
    /// once an hour.
    pub fn meet(&self, what: &str) -> Option<News> {
        self.meet_after(what, Duration::ZERO)
    }

    /// The same for one that is known to have lasted for so long already.
    pub fn meet_after(&self, what: &str, lasted: Duration) -> Option<News> {
        let (mut faults, now) = (self.faults(), Instant::now());
        faults.retain(|name, fault| name == what || now - fault.met < FORGOTTEN_AFTER);
        if faults.len() >= MOST && !faults.contains_key(what) {
            let oldest = faults.iter().min_by_key(|(_, fault)| fault.met).map(|(name, _)| name.clone());
            oldest.map(|name| faults.remove(&name));
        }
        let fault = faults.entry(what.to_owned()).or_insert_with(|| Fault::new(now));
        if now - fault.met >= FORGOTTEN_AFTER {
            *fault = Fault::new(now);
        }
        fault.meet(now, lasted)
    }

    /// The same for what happens and does not last: the first times are told, and then only now and then until it was quiet
    /// for a while.
    pub fn happen(&self, what: &str) -> Option<News> {
        let news = self.meet(what);
        self.over(what);
        news
    }

    /// The fault is over. How long it lasted, if it was told.
    pub fn over(&self, what: &str) -> Option<Duration> {
        let (mut faults, now) = (self.faults(), Instant::now());
        let fault = faults.get_mut(what)?;
        let since = fault.since.take()?;
        fault.met = now;
        std::mem::take(&mut fault.is_told).then(|| now - since)
    }

    fn faults(&self) -> MutexGuard<'_, HashMap<String, Fault>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fault {
    fn new(now: Instant) -> Fault {
        let gap = FIRST_AGAIN;
        Fault { since: None, met: now, due: now, gap, times: 0, is_told: false, untold: 0 }
    }

    fn meet(&mut self, now: Instant, lasted: Duration) -> Option<News> {
        self.met = now;
        let begins = self.since.is_none();
        let began = now.checked_sub(lasted).unwrap_or(now);
        let since = self.since.map_or(began, |since| since.min(began));
        self.since = Some(since);
        let is_due = now >= self.due;
        let is_new = begins && self.times < MOST_TIMES;
        if !(is_due || is_new) {
            self.untold += 1;
            return None;
        }
        if is_due && self.times > 0 {
            self.gap = (self.gap * 2).min(LONGEST_AGAIN);
        }
        self.times += u32::from(begins);
        self.is_told = true;
        self.due = now + self.gap;
        let untold = Some(std::mem::take(&mut self.untold)).filter(|untold| *untold > 0);
        Some(News { lasted: now - since, untold })
    }
}

/// In whole milliseconds, as lines of the log have it.
#[must_use]
pub(crate) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn pass(seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_fault_that_lasts_is_told_at_growing_intervals_and_its_end_once() {
        let told = Told::default();
        let mut at = Vec::new();
        for second in 0..4 * 3600_u64 {
            if let Some(news) = told.meet("away") {
                assert_eq!(news.lasted.as_secs(), second);
                at.push(second);
            }
            pass(1).await;
        }
        assert_eq!(at, [0, 60, 180, 420, 900, 1860, 3780, 7380, 10980]);
        assert_eq!(told.over("away"), Some(Duration::from_secs(4 * 3600)));
        assert_eq!(told.over("away"), None);
        assert_eq!(told.over("nothing"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_comes_and_goes_is_told_each_time_until_it_is_a_flood() {
        let told = Told::default();
        let (mut begun, mut ended) = (0, 0);
        for _ in 0..1000 {
            begun += u32::from(told.meet("flaps").is_some());
            pass(1).await;
            ended += u32::from(told.over("flaps").is_some());
        }
        assert!((10..20).contains(&begun), "{begun}");
        assert_eq!(begun, ended, "each that was told has its end");
        let parked = (0..1000).filter(|_| told.happen("parked").is_some()).count();
        assert_eq!(parked, 10);
        pass(600).await;
        assert!(told.meet("flaps").is_some(), "long forgotten");
        assert_eq!(told.meet("flaps"), None);
        pass(60).await;
        assert_eq!(told.meet("flaps"), Some(News { lasted: Duration::from_secs(60), untold: Some(1) }));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_began_before_it_was_met_has_lasted_since_then() {
        let told = Told::default();
        pass(100).await;
        let lasted = Duration::from_secs(12);
        assert_eq!(told.meet_after("still", lasted), Some(News { lasted, untold: None }));
        pass(1).await;
        assert_eq!(
            told.meet_after("still", Duration::from_secs(2)),
            None,
            "it began again, or is known less well"
        );
        pass(1).await;
        assert_eq!(told.over("still"), Some(Duration::from_secs(14)), "the earlier of both counts");
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_are_kept_than_a_few() {
        let told = Told::default();
        for name in 0..1000 {
            assert!(told.meet(&name.to_string()).is_some());
        }
        assert!(told.faults().len() <= MOST);
    }
}
