//! All choices of a simulation, from one seed.

use std::time::Duration;

/// How much goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weather {
    /// Nothing: a stop repeats nothing then.
    Calm,
    /// Now and then something.
    Gusts,
    /// Nearly every life ends badly.
    Storm,
}

#[derive(Debug)]
pub(crate) struct Dice {
    random: fastrand::Rng,
    pub(crate) weather: Weather,
    /// No fault is begun any more.
    pub(crate) healed: bool,
}

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let weather = match random.u8(0..8) {
            0 => Weather::Calm,
            1..=4 => Weather::Gusts,
            _ => Weather::Storm,
        };
        Dice { random, weather, healed: false }
    }

    /// Whether a fault happens that happens once in so many storms.
    pub(crate) fn fault(&mut self, once_in: u32) -> bool {
        let scale = match self.weather {
            Weather::Calm => return false,
            Weather::Gusts => 5,
            Weather::Storm => 1,
        };
        !self.healed && self.one_in(once_in * scale)
    }

    /// Nothing fails, and nothing takes long.
    pub(crate) fn is_calm(&self) -> bool {
        self.healed || self.weather == Weather::Calm
    }

    pub(crate) fn one_in(&mut self, count: u32) -> bool {
        self.random.u32(0..count) == 0
    }

    /// A number below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.random.u64(0..end)
    }

    pub(crate) fn index(&mut self, end: usize) -> usize {
        self.random.usize(0..end)
    }

    /// A number from 1 to `most`, small ones more often.
    pub(crate) fn size(&mut self, most: usize) -> usize {
        let limit = self.random.usize(1..=most);
        self.random.usize(1..=limit)
    }

    /// A time up to `most`, in whole milliseconds as the runtime's clock counts.
    pub(crate) fn millis(&mut self, most: u64) -> Duration {
        Duration::from_millis(self.random.u64(0..=most))
    }

    /// Mostly a short time, sometimes a long one.
    pub(crate) fn latency(&mut self, short: u64, long: u64) -> Duration {
        if self.one_in(20) { self.millis(long) } else { self.millis(short) }
    }

    pub(crate) fn seed(&mut self) -> u64 {
        self.random.u64(..)
    }
}
