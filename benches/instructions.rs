//! Does one part so many times, for `scripts/instructions` to count: `instructions PART TIMES`. Without arguments it
//! names the parts, and how many rows each takes at once.

// The rows are our own.
#![allow(clippy::expect_used, clippy::panic)]

#[path = "parts/work.rs"]
mod work;

use work::{Material, PARTS, ROWS};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|it| it != "--bench").collect();
    let [name, times] = arguments.as_slice() else {
        PARTS.iter().for_each(|(name, _)| println!("{name} {ROWS}"));
        return;
    };
    let (_, part) = PARTS.iter().find(|(it, _)| it == name).expect("a part");
    let material = Material::new();
    (0..times.parse().expect("a number")).for_each(|_: u32| part(&material));
}
