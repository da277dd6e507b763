//! The choices that TriAdaptLoRA offers, under the names that stand in its files.

/// How rank is added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Variant {
    /// Several ranks at once: L and U are block triangular.
    #[default]
    Block,
    /// Rank by rank: L and U are triangular, each with the diagonal.
    Single,
}

/// Where a new block starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BlockStart {
    /// A and B normal with deviation 0.02, L and U at 0: no output changes.
    #[default]
    C0,
    /// A normal, B at 0, half the identity in both L and U: no output changes.
    HalfIdentity,
    /// All normal, except that B of the first rows is 0: outputs jump a little when ranks are added.
    Single,
}

/// How many matrices grow at a check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RankGrowth {
    /// The missing ranks times the share of training that is done.
    #[default]
    Linear,
    /// The missing ranks to the power of that share.
    Nonlinear,
    /// Always `top_k`.
    Fixed,
}

/// What scales the update.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ScaleMode {
    /// `alpha / reference_rank`
    #[default]
    Constant,
    /// `alpha / (rank + 1e-5)`: growing scales the existing update down.
    CurrentRank,
}

impl Variant {
    pub(super) const NAMES: [(&str, Variant); 2] = [("block", Variant::Block), ("single", Variant::Single)];
}

impl BlockStart {
    pub(super) const NAMES: [(&str, BlockStart); 3] =
        [("c0", BlockStart::C0), ("half_identity", BlockStart::HalfIdentity), ("single", BlockStart::Single)];
}

impl RankGrowth {
    pub(super) const NAMES: [(&str, RankGrowth); 3] =
        [("linear", RankGrowth::Linear), ("nonlinear", RankGrowth::Nonlinear), ("fixed", RankGrowth::Fixed)];
}

impl ScaleMode {
    pub(super) const NAMES: [(&str, ScaleMode); 2] =
        [("constant", ScaleMode::Constant), ("current_rank", ScaleMode::CurrentRank)];
}

/// The name of a choice in the file.
pub(super) fn name_of<T: PartialEq + Copy>(names: &[(&'static str, T)], choice: T) -> &'static str {
    names.iter().find(|(_, other)| *other == choice).expect("all are listed").0
}
