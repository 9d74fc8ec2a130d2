//! Chance that can be repeated. Owns turning a seed and the name of an occasion into a number, so that what happens does
//! not depend on which task runs first; refuses to know what is decided.

/// A seed.
#[derive(Clone, Copy, Debug)]
pub struct Chance(u64);

/// What a number is for: numbers of different purposes have nothing to do with each other.
#[derive(Clone, Copy, Debug)]
pub enum Purpose {
    EndpointId,
    EventId,
    RequestId,
    ApiFault,
    AnswerLost,
    UnknownType,
    Lose,
    Duplicate,
    Reorder,
    Delay,
    Slow,
}

impl Chance {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The number for an occasion. Occasions that differ in their last part alone have different numbers.
    pub fn number(self, purpose: Purpose, occasion: &[u64]) -> u64 {
        let start = mix(self.0 ^ mix(purpose as u64));
        occasion.iter().fold(start, |state, &part| mix(state ^ part))
    }

    /// A number of 0 ≤ x < 1 for an occasion.
    pub fn fraction(self, purpose: Purpose, occasion: &[u64]) -> f64 {
        // The 53 bits that an f64 holds exactly.
        (self.number(purpose, occasion) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// SplitMix64's step: every bit of the number depends on every bit of the state, and no two states share a number.
fn mix(state: u64) -> u64 {
    let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_are_spread_evenly_and_differ_between_purposes() {
        let chance = Chance::new(7);
        let below_a_tenth = (0..10_000)
            .filter(|&n| chance.fraction(Purpose::Lose, &[n, 1]) < 0.1)
            .count();
        assert!((900..1100).contains(&below_a_tenth), "{below_a_tenth}");
        assert_ne!(
            chance.number(Purpose::Lose, &[1]),
            chance.number(Purpose::Slow, &[1])
        );
    }
}
